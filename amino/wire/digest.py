"""A checksum of a value's content, equal for equal values in every process of a cluster.

Owns walking a value. Leaves what is compared to its users. Pickles do not serve: two equal values pickle differently when
one holds the same string twice and the other two equal ones.
Invariants: equal plain values have equal digests, whatever object identities, insertion history of sets, or process.
Failure behaviour: never raises; what cannot be looked into counts by the name of its type.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

_DEPTH_MAX = 64
_pack_float = struct.Struct("<d").pack


def digest_of(value: Any) -> int:
    """Return a 32-bit checksum of ``value``'s content."""
    return _walk(value, 0, 0, {})


def _walk(value: Any, crc: int, depth: int, seen: dict[int, int]) -> int:
    kind = type(value)
    if kind is str:
        return zlib.crc32(value.encode("utf-8", "surrogatepass"), zlib.crc32(b"s", crc))
    if value is None or kind is bool or kind is int:
        return zlib.crc32(repr(value).encode(), crc)
    if kind is float:
        return zlib.crc32(_pack_float(value), zlib.crc32(b"f", crc))
    if kind is bytes or kind is bytearray:
        return zlib.crc32(value, zlib.crc32(b"b", crc))
    place = seen.get(id(value))
    if place is not None:  # a cycle: how far up it leads is its content
        return zlib.crc32(b"@%d" % place, crc)
    crc = zlib.crc32(kind.__qualname__.encode(), crc)
    if depth > _DEPTH_MAX:
        return crc
    seen = {**seen, id(value): len(seen)}
    if kind is list or kind is tuple:
        crc = zlib.crc32(b"[%d" % len(value), crc)
        for item in value:
            crc = _walk(item, crc, depth + 1, seen)
        return crc
    if kind is dict:
        crc = zlib.crc32(b"{%d" % len(value), crc)
        for key, item in value.items():
            crc = _walk(item, _walk(key, crc, depth + 1, seen), depth + 1, seen)
        return crc
    if kind is set or kind is frozenset:
        return zlib.crc32(repr(sorted(_walk(item, 0, depth + 1, seen) for item in value)).encode(), crc)
    return _walk_object(value, crc, depth, seen)


def _walk_object(value: Any, crc: int, depth: int, seen: dict[int, int]) -> int:
    reference = getattr(value, "__amino_reference__", None)
    if reference is not None:
        return zlib.crc32(str(getattr(reference, "microservice", "")).encode(), crc)
    if isinstance(value, BaseException):
        return _walk(value.args, crc, depth + 1, seen)
    try:
        reduced = value.__reduce_ex__(4)
    except Exception:  # noqa: BLE001 - user classes may raise anything; the type alone counts then
        return crc
    if isinstance(reduced, str):
        return zlib.crc32(reduced.encode(), crc)
    for part in reduced[1:3]:  # arguments of the constructor, then the state
        crc = _walk_part(part, crc, depth + 1, seen)
    for items in reduced[3:5]:  # of list and dict subclasses
        for item in items or ():
            crc = _walk_part(item, crc, depth + 1, seen)
    return crc


def _walk_part(part: Any, crc: int, depth: int, seen: dict[int, int]) -> int:
    if isinstance(part, type):
        return zlib.crc32(part.__qualname__.encode(), crc)
    if isinstance(part, (tuple, list, dict)) and depth <= _DEPTH_MAX:
        values = [each for pair in part.items() for each in pair] if isinstance(part, dict) else part
        for each in values:
            crc = _walk_part(each, crc, depth + 1, seen)
        return crc
    return _walk(part, crc, depth, seen)
