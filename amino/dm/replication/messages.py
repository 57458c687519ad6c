"""What replicas of one group send each other, and how it looks as bytes.

Owns the message types and their encoding. Leaves their meaning to ``machine`` and carrying them to the adapter.
Invariants: every message names its epoch and the full identity of its sender; all are one-way: a reply is a message of
its own, and each may be lost, duplicated, delayed and reordered without harm.
Failure behaviour: bytes that are no message raise ``Invalid``; nothing is half read.
"""

from __future__ import annotations

import msgspec

from amino.errors import Invalid


class Member(msgspec.Struct, frozen=True, array_like=True, gc=False, order=True):
    """A replica's full identity: a replica that was born again under the same id is another one.

    Args:
        id: of the replica.
        server: that hosts it.
        incarnation: of that server.
    """

    id: str
    server: str
    incarnation: int

    def __str__(self) -> str:
        return f"{self.id}@{self.server}.{self.incarnation}"


class Entry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One operation in the log.

    Args:
        epoch: of the primary that executed it; with ``index`` it determines the entry.
        index: 1 for the first; without gaps.
        payload: what a replay needs; opaque here.
        digest: of the result at the primary.
    """

    epoch: int
    index: int
    payload: bytes
    digest: int = 0


class Append(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Primary to replica: entries that follow ``(previous_epoch, previous)``; without entries a probe.

    Args:
        sequence: counts what this primary sent to this replica; replies repeat it.
        inherited: the primary's log end when its epoch began: beyond it, what is of an older epoch is not in its log.
        commit: the primary's commit index.
    """

    epoch: int
    sender: Member
    to: Member
    sequence: int
    previous: int
    previous_epoch: int
    inherited: int
    commit: int
    entries: tuple[Entry, ...] = ()


class Appended(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Replica to primary: my log equals yours up to ``match``."""

    epoch: int
    sender: Member
    sequence: int
    match: int


class Lagging(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Replica to primary: what you sent does not follow on my log; try after ``end``."""

    epoch: int
    sender: Member
    sequence: int
    end: int


class SnapshotWanted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Replica to primary: I have no state, or one that is not to be trusted. ``sequence``: 0 if it answers no append."""

    epoch: int
    sender: Member
    sequence: int


class Superseded(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Replica to a primary of an older epoch: refused; I know of ``epoch``."""

    epoch: int
    sender: Member


class SnapshotHeader(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Heads a snapshot in transfer, which adapters carry: the state after entry ``index``, which is committed.

    Args:
        epoch: of the primary that sends it.
        entry_epoch: of entry ``index``; 0 if ``index`` is 0.
    """

    epoch: int
    sender: Member
    to: Member
    index: int
    entry_epoch: int


class Resigned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Former primary to who may follow it: I answer nothing any more as primary of ``served``; ``epoch`` follows, or has begun."""

    epoch: int
    sender: Member
    served: int


Message = Append | Appended | Lagging | SnapshotWanted | Superseded | SnapshotHeader | Resigned

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode(message: Message) -> bytes:
    """Return the message as bytes."""
    return _encoder.encode(message)


def decode(data: bytes | bytearray | memoryview) -> Message:
    """Return the message that ``data`` holds.

    Raises:
        Invalid: it is none.
    """
    try:
        return _decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Invalid(f"not a message of a replica: {error}") from error
