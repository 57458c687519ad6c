"""The checkpoints of one replica's group: written, published, found again.

Owns the way from a snapshot to a published checkpoint, and back. Leaves when to take one to deployment managers, what a
manifest may hold to ``publication``, files to ``store`` and ``format``.
Invariants: the manifest names only files that were synced before; it is written only by the incarnation and epoch that
the group's document names (invariants 1, 2); a file is removed only when no manifest can name it any more.
Failure behaviour: the previous checkpoint stays current. A publication whose outcome is unknown is settled by a later
guarded write to the same manifest, never by a plain read; if that takes too long: ``StoreFailed`` of kind ``unknown``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as random_module
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio import mode
from amino.aio.clock import Clock
from amino.aio.signal import Turn
from amino.checkpoint import format as file_format
from amino.checkpoint import log_format, names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.description import About, Describer
from amino.checkpoint.operation_log import OperationLog
from amino.checkpoint.publication import Holder, Validity, added, next_sequence, refusal
from amino.checkpoint.store import CheckpointStore, Segment
from amino.contracts.documents import CheckpointEntry, GroupDocument, Manifest, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Get, Put, Record, Store, TxnResult, created_at, unchanged
from amino.errors import AlreadyExists, CoordinationUnavailable, CorruptCheckpoint, NotExecuted, StoreFailed
from amino.ids import slot_of
from amino.limits import HOLD_S
from amino.telemetry import names as shown
from amino.telemetry.trace import Telemetry

if TYPE_CHECKING:
    from amino.telemetry.trace import Attributes

_log = logging.getLogger("amino.checkpoint")

PUBLISH_TIMEOUT_S = 10.0
RETRY_S_FIRST = 0.05
UNKNOWN = -1  # no key ever has this revision: a compare with it fails, and its answer tells the true one
RETRY_S_MAX = 1.0
_RESTORES_MAX = 3
_SILENT = Telemetry.disabled()


class Domain:
    """What the checkpoints of all groups on one kernel server share.

    Args:
        access: the checkpoint store.
        store: the coordination store; used on ``loop`` only.
        server: this server's name.
        event: records something an operator should see: kind and fields.
        telemetry: shows each checkpoint and restore.
        random: for names of files and jitter.
    """

    def __init__(
        self,
        *,
        access: StoreAccess,
        store: Store,
        keys: Keys,
        loop: asyncio.AbstractEventLoop,
        session: Validity,
        server: str,
        clock: Clock,
        random: random_module.Random | None = None,
        event: Callable[..., None] | None = None,
        telemetry: Telemetry = _SILENT,
        publish_timeout_s: float = PUBLISH_TIMEOUT_S,
    ) -> None:
        self.access = access
        self.store = store
        self.keys = keys
        self.loop = loop
        self.session = session
        self.server = server
        self.clock = clock
        self.random = random if random is not None else random_module.SystemRandom()
        self.event = event if event is not None else _ignore
        self.telemetry = telemetry
        self.publish_timeout_s = publish_timeout_s

    def __repr__(self) -> str:
        return f"Domain({self.server}, {self.access!r})"

    def of(
        self,
        microservice: str,
        path: str,
        replica: str,
        epoch: int,
        document_revision: int = UNKNOWN,
        about: About | None = None,
    ) -> ReplicaCheckpoints:
        """Return the checkpoints of a group, for the replica that this server has of it at ``epoch``.

        Args:
            document_revision: mod revision of the group's document as far as known.
            about: for the description beside the checkpoints; None for none.
        """
        holder = Holder(microservice, path, replica, self.server, self.session.incarnation, epoch)
        describer = Describer(self.access, self.loop, about, microservice, path) if about is not None else None
        return ReplicaCheckpoints(self, holder, document_revision, describer)


class ReplicaCheckpoints:
    """Implements ``contracts.component.Checkpoints``; on loops and, blocking, in threads; safe from several at once.

    Writes are published in the order of the calls: whoever takes snapshots from several places orders its calls.
    """

    def __init__(
        self, domain: Domain, holder: Holder, document_revision: int = UNKNOWN, describer: Describer | None = None
    ) -> None:
        self._domain = domain
        self._holder = holder
        self._describer = describer
        self._document_revision = document_revision
        self._manifest: Manifest | None = None
        self._manifest_revision = 0
        self._rejected: set[str] = set()
        self._restored = ""
        self._log: OperationLog | None = None
        self._log_sizes: dict[str, int] = {}
        self._turn = Turn()
        keys = domain.keys
        self._server_key = keys.server(holder.server)
        self._group_key = keys.group(slot_of(holder.microservice), holder.microservice, holder.path)
        self._manifest_key = keys.manifest(holder.microservice, holder.path)

    def __repr__(self) -> str:
        holder = self._holder
        return f"ReplicaCheckpoints({holder.microservice}{holder.path} of {holder.replica}, epoch {holder.epoch})"

    @property
    def newest_at(self) -> float:
        """When the newest checkpoint known here was taken, by the wall clock; 0 if none is known."""
        return self._manifest.entries[0].taken_at if self._manifest is not None and self._manifest.entries else 0.0

    def know_document(self, revision: int) -> None:
        """Take note of a newer revision of the group's document, which saves one round trip. Never waits."""
        self._document_revision = max(self._document_revision, revision)

    async def write(self, snapshot: bytes, keep: int) -> int:
        """Store ``snapshot`` under a fresh name, synced, then publish it; returns its sequence.

        Args:
            snapshot: opaque bytes.
            keep: how many to keep (1 or more); older ones are removed after the publication, best effort.

        Raises:
            StoreFailed: the store refused, or whether it was published is unknown (``details['kind']`` is ``unknown``);
                the previous checkpoint stays current, or this one is.
            NotExecuted: the session is not valid or the placement is not ours any more (reason ``fenced``).
        """
        telemetry = self._domain.telemetry
        if not telemetry.observing:
            return await self._write(snapshot, keep)
        began = self._domain.clock.monotonic()
        done = False
        try:
            with telemetry.span(shown.CHECKPOINT, attributes=self._attributes()) as span:
                span.set(shown.SIZE_BYTES, len(snapshot))
                sequence = await self._write(snapshot, keep)
                span.set(shown.SEQUENCE, sequence)
                done = True
                return sequence
        finally:
            telemetry.metrics.checkpoint(len(snapshot), self._domain.clock.monotonic() - began, ok=done)

    def _attributes(self) -> Attributes:
        return {shown.MICROSERVICE: self._holder.microservice, shown.EPOCH: self._holder.epoch}

    async def _write(self, snapshot: bytes, keep: int) -> int:
        return (await self._add(snapshot, keep, log=False))[0].sequence

    async def begin_log(self, snapshot: bytes, keep: int, window_s: float) -> OperationLog:
        """Write ``snapshot`` as ``write`` does, with an empty log beside it; returns that log.

        The log begun here before ends with that, all of it synced: a checkpoint with its log leads to the next one. If
        the end of the log before is not known (it failed, or another process wrote it), no older checkpoint is kept.

        Args:
            snapshot: the state after all that was appended to the log before.
            keep: how many checkpoints to keep (1 or more).
            window_s: how long what was appended may wait for more before it is synced; 0 gives each record a sync of its own.

        Raises:
            Invalid: the store can neither append with sync nor create objects atomically.
            StoreFailed, NotExecuted: as ``write``; the log begun before is as it was.
        """
        entry, log = await self._add(snapshot, keep, log=True)
        assert log is not None
        domain = self._domain
        self._log = OperationLog(
            access=domain.access,
            loop=domain.loop,
            url=entry.url,
            segment=log,
            may_append=self._require_session,
            window_s=window_s,
        )
        self._log_sizes.clear()
        return self._log

    async def _add(self, snapshot: bytes, keep: int, *, log: bool) -> tuple[CheckpointEntry, Segment | None]:
        await self._require_session()
        domain, holder = self._domain, self._holder
        timeout_s = domain.access.timeout_s + domain.publish_timeout_s
        try:
            await self._turn.acquire(timeout_s)
        except TimeoutError:
            raise StoreFailed(
                f"earlier checkpoints of {self!r} still wait; the store is too slow", kind="busy"
            ) from None
        try:
            if self._describer is not None:
                await self._describer.keep()
            manifest = await self._known_manifest()
            await self._seal_foreign_log(manifest)
            sequence = next_sequence(manifest)
            key = names.checkpoint(
                holder.microservice, holder.path, holder.epoch, sequence, f"{domain.random.getrandbits(64):016x}"
            )
            segment: Segment | None = None
            if log:
                segment = await domain.access.run(domain.access.store.open_segment, names.log_of(key))
            try:
                digest, size = await domain.access.run(self._store_file, key, snapshot)
                entry = CheckpointEntry(holder.epoch, sequence, key, digest, size, domain.clock.wall(), log)
                return await mode.on(domain.loop, self._publish(entry, max(keep, 1))), segment
            except BaseException:
                if segment is not None:
                    segment.close()
                raise
        finally:
            self._turn.release()

    async def _seal_foreign_log(self, manifest: Manifest) -> None:
        """Stop whoever appends to the newest log, if that is not ours: what it appended after this checkpoint would be lost."""
        newest = manifest.entries[0] if manifest.entries else None
        if newest is None or not newest.log or newest.log_size >= 0 or newest.url in self._known_log_sizes():
            return
        await self._domain.access.run(self._seal, newest)

    async def newest(self) -> tuple[bytes, int] | None:
        """Return the newest intact checkpoint with its sequence, None if there never was one.

        A damaged or missing file is passed over for the one before it, with an event; the next ``write`` drops it from
        the manifest. A store that cannot be read is no reason to pass over anything.

        Raises:
            CorruptCheckpoint: there are checkpoints but none is intact.
            StoreFailed: the store cannot be read.
            CoordinationUnavailable: the manifest cannot be read.
        """
        telemetry = self._domain.telemetry
        if not telemetry.tracing:
            return await self._newest()
        with telemetry.span(shown.RESTORE, attributes=self._attributes()) as span:
            found = await self._newest()
            if found is not None:
                span.set(shown.SIZE_BYTES, len(found[0]))
                span.set(shown.SEQUENCE, found[1])
            return found

    async def _newest(self) -> tuple[bytes, int] | None:
        damage: list[str] = []
        tried_revision = 0
        for _ in range(_RESTORES_MAX):
            manifest = await self._read_manifest()
            if not manifest.entries:
                return None
            if self._manifest_revision == tried_revision:
                break
            tried_revision = self._manifest_revision
            damage = []
            for entry in manifest.entries:
                try:
                    snapshot = await self._domain.access.run(self._read_file, entry)
                except file_format.NotIntact as finding:
                    damage.append(f"{entry.url}: {finding}")
                    self._rejected.add(entry.url)
                    continue
                if damage:
                    self._report(
                        "checkpoint-damaged", f"restored sequence {entry.sequence} instead; {'; '.join(damage)}"
                    )
                self._restored = entry.url
                return snapshot, entry.sequence
        self._report("checkpoint-damaged", f"none is intact; {'; '.join(damage)}")
        raise CorruptCheckpoint(
            f"none of the {len(damage)} checkpoints of microservice {self._holder.microservice}{self._holder.path} is "
            f"intact ({'; '.join(damage)}); bring the files back from a backup, or `amino delete` the microservice",
            kind="damaged",
        )

    async def tail(self) -> list[bytes]:
        """Return what was logged after the checkpoint that ``newest`` returned, and let nobody append to it any more.

        Call it before this replica serves, after ``newest``. Idempotent.

        Raises:
            CorruptCheckpoint: something that was acknowledged cannot be read any more.
            StoreFailed: the store cannot be read. NotExecuted: a later epoch has its own log (reason ``fenced``).
        """
        await self._require_session()
        manifest = await self._known_manifest()
        if any(entry.epoch > self._holder.epoch for entry in manifest.entries):
            raise self._fenced("its manifest is of a later epoch")
        urls = [entry.url for entry in manifest.entries]
        if self._restored not in urls:
            return []
        leading = manifest.entries[: urls.index(self._restored) + 1]
        records: list[bytes] = []
        for entry in reversed(leading):
            newest = entry is leading[0]
            try:
                if not entry.log or (entry.log_size < 0 and not newest):
                    if newest:
                        break
                    raise file_format.NotIntact("what ran after it is known to the next checkpoint only")
                content = await self._domain.access.run(self._seal_and_read, entry)
            except file_format.NotIntact as finding:
                text = f"the log of checkpoint {entry.url} is not intact ({finding}), and calls in it were acknowledged"
                self._report("checkpoint-damaged", text)
                raise CorruptCheckpoint(
                    f"{text}; bring the files of microservice {self._holder.microservice}{self._holder.path} back from a "
                    "backup, or `amino delete` it",
                    kind="damaged",
                ) from None
            self._log_sizes[entry.url] = content.size
            records += content.records
        return records

    def _seal_and_read(self, entry: CheckpointEntry) -> log_format.Content:
        store = self._domain.access.store
        if entry.log_size < 0:
            self._seal(entry)
        found = store.read_segment(names.log_of(entry.url))
        if found is None:
            raise file_format.NotIntact("it is missing")
        data, whole = found
        return log_format.read(log_format.seed_of(entry.url), data, size=entry.log_size, whole=whole)

    def _seal(self, entry: CheckpointEntry) -> None:
        with contextlib.suppress(AlreadyExists):
            self._domain.access.store.write(names.seal_of(entry.url), [b"sealed"])

    def _report(self, kind: str, text: str) -> None:
        _log.error("%s%s: %s", self._holder.microservice, self._holder.path, text)
        self._domain.event(kind, microservice=self._holder.microservice, path=self._holder.path, text=text)

    def _store_file(self, key: str, snapshot: bytes) -> tuple[str, int]:
        encoded = file_format.encode(snapshot)
        self._domain.access.store.write(key, encoded.parts)
        return encoded.sha256, encoded.size

    def _read_file(self, entry: CheckpointEntry) -> bytes:
        data = self._domain.access.store.read(entry.url)
        if data is None:
            raise file_format.NotIntact("it is missing")
        return file_format.decode(data, entry.sha256)

    async def _require_session(self) -> None:
        session = self._domain.session
        if session.valid() and session.incarnation == self._holder.incarnation:
            return
        valid = await mode.on(self._domain.loop, session.wait_valid(HOLD_S))
        if not valid or session.incarnation != self._holder.incarnation:
            raise self._fenced("this server's session is not valid")

    def _fenced(self, why: str) -> NotExecuted:
        return NotExecuted(
            f"no checkpoint of microservice {self._holder.microservice}{self._holder.path} is written here: {why}",
            reason="fenced",
        )

    # --- the manifest ------------------------------------------------------------------------------------------------

    async def _known_manifest(self) -> Manifest:
        return self._manifest if self._manifest is not None else await self._read_manifest()

    async def _read_manifest(self) -> Manifest:
        return await mode.on(self._domain.loop, self._load_manifest())

    async def _load_manifest(self) -> Manifest:
        return self._note_manifest(await self._domain.store.get(self._manifest_key))

    def _note_manifest(self, record: Record | None) -> Manifest:
        self._manifest = Manifest() if record is None else decode(record.value, Manifest, self._manifest_key)
        self._manifest_revision = 0 if record is None else record.mod_revision
        return self._manifest

    def _known_log_sizes(self) -> dict[str, int]:
        log = self._log
        if log is None or log.failed is not None:
            return self._log_sizes
        return {log.url: log.synced}

    async def _publish(self, entry: CheckpointEntry, keep: int) -> CheckpointEntry:
        """Put ``entry`` into the manifest; on the loop. Loops until a guarded write settles it, or time is up."""
        domain = self._domain
        give_up = domain.clock.monotonic() + domain.publish_timeout_s
        pause_s = RETRY_S_FIRST
        while True:
            assert self._manifest is not None
            if any(known.epoch > entry.epoch for known in self._manifest.entries):
                raise self._give_up(entry, "its manifest is of a later epoch")
            entry = _renumbered(entry, self._manifest)
            manifest, dropped = added(self._manifest, entry, keep, self._rejected, self._known_log_sizes())
            try:
                result = await self._try_publish(manifest)
            except CoordinationUnavailable as error:
                if domain.clock.monotonic() + pause_s >= give_up:
                    self._manifest = None  # an unknown write may land: look again before the next
                    raise StoreFailed(
                        f"whether checkpoint {entry.url} was published is unknown, because etcd did not answer for "
                        f"{domain.publish_timeout_s:g} s ({error}); check etcd, then call again",
                        kind="unknown",
                    ) from error
                await asyncio.sleep(pause_s * domain.random.uniform(0.5, 1.0))
                pause_s = min(2 * pause_s, RETRY_S_MAX)
                continue
            if result.succeeded:
                self._manifest, self._manifest_revision = manifest, result.revision
                self._remove(dropped)
                return entry
            settled = self._settle(entry, result)
            if settled is not None:
                return settled

    async def _try_publish(self, manifest: Manifest) -> TxnResult:
        return await self._domain.store.txn(
            [
                created_at(self._server_key, self._holder.incarnation),
                unchanged(self._group_key, self._document_revision),
                unchanged(self._manifest_key, self._manifest_revision),
            ],
            [Put(self._manifest_key, encode(manifest))],
            [Get(self._server_key), Get(self._group_key), Get(self._manifest_key)],
        )

    def _settle(self, entry: CheckpointEntry, result: TxnResult) -> CheckpointEntry | None:
        """Learn from a refused write why it was refused; returns the entry if an earlier try had landed."""
        (server,), (group,), (current,) = (records or (None,) for records in result.reads)
        manifest = self._note_manifest(current)
        for published in manifest.entries:
            if published.url == entry.url:
                return published
        why = ""
        if server is None or server.create_revision != self._holder.incarnation:
            why = "this server's incarnation has ended"
        else:
            why = refusal(self._holder, None if group is None else decode(group.value, GroupDocument, group.key))
        if why:
            raise self._give_up(entry, why)
        assert group is not None
        self._document_revision = group.mod_revision
        return None

    def _give_up(self, entry: CheckpointEntry, why: str) -> NotExecuted:
        # Whatever of ours may still land compares what has changed for good: the file can go.
        self._domain.access.run_later(_delete, self._domain.access.store, entry)
        return self._fenced(why)

    def _remove(self, dropped: tuple[CheckpointEntry, ...]) -> None:
        for old in dropped:
            self._rejected.discard(old.url)
            self._domain.access.run_later(_delete, self._domain.access.store, old)


def _delete(store: CheckpointStore, entry: CheckpointEntry) -> None:
    store.delete(entry.url)
    if entry.log:  # its seal stays for the collector: who still appends must find it
        store.delete_segment(names.log_of(entry.url))


def _renumbered(entry: CheckpointEntry, manifest: Manifest) -> CheckpointEntry:
    sequence = max(entry.sequence, next_sequence(manifest))
    if sequence == entry.sequence:
        return entry
    return msgspec.structs.replace(entry, sequence=sequence)


def _ignore(*_args: Any, **_fields: Any) -> None:
    pass
