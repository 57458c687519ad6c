"""Messages between replicas: each survives its encoding, and nothing else is taken for one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.dm.replication.messages import (
    Append,
    Appended,
    Entry,
    Lagging,
    Member,
    Resigned,
    SnapshotHeader,
    SnapshotWanted,
    Superseded,
    decode,
    encode,
)
from amino.errors import Invalid

A, B = Member("r1", "s1", 7), Member("r2", "s2", 8)
MESSAGES = [
    Append(3, A, B, 9, 4, 2, 4, 4, (Entry(3, 5, b"payload", 77), Entry(3, 6, b""))),
    Append(3, A, B, 9, 4, 2, 4, 4),
    Appended(3, B, 9, 6),
    Lagging(3, B, 9, 2),
    SnapshotWanted(3, B, 0),
    Superseded(4, B),
    Resigned(5, B, 4),
    SnapshotHeader(3, A, B, 6, 3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_round_trip(message):
    """A message is decoded to what was encoded."""
    assert decode(encode(message)) == message


@pytest.mark.parametrize("data", [b"", b"\xc1", b"\x93\x09\x01\x02", encode(MESSAGES[2])[:-3]])
def test_other_bytes_are_invalid(data):
    """Bytes that are no message are refused."""
    with pytest.raises(Invalid, match="not a message of a replica"):
        decode(data)


@given(st.binary(max_size=60))
def test_any_bytes_are_a_message_or_invalid(data):
    """Whatever the bytes, the answer is a message or Invalid."""
    try:
        decode(data)
    except Invalid:
        return


def test_a_member_shows_its_whole_identity():
    """Replica, server and incarnation are all seen in logs."""
    assert str(A) == "r1@s1.7"
