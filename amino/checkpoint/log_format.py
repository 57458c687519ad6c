"""What the bytes of an operation log look like.

Owns frames, their checksums, and the judgement where a log ends. Leaves where the bytes are to the stores and what the
records mean to their writers.
Invariants: a record is returned exactly as it was framed, or not at all; only what was never synced is left out at the end.
Failure behaviour: a log that is damaged before its end raises ``NotIntact`` with the place.

A frame is what one sync made durable: magic, length of content, number (from 1), crc32 of all that and the content; each
record in the content has its length before it. The checksum begins with one of the log's name: a frame of another log,
which somebody may keep in a record, is none here. A frame begins to be written only after the one before it was synced, and
after each sync follows a mark (the same number, no content) where that costs nothing, which is not synced by itself. So a broken frame with an intact one behind
it was synced, and is damage; a broken one with nothing behind it is a write that was cut off.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import NamedTuple

from amino.checkpoint.format import NotIntact

MAGIC = b"AMLF"
_HEAD = struct.Struct("<4sIQ")
_CHECKSUM = struct.Struct("<I")
_LENGTH = struct.Struct("<I")
HEADER_BYTES = _HEAD.size + _CHECKSUM.size


class Content(NamedTuple):
    """What a log holds.

    Args:
        records: in order.
        size: bytes that they and their frames take up; what follows does not count.
    """

    records: list[bytes]
    size: int


def seed_of(name: str) -> int:
    """Return what the checksums of the log called ``name`` begin with."""
    return zlib.crc32(name.encode())


def frame(seed: int, number: int, records: Sequence[bytes]) -> bytes:
    """Return frame ``number`` with ``records``; without any it is the mark that this frame was synced."""
    parts: list[bytes] = []
    for record in records:
        parts += (_LENGTH.pack(len(record)), record)
    content = b"".join(parts)
    head = _HEAD.pack(MAGIC, len(content), number)
    return b"".join((head, _CHECKSUM.pack(zlib.crc32(content, zlib.crc32(head, seed))), content))


def read(seed: int, data: bytes, *, size: int = -1, whole: bool = False) -> Content:
    """Return the records of a log.

    Args:
        seed: of the log's name.
        data: all bytes there are.
        size: how many of them count, as the manifest has it; -1 if it does not say: up to the end.
        whole: whether each append is all or nothing, so that nothing can be cut off.

    Raises:
        NotIntact: something that was synced is damaged.
    """
    if size >= 0:
        if len(data) < size:
            raise NotIntact(f"it has {len(data)} bytes instead of {size}")
        data = data[:size]
    records: list[bytes] = []
    at, number = 0, 1
    while at < len(data):
        mark = at + HEADER_BYTES
        if number > 1 and _end_of(seed, data, at, number - 1) == mark:
            at = mark
            continue
        end = _end_of(seed, data, at, number)
        if not end:
            if size >= 0 or whole or _goes_on(seed, data, at + 1, number):
                raise NotIntact(f"frame {number} at byte {at} is damaged")
            break
        _split(data[at + HEADER_BYTES : end], records)
        at, number = end, number + 1
    return Content(records, at)


def _end_of(seed: int, data: bytes, at: int, number: int) -> int:
    """Return where the intact frame ``number`` at ``at`` ends, 0 if there is none."""
    if len(data) - at < HEADER_BYTES:
        return 0
    magic, length, found = _HEAD.unpack_from(data, at)
    start = at + HEADER_BYTES
    if magic != MAGIC or found != number or len(data) - start < length:
        return 0
    checksum = zlib.crc32(data[start : start + length], zlib.crc32(data[at : at + _HEAD.size], seed))
    return start + length if _CHECKSUM.unpack_from(data, at + _HEAD.size)[0] == checksum else 0


def _goes_on(seed: int, data: bytes, start: int, number: int) -> bool:
    """Return whether the mark of frame ``number``, or anything later, stands intact at or after ``start``."""
    at = data.find(MAGIC, start)
    while at >= 0:
        if len(data) - at >= HEADER_BYTES:
            found = _HEAD.unpack_from(data, at)[2]
            if found >= number and _end_of(seed, data, at, found):
                return True
        at = data.find(MAGIC, at + 1)
    return False


def _split(content: bytes, records: list[bytes]) -> None:
    at = 0
    while at < len(content):
        (length,) = _LENGTH.unpack_from(content, at)
        at += _LENGTH.size
        records.append(content[at : at + length])
        at += length
