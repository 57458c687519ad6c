"""Frames: the layout survives any cut, and no bytes whatever break the parser."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.errors import AminoError, Invalid, NotEncodable, NotExecuted, Overloaded, StateLost
from amino.limits import FRAME_BYTES_MAX, SEGMENTS_MAX
from amino.wire.frames import (
    HEADER_BYTES,
    JOIN_BYTES_MAX,
    MAGIC,
    FrameKind,
    FrameParser,
    decode_error,
    encode_error,
    encode_frame,
)

_sizes = st.one_of(
    st.integers(0, 40), st.sampled_from([JOIN_BYTES_MAX - 1, JOIN_BYTES_MAX, JOIN_BYTES_MAX + 1, 50_000])
)
_frames = st.tuples(
    st.sampled_from(list(FrameKind)),
    st.integers(0, 255),
    st.integers(0, 2**64 - 1),
    _sizes.map(lambda n: b"h" * n),
    st.lists(_sizes.map(lambda n: bytes(range(256)) * (n // 256) + bytes(n % 256)), max_size=12),
)


def joined(*frame) -> bytes:
    return b"".join(encode_frame(*frame))


@given(st.lists(_frames, max_size=6), st.lists(st.integers(1, 70_000), max_size=30))
def test_frames_survive_any_cutting_of_the_stream(frames: list, cuts: list[int]) -> None:
    """Whatever pieces the bytes arrive in, the frames that come out are those that went in."""
    stream = b"".join(joined(*frame) for frame in frames)
    parser = FrameParser()
    got = []
    for size in [*cuts, len(stream)]:
        got += parser.feed(stream[:size])
        stream = stream[size:]
    assert parser.failure is None
    assert parser.buffered == 0
    assert [(*frame[:4], [bytes(one) for one in frame[4]]) for frame in got] == [tuple(frame) for frame in frames]


@given(st.lists(st.binary(max_size=60), max_size=20), st.booleans())
def test_garbage_never_raises_nor_is_hoarded(pieces: list[bytes], hello_first: bool) -> None:
    """Random bytes give frames or a failure that says what is wrong; little is buffered and nothing after a failure."""
    parser = FrameParser(4096, hello_first=hello_first)
    for piece in pieces:
        parser.feed(piece)
        assert parser.buffered <= 4096 + 4 + 60
        if parser.failure is not None:
            assert isinstance(parser.failure, Invalid)
            assert parser.failure.message
            assert parser.feed(joined(FrameKind.PING, 0, 0, b"")) == []
            assert parser.buffered == 0


@given(_frames, st.data())
def test_a_damaged_frame_gives_frames_or_a_failure(frame: tuple, data: st.DataObject) -> None:
    """Flipping a byte of a header never raises, whatever the parser makes of it."""
    stream = bytearray(joined(*frame))
    position = data.draw(st.integers(0, HEADER_BYTES - 1))
    stream[position] ^= data.draw(st.integers(1, 255))
    parser = FrameParser(200_000)
    parser.feed(bytes(stream))
    parser.feed(b"\0" * 100)
    assert parser.failure is None or parser.failure.message


@given(_frames, st.integers(0, 200_000))
def test_a_truncated_frame_is_awaited(frame: tuple, cut: int) -> None:
    """A frame without its end gives nothing yet, and itself once the rest has come."""
    stream = joined(*frame)
    parser = FrameParser()
    assert parser.feed(stream[: min(cut, len(stream) - 1)]) == []
    assert parser.failure is None
    assert len(parser.feed(stream[min(cut, len(stream) - 1) :])) == 1


def test_an_oversized_frame_is_refused_by_its_header() -> None:
    """A header that announces 100 MiB is refused before its body, naming both sizes and the request."""
    parser = FrameParser()
    header = struct.pack("<IBBHQI", 100 * 1024 * 1024, FrameKind.CALL, 0, 0, 77, 5)
    assert parser.feed(header) == []
    assert parser.failed_correlation == 77
    assert parser.failure is not None
    assert "104857600" in parser.failure.message
    assert str(FRAME_BYTES_MAX) in parser.failure.message
    assert parser.buffered == 0


def test_frames_before_a_bad_one_are_kept() -> None:
    """What was sound before the stream went bad is still delivered."""
    parser = FrameParser()
    good = joined(FrameKind.CALL, 0, 1, b"good")
    frames = parser.feed(good + good + b"\xff" * 40)
    assert len(frames) == 2
    assert parser.failure is not None


@pytest.mark.parametrize(
    ("first", "wanted"),
    [
        (b"GET / HTTP/1.1\r\nHost: example\r\n\r\n", "not the peer link protocol"),
        (joined(FrameKind.CALL, 0, 1, b"no hello"), "not the peer link protocol"),
        (joined(FrameKind.HELLO, 0, 5, b"no magic"), "not the peer link protocol"),
        (joined(FrameKind.HELLO, 0, MAGIC, b"x" * 5000), "exceeds the limit"),
    ],
    ids=["http", "call", "magic", "long"],
)
def test_the_first_frame_must_be_a_hello(first: bytes, wanted: str) -> None:
    """Before a handshake nothing but a short HELLO with the magic number is accepted."""
    parser = FrameParser(4096, hello_first=True)
    assert parser.feed(first) == []
    assert parser.failure is not None
    assert wanted in parser.failure.message


@pytest.mark.parametrize("count", [1, 3])
def test_encoding_over_the_limit_is_refused(count: int) -> None:
    """A frame larger than the limit is not encoded; the error names sizes for programs, too."""
    with pytest.raises(NotEncodable, match="exceeds the limit of 10000 bytes") as caught:
        encode_frame(FrameKind.CALL, 0, 1, b"", [bytes(20_000 // count)] * count, 10_000)
    assert caught.value.details["limit"] == 10_000
    with pytest.raises(NotEncodable):
        encode_frame(FrameKind.CALL, 0, 1, b"x" * 20_000, (), 10_000)


def test_too_many_segments_are_refused() -> None:
    """More segments than the limit are neither encoded nor accepted."""
    with pytest.raises(NotEncodable, match="segments"):
        encode_frame(FrameKind.CALL, 0, 1, b"", [b""] * (SEGMENTS_MAX + 1))
    parser = FrameParser()
    count = SEGMENTS_MAX + 1
    parser.feed(struct.pack("<IBBHQI", 16 + 4 * count, FrameKind.CALL, 0, count, 1, 0) + bytes(4 * count))
    assert parser.failure is not None


def test_large_segments_are_not_copied_and_stay_valid() -> None:
    """Sending keeps large segments as they are; received ones are read-only and survive the parser."""
    large = b"L" * 100_000
    parts = encode_frame(FrameKind.CALL, 0, 1, b"head", [b"small", large])
    assert any(part is large for part in parts)
    parser = FrameParser()
    ((_, _, _, _, segments),) = parser.feed(b"".join(parts))
    parser.feed(joined(FrameKind.PING, 0, 0, b""))
    assert [bytes(one) for one in segments] == [b"small", large]
    assert all(one.readonly for one in segments)


def test_small_segments_do_not_keep_the_read_buffer() -> None:
    """A small segment owns its bytes: keeping it must not keep a whole batch of frames."""
    batch = b"".join(joined(FrameKind.CALL, 0, n, b"h", [b"v" * 10]) for n in range(100))
    frames = FrameParser().feed(batch)
    assert len(frames) == 100
    assert len(frames[5][4][0].obj) == 10


def test_errors_travel_with_type_message_and_details() -> None:
    """An error arrives as its own class with what it carried."""
    error = decode_error(encode_error(NotExecuted("moved away", reason="moved", epoch=3, ratio=0.5, yes=True, no=None)))
    assert type(error) is NotExecuted
    assert (error.message, error.reason) == ("moved away", "moved")
    assert error.details == {"reason": "moved", "epoch": 3, "ratio": 0.5, "yes": True, "no": None}
    assert type(decode_error(encode_error(Overloaded("full")))) is Overloaded


def test_details_that_are_not_plain_become_text() -> None:
    """Objects, huge numbers and broken text in details are sent as bounded text; the rest is cut."""
    error = StateLost("x" * 100_000, big=1 << 80, things=[1], broken="\ud800")
    error.details["message"] = "kept"
    back = decode_error(encode_error(error))
    assert type(back) is StateLost
    assert len(back.message) < 20_000
    assert back.details == {"big": str(1 << 80), "things": "[1]", "broken": "?", "message": "kept"}


def test_an_unknown_code_is_a_plain_error() -> None:
    """An error of a newer peer is still an AminoError with its message."""

    class FromTheFuture(AminoError):
        code = "from-the-future"

    data = encode_error(FromTheFuture("new")).replace(b"from-the-future", b"even-more-futur")
    assert type(decode_error(data)) is AminoError
    assert decode_error(data).message == "new"


@given(st.binary(max_size=200))
def test_any_bytes_decode_to_some_error(data: bytes) -> None:
    """An error that cannot be read is reported as such; nothing is raised."""
    assert isinstance(decode_error(data), AminoError)
