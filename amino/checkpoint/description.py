"""What a checkpoint does not say of itself: whose it is, kept beside it for the day when etcd is lost.

Owns the form of descriptions and when one is written. Leaves what to say to whoever knows the microservice (``About``), and
bringing microservices back to the OMS.
Invariants: a group's description is in the store before its checkpoint is, so that what has a checkpoint can be brought back;
one that changed is written before the next checkpoint; nothing of it is ever read while etcd is there.
Failure behaviour: as writing the checkpoint it is for: ``StoreFailed``, and the checkpoint before stays current.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple, Protocol

import msgspec

from amino.aio import mode
from amino.checkpoint import format as file_format
from amino.checkpoint import names
from amino.contracts.documents import GroupDocument, MicroserviceRecord, decode, encode
from amino.contracts.sharding import Transition
from amino.errors import AlreadyExists

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Hashable

    from amino.checkpoint.access import StoreAccess
    from amino.checkpoint.store import CheckpointStore

FORMAT = 1


class _Stored(msgspec.Struct, frozen=True, omit_defaults=True):
    record: bytes
    group: bytes = b""
    root: bytes = b""
    shards: Transition | None = None
    format: int = FORMAT


class Description(NamedTuple):
    """What it takes to make a group's documents in etcd again, apart from where its replicas are.

    Args:
        record: of the microservice, with the spec in force.
        group: of this path, None if it was not known yet. root: of the microservice, where that is another group.
        shards: the newest change of shards that a shard has heard of.
    """

    record: MicroserviceRecord
    group: GroupDocument | None = None
    root: GroupDocument | None = None
    shards: Transition | None = None

    @property
    def order(self) -> tuple[int, ...]:
        """What grows from one description of a group to the next."""
        versions = [(one.epoch, one.version) if one is not None else (0, 0) for one in (self.root, self.group)]
        return (
            self.record.generation,
            self.shards.version if self.shards is not None else 0,
            *versions[0],
            *versions[1],
        )


class About(Protocol):
    """Knows the microservice whose checkpoints are written."""

    def revision(self) -> Hashable:
        """Return what differs once ``describe`` may return something else. From any thread; never waits."""
        ...

    async def describe(self) -> Description | None:
        """Return the description as it is now, None if the microservice is gone. On the server's loop."""
        ...


def sketch(document: GroupDocument) -> GroupDocument:
    """Return ``document`` without its replicas and what concerns them."""
    return msgspec.structs.replace(
        document,
        replicas=(),
        primary="",
        in_sync=(),
        move=None,
        leftovers=(),
        ineligible={},
        deaths={},
        explanation={},
        methods={},
        reason="",
        trace="",
        changing=False,
        report="",
    )


def encode_description(description: Description) -> file_format.Encoded:
    """Return the file of ``description``."""
    group, root = description.group, description.root
    stored = _Stored(
        encode(description.record),
        encode(group) if group is not None else b"",
        encode(root) if root is not None else b"",
        description.shards,
    )
    return file_format.encode(msgspec.msgpack.encode(stored))


def decode_description(data: bytes) -> Description:
    """Return the description in a file.

    Raises:
        NotIntact: it is damaged. Invalid: a later release wrote it.
    """
    try:
        stored = msgspec.msgpack.decode(file_format.decode_whole(data), type=_Stored)
    except msgspec.MsgspecError as error:
        raise file_format.NotIntact(f"it is no description: {error}") from error
    if stored.format != FORMAT:
        raise file_format.NotIntact(f"format {stored.format} is of another release")
    return Description(
        decode(stored.record, MicroserviceRecord, "a description"),
        decode(stored.group, GroupDocument, "a description") if stored.group else None,
        decode(stored.root, GroupDocument, "a description") if stored.root else None,
        stored.shards,
    )


def forget(store: CheckpointStore, microservice: str) -> None:
    """Remove all descriptions of a microservice that keeps no checkpoints any more. Idempotent; blocks."""
    for file in store.list(names.descriptions_of(microservice)):
        store.delete(file.key)


def _substance(description: Description) -> tuple[object, ...]:
    """Return what is worth another file: not how often the group's document was written."""
    groups = [
        encode(msgspec.structs.replace(one, epoch=0, version=0)) if one is not None else b""
        for one in (description.group, description.root)
    ]
    return (encode(description.record), *groups, description.shards)


class Describer:
    """Keeps the description of one group up to date; for one replica, whose checkpoints are written one after the other.

    Args:
        access: the checkpoint store. loop: where ``about`` describes.
    """

    def __init__(
        self, access: StoreAccess, loop: asyncio.AbstractEventLoop, about: About, microservice: str, path: str
    ) -> None:
        self._access = access
        self._loop = loop
        self._about = about
        self._microservice = microservice
        self._path = path
        self._revision: Hashable = None
        self._written: tuple[object, ...] = ()

    def __repr__(self) -> str:
        return f"Describer({self._microservice}{self._path})"

    async def keep(self) -> None:
        """Have the present description in the store; costs nothing while nothing changed. On loops and in threads.

        Raises:
            StoreFailed: it cannot be written. CoordinationUnavailable: what it is to say cannot be read.
        """
        revision = self._about.revision()
        if self._written and revision == self._revision:
            return
        description = await mode.on(self._loop, self._about.describe())
        if description is None:
            return
        substance = _substance(description)
        if substance != self._written:
            await self._access.run(self._write, description)
        self._revision, self._written = revision, substance

    def _write(self, description: Description) -> None:
        encoded = encode_description(description)
        with contextlib.suppress(AlreadyExists):
            key = names.description(self._microservice, self._path, encoded.sha256)
            self._access.store.write(key, encoded.parts)
