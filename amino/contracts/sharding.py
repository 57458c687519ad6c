"""How keys are spread over shards, and a change of shards under way: what the OMS, clients and shards must agree in.

Owns the ring (consistent hashing: each shard has many points on a circle, a key belongs to the next point) and the shape
of a ``Transition``. Leaves moving keys to the shards and steps to the OMS.
Invariants: the same key has the same owner in every process and release; adding a shard moves keys only to it, removing
one only from it.
Failure behaviour: a key that has no stable form raises ``Invalid``.
Source: Karger et al., Consistent hashing and random trees, STOC 1997.
"""

from __future__ import annotations

import bisect
import hashlib
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import msgspec

from amino.errors import Invalid

VIRTUAL_NODES = 64


class Transition(msgspec.Struct, frozen=True, array_like=True):
    """A change of shards under way, stored in the root group's document.

    Args:
        before, after: names of the shards. version: of this change; the root's epoch once it is done.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    version: int


encode_transition = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Transition).decode


def transition_of(data: bytes | None) -> Transition | None:
    """Return the stored change, None if there is none."""
    return _decode(data) if data else None


def _place(text: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")


def place_of(key: Any) -> int:
    """Return where ``key`` falls on the circle: 64 bits, stable across processes.

    Args:
        key: None, bool, int, str, bytes, a float, or a tuple of such.

    Raises:
        Invalid: another type, whose content has no form that all processes agree in.
    """
    return _place(_stable(key))


def _stable(key: Any) -> bytes:
    kind: Any = type(key)
    if isinstance(key, str):
        return b"s" + key.encode("utf-8", "surrogatepass")
    if isinstance(key, int):
        return b"i%d" % key  # True and 1 are one key in a dict, and so are 1.0 and 1
    if isinstance(key, bytes):
        return b"b" + key
    if isinstance(key, float):
        return b"i%d" % int(key) if key.is_integer() else b"f" + repr(key).encode()
    if key is None:
        return b"n"
    if isinstance(key, tuple):
        return b"t" + b"".join(b"%d:" % len(part) + part for part in map(_stable, key))
    raise Invalid(
        f"a key of type {kind.__qualname__} has no stable place; use str, int, bytes, float, None or a tuple of them"
    )


class Ring:
    """The owners of all keys for one set of shards."""

    def __init__(self, shards: Iterable[str], virtual_nodes: int = VIRTUAL_NODES) -> None:
        self.shards = tuple(shards)
        points = sorted(
            (_place(f"{name}#{number}".encode()), name) for name in self.shards for number in range(virtual_nodes)
        )
        self._places = [place for place, _ in points]
        self._owners = [name for _, name in points]

    def __repr__(self) -> str:
        return f"Ring({', '.join(self.shards)})"

    def owner(self, key: Any) -> str:
        """Return the shard that owns ``key``."""
        return self.owner_at(place_of(key))

    def owner_at(self, place: int) -> str:
        """Return the shard that owns what falls on ``place``."""
        number = bisect.bisect_left(self._places, place)
        return self._owners[number % len(self._owners)]


@lru_cache(maxsize=256)
def ring_of(shards: tuple[str, ...], virtual_nodes: int = VIRTUAL_NODES) -> Ring:
    """Return the ring of ``shards``; made once."""
    return Ring(shards, virtual_nodes)
