"""Identifiers: how they are made and what they look like.

Owns the shape of every id. Leaves their meaning to the modules that use them.
Invariant: ids are plain strings, safe in keys, paths and labels; a derived id depends only on its parts.
Failure behaviour: none.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import zlib
from typing import NewType

MicroserviceId = NewType("MicroserviceId", str)

SLOT_COUNT = 64
CACHED_MAX = 4096
"""Facts kept about ids: each operation asks for those of its microservice a dozen times."""

ROOT = "/"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def new_id(random: bytes | None = None) -> MicroserviceId:
    """Return a fresh microservice id of 24 hexadecimal digits (96 random bits)."""
    return MicroserviceId((random if random is not None else os.urandom(12)).hex())


def derived_id(*parts: str | int) -> MicroserviceId:
    """Return the id determined by ``parts``: a retried creation with the same parts makes the same child."""
    text = "\x1f".join(str(part) for part in parts)
    return MicroserviceId(hashlib.blake2b(text.encode(), digest_size=12).hexdigest())


@functools.lru_cache(CACHED_MAX)
def slot_of(ms_id: str) -> int:
    """Return the slot (0 to 63) that owns the microservice; a pure function of the id, equal on every server."""
    return zlib.crc32(ms_id.encode()) % SLOT_COUNT


@functools.lru_cache(CACHED_MAX)
def valid_name(name: str) -> bool:
    """Return whether ``name`` may name a server, cluster or microservice."""
    return _NAME.match(name) is not None
