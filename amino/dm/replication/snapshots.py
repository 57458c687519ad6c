"""Snapshots on their way from a primary to another replica, in parts.

Owns cutting, keeping and joining them. Leaves when to send to ``machine`` and sending to ``replica``.
Invariants: a snapshot is whole or not there; parts of another snapshot are never mixed in; one is kept per replica.
Failure behaviour: a part out of order makes the whole snapshot forgotten; its sender begins again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

import msgspec

from amino.dm.replication.messages import Member, SnapshotHeader
from amino.errors import Invalid

PART_BYTES_MAX = 8 * 1024 * 1024


class Part(msgspec.Struct, array_like=True, frozen=True):
    """One part: ``offset`` of ``total`` bytes."""

    header: SnapshotHeader
    offset: int
    total: int
    content: bytes


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Part).decode


class Outgoing:
    """Snapshots taken and not yet sent, one per replica."""

    def __init__(self) -> None:
        self._kept: dict[Member, bytes] = {}

    def keep(self, to: Member, content: bytes) -> None:
        """Keep a snapshot for ``to``, in place of an older one."""
        self._kept[to] = content

    def drop(self, to: Member) -> None:
        """Forget it. Idempotent."""
        self._kept.pop(to, None)

    def retain(self, members: Collection[Member]) -> None:
        """Forget those for others than ``members``."""
        self._kept = {to: content for to, content in self._kept.items() if to in members}

    def parts(self, to: Member, header: SnapshotHeader) -> Iterator[bytes]:
        """Yield the encoded parts; none if the snapshot was forgotten."""
        content = self._kept.get(to, b"")
        for offset in range(0, len(content), PART_BYTES_MAX):
            yield _encode(Part(header, offset, len(content), content[offset : offset + PART_BYTES_MAX]))


class Incoming:
    """Snapshots that arrive: the one being joined, and whole ones that wait to be installed."""

    def __init__(self) -> None:
        self._joining: tuple[SnapshotHeader, bytearray] | None = None
        self._whole: dict[SnapshotHeader, bytes] = {}

    def take(self, data: bytes) -> SnapshotHeader | None:
        """Take a part; returns the header when that made its snapshot whole.

        Raises:
            Invalid: not a part, or not the one that follows.
        """
        try:
            part = _decode(data)
        except msgspec.MsgspecError as error:
            raise Invalid(f"not a part of a snapshot: {error}") from error
        if part.offset == 0:
            self._joining = part.header, bytearray()
        if self._joining is None or self._joining[0] != part.header or len(self._joining[1]) != part.offset:
            self._joining = None
            raise Invalid(
                f"part {part.offset} of a snapshot does not follow on what came; send it again from the start"
            )
        content = self._joining[1]
        content += part.content
        if len(content) < part.total:
            return None
        self._joining = None
        self._whole = {part.header: bytes(content)}
        return part.header

    def pop(self, header: SnapshotHeader) -> bytes:
        """Return a whole snapshot and forget it.

        Raises:
            Invalid: it is not here (any more).
        """
        try:
            return self._whole.pop(header)
        except KeyError:
            raise Invalid("the snapshot to be installed was replaced by another") from None
