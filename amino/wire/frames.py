"""Frames of the peer link: how requests, replies and pushes look as bytes.

Owns the layout, the kinds, the incremental parser and the error payload. Leaves what heads and segments mean to the
layers above, and sockets to ``amino.rpc``.
Invariants: limits are checked on the 20 header bytes, before any body is buffered; whatever the bytes are, the parser
returns frames or a failure and never raises; after a failure it accepts nothing more.
Failure behaviour: ``FrameParser.failure`` names what was wrong; ``decode_error`` makes an ``AminoError`` of any bytes.

Layout, little-endian::

    u32 length of all that follows
    u8 kind | u8 flags (status of a REPLY, kind of a PUSH) | u16 number of segments n
    u64 correlation id (of a HELLO: the magic number)
    u32 length of the head
    n x u32 segment lengths
    head | segments
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import TYPE_CHECKING, Any

import msgspec

from amino.errors import AminoError, Invalid, NotEncodable, by_code
from amino.limits import FRAME_BYTES_MAX, SEGMENTS_MAX

if TYPE_CHECKING:
    from collections.abc import Sequence

Buffer = bytes | bytearray | memoryview
Frame = tuple[int, int, int, bytes, list[memoryview]]
"""``(kind, flags, correlation, head, segments)``; the segments own their bytes and stay valid."""

MAGIC = int.from_bytes(b"AMINOPL1", "little")
HEADER_BYTES = 20
JOIN_BYTES_MAX = 16 * 1024
"""Frames up to this size are sent as one buffer: one copy is cheaper than many small writes."""

_BUFFERS_MAX = 512  # well under IOV_MAX, the most buffers one sendmsg takes
_HEADER = Struct("<IBBHQI")
_HEADER_1 = Struct("<IBBHQII")
_HEADER_2 = Struct("<IBBHQIII")
_AFTER_LENGTH = HEADER_BYTES - 4
_MESSAGE_CHARS_MAX = 16 * 1024
_DETAIL_CHARS_MAX = 64 * 1024
_DETAILS_MAX = 32

_pack = _HEADER.pack
_pack_1 = _HEADER_1.pack
_pack_2 = _HEADER_2.pack
_unpack = _HEADER.unpack_from
_sizes = [Struct(f"<{n}I") for n in range(9)]


class OwnedBytes(bytearray):
    """A buffer that only a parser has written, and nobody writes any more once its frames are out.

    Segments of large frames are read-only views of one; they may be sent on without a copy.
    """

    __slots__ = ()


class FrameKind(IntEnum):
    """What a frame is."""

    HELLO = 1
    WELCOME = 2
    REFUSED = 3
    CALL = 4
    SYSTEM = 5
    REPLY = 6
    PUSH = 7
    PING = 8
    PONG = 9
    GOAWAY = 10
    CANCEL = 11


NEVER_BEGUN = 1
"""Flag of ``GOAWAY``: the sender began no request on this link that it has not answered, and never will.

As the last stream of HTTP/2's GOAWAY (RFC 9113, section 6.8). Who does not know it takes it for a ``GOAWAY`` like any other.
"""


class Status(IntEnum):
    """How a request was answered."""

    OK = 0
    APPLICATION_ERROR = 1
    ERROR = 2
    """An ``AminoError``: the head is what ``encode_error`` made."""


_KIND_LAST = int(max(FrameKind))


def nbytes(buffer: Buffer) -> int:
    """Return the size of ``buffer`` in bytes (``len`` of a memoryview counts items)."""
    return buffer.nbytes if isinstance(buffer, memoryview) else len(buffer)


def encode_frame(
    kind: int,
    flags: int,
    correlation: int,
    head: bytes,
    segments: Sequence[Buffer] = (),
    limit: int = FRAME_BYTES_MAX,
) -> list[Buffer]:
    """Return the buffers to send, in order: one for a small frame, large segments as they are (not copied).

    Raises:
        NotEncodable: larger than ``limit`` bytes or more than ``SEGMENTS_MAX`` segments.
    """
    count = len(segments)
    if count == 0:
        length = _AFTER_LENGTH + len(head)
        if length <= JOIN_BYTES_MAX and length <= limit:
            return [_pack(length, kind, flags, 0, correlation, len(head)) + head]
        prefix = b""
    elif count == 1:
        size = nbytes(segments[0])
        length = _HEADER_1.size - 4 + len(head) + size
        if length <= JOIN_BYTES_MAX and length <= limit:
            return [b"".join((_pack_1(length, kind, flags, 1, correlation, len(head), size), head, segments[0]))]
        prefix = size.to_bytes(4, "little") if size < 1 << 32 else b""
    else:
        if count == 2:
            first, second = segments
            size, size_2 = nbytes(first), nbytes(second)
            length = _HEADER_2.size - 4 + len(head) + size + size_2
            if length <= JOIN_BYTES_MAX and length <= limit:
                header = _pack_2(length, kind, flags, 2, correlation, len(head), size, size_2)
                return [b"".join((header, head, first, second))]
        sizes = [nbytes(segment) for segment in segments]
        length = _AFTER_LENGTH + 4 * count + len(head) + sum(sizes)
        if count > SEGMENTS_MAX:
            raise NotEncodable(
                f"a frame of {count} segments exceeds the limit of {SEGMENTS_MAX}; pass fewer separate buffers per call"
            )
        prefix = b"" if length > limit else _size_struct(count).pack(*sizes)
    if length > limit:
        raise NotEncodable(
            f"a frame of {length} bytes exceeds the limit of {limit} bytes; send less per call",
            size=length,
            limit=limit,
        )
    return _merge([_pack(length, kind, flags, count, correlation, len(head)) + prefix, head, *segments])


def _size_struct(count: int) -> Struct:
    return _sizes[count] if count < len(_sizes) else Struct(f"<{count}I")


def _merge(parts: list[Buffer]) -> list[Buffer]:
    """Join neighbours that are small, so that few buffers are left and large ones are not copied."""
    merged: list[Buffer] = []
    small: list[Buffer] = []
    floor = JOIN_BYTES_MAX if len(parts) <= _BUFFERS_MAX else FRAME_BYTES_MAX
    for part in parts:
        if nbytes(part) <= floor:
            small.append(part)
            continue
        if small:
            merged.append(b"".join(small))
            small = []
        merged.append(part if isinstance(part, bytes) else memoryview(part).cast("B"))
    if small:
        merged.append(b"".join(small))
    return merged


class FrameParser:
    """Turns a stream of bytes into frames.

    Args:
        limit: largest frame accepted, in bytes after the length word; may be changed between ``feed`` calls.
        hello_first: whether the first frame must be a HELLO with the magic number.

    Attributes:
        failure: why the stream is refused, None while it is sound.
        failed_correlation: correlation id of a request that was refused for its size, else None.
        unsettled: whether ``feed`` may have left something: the beginning of a frame, or a failure.
    """

    __slots__ = ("_hello_first", "_needed", "_partial", "failed_correlation", "failure", "limit", "unsettled")

    def __init__(self, limit: int = FRAME_BYTES_MAX, *, hello_first: bool = False) -> None:
        self.limit = limit
        self.failure: Invalid | None = None
        self.failed_correlation: int | None = None
        self.unsettled = hello_first
        self._hello_first = hello_first
        self._partial: OwnedBytes | None = None
        self._needed = HEADER_BYTES

    def __repr__(self) -> str:
        return f"FrameParser({self.buffered} bytes buffered, failure={self.failure!r})"

    def wanted(self, start: bytes | bytearray | memoryview) -> int:
        """Return how many bytes the frame that begins with ``start`` has in all; 0 if that is unknown or too many."""
        if self._partial is not None or len(start) < HEADER_BYTES or self._hello_first:
            return 0
        size: int = 4 + _unpack(start)[0]
        return size if size <= self.limit else 0

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not complete yet."""
        return 0 if self._partial is None else len(self._partial)

    def feed(self, data: bytes | OwnedBytes) -> list[Frame]:
        """Take the next bytes and return the frames they complete, in order. After a failure it returns none.

        An ``OwnedBytes`` passes into the parser's hands: segments may be views of it, so its size must not change.
        """
        size = len(data)
        if not self.unsettled and size >= HEADER_BYTES and type(data) is bytes:
            length, kind, flags, count, correlation, head_size = _unpack(data)
            if (
                not count
                and length + 4 == size == head_size + HEADER_BYTES
                and length <= self.limit
                and 0 < kind <= _KIND_LAST
            ):  # the usual case: one whole frame without segments
                return [(kind, flags, correlation, data[HEADER_BYTES:], [])]
        frames = self._feed(data)
        self.unsettled = self._partial is not None or self.failure is not None or self._hello_first
        return frames

    def _feed(self, data: bytes | OwnedBytes) -> list[Frame]:
        frames: list[Frame] = []
        if self.failure is not None:
            return frames
        buffer: bytes | OwnedBytes = data
        partial = self._partial
        if partial is not None:
            partial += data
            if len(partial) < self._needed:
                return frames
            buffer = partial
            self._partial = None
        start, end = 0, len(buffer)
        while end - start >= HEADER_BYTES:
            length, kind, flags, count, correlation, head_size = _unpack(buffer, start)
            stop = start + 4 + length
            if stop > end or self._hello_first or length > self.limit:
                if not self._accepts(length, kind, count, correlation, head_size):
                    return frames
                if stop > end:
                    break
            head_at = start + HEADER_BYTES + 4 * count
            head_end = head_at + head_size
            if kind > _KIND_LAST or kind == 0 or head_end > stop or count > SEGMENTS_MAX:
                self._accepts(length, kind, count, correlation, head_size)
                return frames
            head = buffer[head_at:head_end]
            if type(head) is not bytes:
                head = bytes(head)
            if count == 0:
                segments: list[memoryview] = []
                position = head_end
            else:
                segments, position = _segments(buffer, start + HEADER_BYTES, count, head_end, stop)
            if position != stop:
                self._fail(f"a frame whose parts add up to {position - start} bytes states {stop - start}")
                return frames
            frames.append((kind, flags, correlation, head, segments))
            start = stop
        if start < end:
            rest = end - start
            self._needed = max(HEADER_BYTES, 4 + _unpack(buffer, start)[0]) if rest >= HEADER_BYTES else HEADER_BYTES
            self._partial = OwnedBytes(memoryview(buffer)[start:])
        return frames

    def _accepts(self, length: int, kind: int, count: int, correlation: int, head_size: int) -> bool:
        """Judge a header; called for every header that is not followed by its whole body yet."""
        if self._hello_first:
            if kind != FrameKind.HELLO or correlation != MAGIC:
                return self._fail("these bytes are not the peer link protocol; connect with an Amino client")
            self._hello_first = False
        if length > self.limit:
            if kind in (FrameKind.CALL, FrameKind.SYSTEM):
                self.failed_correlation = correlation
            return self._fail(f"a frame of {length} bytes exceeds the limit of {self.limit} bytes; send less per call")
        if kind == 0 or kind > _KIND_LAST:
            return self._fail(f"frame kind {kind} does not exist; kinds are 1 to {int(_KIND_LAST)}")
        if count > SEGMENTS_MAX:
            return self._fail(f"a frame of {count} segments exceeds the limit of {SEGMENTS_MAX}")
        if _AFTER_LENGTH + 4 * count + head_size > length:
            return self._fail(f"a frame of {length} bytes cannot hold a head of {head_size} and {count} segments")
        return True

    def _fail(self, message: str) -> bool:
        self.failure = Invalid(message)
        self._partial = None
        return False


def _segments(
    buffer: bytes | bytearray, sizes_at: int, count: int, position: int, stop: int
) -> tuple[list[memoryview], int]:
    """Cut the segments out: views of a buffer they mostly fill, else copies, lest small ones keep it all alive."""
    segments: list[memoryview] = []
    view_from = len(buffer) // 4
    whole: memoryview | None = None
    for size in _size_struct(count).unpack_from(buffer, sizes_at):
        following = position + size
        if following > stop:
            return segments, -1
        if size > JOIN_BYTES_MAX and size >= view_from:
            if whole is None:
                whole = memoryview(buffer).toreadonly()
            segments.append(whole[position:following])
        else:
            piece = buffer[position:following]
            segments.append(memoryview(piece if type(piece) is bytes else bytes(piece)))
        position = following
    return segments, position


class _WireError(msgspec.Struct):
    code: str
    message: str = ""
    details: dict[str, str | int | float | bool | None] = {}


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_WireError)
_codes: dict[str, type[AminoError]] = {}


def encode_error(error: AminoError) -> bytes:
    """Return ``error`` as the head of a REPLY with ``Status.ERROR``; long texts are cut, other details become text."""
    details: dict[str, Any] = {}
    for key, value in list(error.details.items())[:_DETAILS_MAX]:
        if isinstance(value, bool | float | None) or (isinstance(value, int) and -(1 << 63) <= value < 1 << 63):
            details[key] = value
        else:
            details[key] = _clean(str(value), _DETAIL_CHARS_MAX)
    return _encoder.encode(_WireError(error.code, _clean(error.message, _MESSAGE_CHARS_MAX), details))


def _clean(text: str, chars_max: int) -> str:
    """Cut ``text`` and replace lone surrogates, which have no encoding."""
    return text[:chars_max].encode("utf-8", "replace").decode()


def decode_error(data: bytes) -> AminoError:
    """Return the error a peer sent; an unknown code makes a plain ``AminoError``, unreadable bytes one that says so."""
    try:
        wire = _decoder.decode(data)
    except (msgspec.DecodeError, ValueError, RecursionError) as problem:
        return AminoError(f"the peer reported an error that cannot be read ({problem}); look at its log")
    cls = _codes.get(wire.code)
    if cls is None:
        _codes.update(by_code())
        cls = _codes.get(wire.code, AminoError)
    error = cls(wire.message)
    error.details.update(wire.details)
    return error
