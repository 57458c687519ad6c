"""What a checkpoint file looks like.

Owns its header, its checksum and its compression. Leaves names to ``names`` and snapshots to the kernel.
Invariants: a file decodes to exactly the snapshot it was made of, or not at all; the checksum covers the header too.
Failure behaviour: anything else than a whole, unchanged file raises ``NotIntact`` with what is wrong.

Layout (little-endian): magic, format, codec, stored length, snapshot length; sha256 of all that and the content; the
content.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass

from amino.checkpoint.store import Buffer

MAGIC = b"AMINOCKP"
FORMAT = 1
RAW, ZLIB = 0, 1

COMPRESS_FROM_BYTES = 256 * 1024
_SAMPLE_BYTES = 32 * 1024
_PAYS_BELOW = 0.6

_PREFIX = struct.Struct("<8sHHQQ")
_DIGEST_BYTES = 32
HEADER_BYTES = _PREFIX.size + _DIGEST_BYTES


class NotIntact(Exception):
    """The bytes are not a whole, unchanged checkpoint."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A checkpoint file, in parts to be written one after the other."""

    parts: tuple[Buffer, ...]
    sha256: str
    size: int


def encode(snapshot: Buffer) -> Encoded:
    """Return the file of ``snapshot``, compressed when it is large and that pays; takes time in proportion to it."""
    codec, content = _compressed(snapshot)
    stored = memoryview(content).nbytes
    prefix = _PREFIX.pack(MAGIC, FORMAT, codec, stored, memoryview(snapshot).nbytes)
    digest = _digest(prefix, content)
    return Encoded((prefix + digest, content), digest.hex(), HEADER_BYTES + stored)


def decode(data: bytes, sha256: str) -> bytes:
    """Return the snapshot in ``data``, whose checksum must be ``sha256`` as the manifest has it.

    Raises:
        NotIntact: truncated, changed, or of an unknown format.
    """
    if len(data) < HEADER_BYTES:
        raise NotIntact(f"it has {len(data)} bytes, fewer than a header")
    prefix, digest = data[: _PREFIX.size], data[_PREFIX.size : HEADER_BYTES]
    magic, version, codec, stored, length = _PREFIX.unpack(prefix)
    if magic != MAGIC:
        raise NotIntact("it does not begin as a checkpoint does")
    content = memoryview(data)[HEADER_BYTES:]
    if content.nbytes != stored:
        raise NotIntact(f"it has {content.nbytes} bytes of content instead of {stored}")
    if digest != _digest(prefix, content) or digest.hex() != sha256:
        raise NotIntact("its sha256 does not match")
    if version != FORMAT or codec not in (RAW, ZLIB):
        raise NotIntact(f"format {version} with codec {codec} is of another release")
    if codec == RAW:
        return bytes(content)
    snapshot = zlib.decompress(content, bufsize=max(length, 1))
    if len(snapshot) != length:
        raise NotIntact(f"it expands to {len(snapshot)} bytes instead of {length}")
    return snapshot


def digest_in(data: bytes) -> str:
    """Return the checksum that a file states of itself, as manifests have it; empty if it is too short to have one."""
    return data[_PREFIX.size : HEADER_BYTES].hex() if len(data) >= HEADER_BYTES else ""


def decode_whole(data: bytes) -> bytes:
    """As ``decode``, by the checksum that the file states of itself."""
    return decode(data, digest_in(data))


def _digest(prefix: bytes, content: Buffer) -> bytes:
    checksum = hashlib.sha256(prefix)
    checksum.update(content)
    return checksum.digest()


def _compressed(snapshot: Buffer) -> tuple[int, Buffer]:
    view = memoryview(snapshot).cast("B")
    if view.nbytes < COMPRESS_FROM_BYTES:
        return RAW, snapshot
    middle = view.nbytes // 2
    sample = view[middle : middle + _SAMPLE_BYTES]
    if len(zlib.compress(sample, 1)) > _PAYS_BELOW * sample.nbytes:
        return RAW, snapshot
    packed = zlib.compress(view, 1)
    return (ZLIB, packed) if len(packed) < _PAYS_BELOW * view.nbytes else (RAW, snapshot)
