"""The checkpoint file: decodes to exactly what was encoded, or not at all."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.checkpoint.format import COMPRESS_FROM_BYTES, HEADER_BYTES, NotIntact, decode, encode


def _file(snapshot: bytes) -> tuple[bytes, str]:
    encoded = encode(snapshot)
    data = b"".join(encoded.parts)
    assert len(data) == encoded.size
    return data, encoded.sha256


@given(st.binary(max_size=2000))
def test_round_trip(snapshot: bytes) -> None:
    """Any bytes come back."""
    assert decode(*_file(snapshot)) == snapshot


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_flipped_bit_is_noticed(snapshot: bytes, data: st.DataObject) -> None:
    """One changed bit anywhere, header included, makes the file no checkpoint."""
    content, sha256 = _file(snapshot)
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    changed = bytearray(content)
    changed[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(NotIntact):
        decode(bytes(changed), sha256)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_any_truncation_is_noticed(snapshot: bytes, data: st.DataObject) -> None:
    """A file that lacks its end, or has something after it, is no checkpoint."""
    content, sha256 = _file(snapshot)
    with pytest.raises(NotIntact):
        decode(content[: data.draw(st.integers(0, len(content) - 1))], sha256)
    with pytest.raises(NotIntact):
        decode(content + b"x", sha256)


def test_another_intact_file_is_not_this_one() -> None:
    """The checksum in the manifest decides, not the one in the file."""
    with pytest.raises(NotIntact, match="sha256"):
        decode(_file(b"one")[0], _file(b"two")[1])


def test_compresses_only_what_is_large_and_pays() -> None:
    """Large repetitive snapshots shrink; small or random ones are stored as they are, without a copy."""
    large, noise, small = b"state " * COMPRESS_FROM_BYTES, os.urandom(COMPRESS_FROM_BYTES), b"state " * 100
    assert encode(large).size < len(large) // 10
    assert encode(noise).size == len(noise) + HEADER_BYTES
    assert encode(noise).parts[1] is noise
    assert encode(small).size == len(small) + HEADER_BYTES
    for snapshot in (large, noise, small):
        assert decode(*_file(snapshot)) == snapshot
