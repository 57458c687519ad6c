"""Telling of work that takes longer than it ever should, while it does: what a hang leaves in a log.

Owns the timer. Leaves bounds, and giving up, to the work itself.
Invariant: work that ends in time says nothing and leaves nothing behind.
Failure behaviour: none; it only watches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

OVERDUE_S = 5.0


@contextmanager
def told_if_overdue(log: logging.Logger, doing: Callable[[], str], after_s: float = OVERDUE_S) -> Iterator[None]:
    """Warn once when what runs inside takes longer than ``after_s`` seconds, and say when it has ended after all.

    Args:
        log: where to.
        doing: says what is being done and how far it got; asked only when there is something to tell.
        after_s: seconds, more than 0. Needs a running loop.
    """
    loop = asyncio.get_running_loop()
    began = loop.time()

    def tell() -> None:
        log.warning("%s takes longer than %g s and goes on", doing(), after_s)

    timer = loop.call_later(after_s, tell)
    try:
        yield
    finally:
        timer.cancel()
        took_s = loop.time() - began
        if took_s >= after_s:
            log.warning("%s ended after %.1f s", doing(), took_s)
