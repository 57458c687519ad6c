"""Preparation of the transport tests.

libuv makes one pipe per process when its first loop starts and keeps it: a loop started here, once, keeps that pipe
from looking like a leak of the first test that uses uvloop.
"""

from __future__ import annotations

import uvloop

uvloop.new_event_loop().close()


async def _nothing() -> None:
    return None


uvloop.run(_nothing())
