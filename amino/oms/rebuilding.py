"""Bringing microservices back into an etcd that has lost them, from the checkpoint store: what ``amino rebuild`` does.

Owns reading the store, writing what ``rebuild_machine`` plans, and telling how each microservice fares. Leaves restoring to the
slot leaders of the servers, which find the documents as after any loss.
Invariants: what is in etcd is never written over, but where etcd itself was restored from a backup; a microservice appears as a
whole or, while its shards are being written, as lost; run again, it finishes what an earlier run began and doubles nothing.
Failure behaviour: what concerns one microservice is its outcome; ``StoreFailed`` and ``CoordinationUnavailable`` that concern
all end the run, and it may be run again.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from amino.aio.clock import Clock
from amino.checkpoint import names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.identity import identify
from amino.checkpoint.inventory import Files, find_all, read_all
from amino.checkpoint.store import CheckpointStore
from amino.contracts.documents import CodeRecord, GroupDocument, MicroserviceRecord, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Get, Operation, Put, Store, absent, unchanged
from amino.errors import AlreadyExists, AminoError, CoordinationUnavailable, Invalid, StoreFailed
from amino.ids import ROOT, slot_of
from amino.oms import rebuild_machine as machine
from amino.oms.ports import Chains
from amino.oms.restored_etcd import RestoredEtcd

AT_ONCE = 8
LISTING_TIMEOUT_S = 600.0
READING_TIMEOUT_S = 300.0
TRIES_MAX = 20

BACK, THERE, TAKEN, FAILED, PLANNED = "written", "exists", "name taken", "not possible", "would be written"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one microservice fared.

    Args:
        id: of the microservice. name, cls: as its description says, empty if that is not known.
        outcome: ``written``, ``exists`` (it was there before, and was left alone), ``name taken``, ``not possible``, or, where
            nothing was to be written, ``would be written``.
        why: the reason of a failure, and what else is to be known.
        state: as the cluster sees it now, empty where it is not there.
        groups: how many groups it has. checkpoint: the newest, as epoch-sequence; taken_at, size: of that.
    """

    id: str
    outcome: str
    name: str = ""
    cls: str = ""
    why: str = ""
    state: str = ""
    groups: int = 0
    checkpoint: str = ""
    taken_at: float = 0.0
    size: int = 0

    @property
    def is_good(self) -> bool:
        """Whether nothing is left to do for an operator."""
        return self.outcome in (BACK, THERE, PLANNED) and self.state in ("", "active")


_Ready = tuple[machine.Rebuilt, Outcome]


class Rebuilding:
    """One run over one cluster's store.

    Args:
        dry_run: write nothing, neither to etcd nor to the store.
        restored: etcd is not empty but was restored from a backup; no server runs.
        look_s: for how long it is made sure of that.
        progress: told how many of how many microservices are done.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        access: StoreAccess,
        chains: Chains,
        clock: Clock,
        dry_run: bool = False,
        restored: bool = False,
        look_s: float = 3.0,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
    ) -> None:
        self._restored = RestoredEtcd(store, keys, chains, clock, look_s=look_s) if restored else None
        self._store = store
        self._keys = keys
        self._access = access
        self._chains = chains
        self._clock = clock
        self._dry_run = dry_run
        self._progress = progress
        self._store_id = ""
        self._number = 0

    def __repr__(self) -> str:
        return f"Rebuilding({self._access!r})"

    async def run(self) -> list[Outcome]:
        """Bring back whatever the store holds and etcd does not; returns an outcome for each, by name.

        Raises:
            Invalid: the store is not one of Amino's. Conflict: etcd was restored, and servers run. StoreFailed, CoordinationUnavailable: it cannot go on; run it again.
        """
        access = self._access
        if await access.read(names.IDENTITY) is None:
            raise Invalid(
                f"{access.store.url} has no {names.IDENTITY}: no server has used it as its checkpoint store; give the "
                "--store and --cluster that the servers have"
            )
        self._store_id = await access.run(identify, access.store)
        self._number = await access.run(_next_number, access.store)
        everything = await access.run(find_all, access.store, timeout_s=LISTING_TIMEOUT_S)
        found = {
            ms_id: groups for ms_id, groups in everything.items() if any(one.checkpoints for one in groups.values())
        }
        if self._restored is not None and not self._dry_run:
            await self._begin_writing()
            await self._restored.make_room(_described(found), self._floor)
        todo = sorted(found, key=lambda ms_id: _newest(found[ms_id]), reverse=True)  # of two of a name the newer
        outcomes: list[Outcome] = []
        async for outcome in self._each(found, todo):
            outcomes.append(outcome)
            self._progress(len(outcomes), len(todo))
        return sorted(outcomes, key=lambda one: (one.name or "~", one.id))

    async def _each(self, found: Mapping[str, dict[str, Files]], todo: Sequence[str]) -> AsyncIterator[Outcome]:
        """Read several at once, write one after the other."""
        for start in range(0, len(todo), AT_ONCE):
            batch = todo[start : start + AT_ONCE]
            for ms_id, ready in zip(
                batch, await asyncio.gather(*(self._one(one, found[one]) for one in batch)), strict=True
            ):
                yield ready if isinstance(ready, Outcome) else await self._write(ms_id, *ready)

    async def _one(self, ms_id: str, files: Mapping[str, Files]) -> Outcome | _Ready:
        try:
            return await self._prepare(ms_id, files)
        except (CoordinationUnavailable, StoreFailed):
            raise
        except AminoError as error:
            return Outcome(ms_id, FAILED, why=str(error))

    async def _prepare(self, ms_id: str, files: Mapping[str, Files]) -> Outcome | _Ready:
        """Return what is to be written for a microservice, or its outcome where nothing is."""
        present, known = await self._present(ms_id)
        if known is not None and not (self._restored is not None and self._dry_run):
            return Outcome(ms_id, THERE, known.spec.name, known.spec.cls)
        seal = () if self._dry_run else tuple(path for path in files if path not in present)
        groups = await self._access.run(
            lambda: read_all(self._access.store, files, intact_max=machine.KEPT, seal=seal), timeout_s=READING_TIMEOUT_S
        )
        problems = "; ".join(problem for group in groups.values() for problem in group.problems)
        record = machine.record_of(groups)
        if record is None:
            return Outcome(ms_id, FAILED, why=problems or machine.UNDESCRIBED)
        about = Outcome(ms_id, FAILED, record.spec.name, record.spec.cls)
        try:
            levels = self._chains.levels(record.spec)
        except AminoError as error:
            return replace(about, why=str(error))
        if not self._chains.recovers_from_checkpoint(record.spec):
            return replace(about, why="its managers keep no checkpoints any more")
        plan = machine.plan(groups, levels, self._store_id, at_least=self._floor)
        if isinstance(plan, machine.Refused):
            return replace(about, why="; ".join(filter(None, (plan.why, problems))))
        newest = plan.newest
        if newest is not None:
            text = f"{newest.epoch}-{newest.sequence}"
            about = replace(about, checkpoint=text, taken_at=newest.taken_at, size=newest.size)
        holder = await self._holder(record.spec.name)
        if holder not in ("", ms_id):
            return replace(about, outcome=TAKEN, why=_taken(holder))
        code = await self._bring_code(record.spec.code)
        about = replace(about, groups=len(plan.documents), why="; ".join(filter(None, (*plan.notes, code))))
        return replace(about, outcome=PLANNED) if self._dry_run else (plan, about)

    async def _present(self, ms_id: str) -> tuple[set[str], MicroserviceRecord | None]:
        """Return the paths of the groups that are in etcd, and the record if nothing is left to do for them."""
        slot = slot_of(ms_id)
        found, _ = await self._store.list(self._keys.groups_of(slot, ms_id))
        documents = {self._keys.parse_group(one.key).path: decode(one.value, GroupDocument, one.key) for one in found}
        record = await self._store.get(self._keys.microservice(slot, ms_id))
        if record is None or ROOT not in documents or machine.is_unfinished(documents[ROOT]):
            return set(documents), None
        return set(documents), decode(record.value, MicroserviceRecord, record.key)

    async def _holder(self, name: str) -> str:
        record = await self._store.get(self._keys.name(name)) if name else None
        return record.value.decode() if record is not None else ""

    # --- writing ----------------------------------------------------------------------------------------------------

    @property
    def _floor(self) -> int:
        """An epoch above all that earlier rebuildings began with and groups have come to since."""
        return self._number * machine.EPOCH_STEP - 1

    async def _begin_writing(self) -> None:
        """Note that a rebuilding of this number began: what it writes may be lost before there is a checkpoint of it."""
        with contextlib.suppress(AlreadyExists):  # noted already, or by another run at the same time
            await self._access.write(names.rebuild(self._number), b"begun")

    async def _write(self, ms_id: str, plan: machine.Rebuilt, about: Outcome) -> Outcome:
        await self._begin_writing()
        for _ in range(TRIES_MAX):
            if await self._begin(ms_id, plan) and await self._finish(ms_id, plan):
                return replace(about, outcome=BACK)
            holder = await self._holder(plan.record.spec.name)
            if holder not in ("", ms_id):
                return replace(about, outcome=TAKEN, why=_taken(holder))
            root = await self._store.get(self._keys.group(slot_of(ms_id), ms_id, ROOT))
            if root is not None and not machine.is_unfinished(decode(root.value, GroupDocument, root.key)):
                return replace(about, outcome=THERE)
        return replace(about, why="its documents keep changing; is another `amino rebuild` at work?")

    async def _begin(self, ms_id: str, plan: machine.Rebuilt) -> bool:
        """Write record, name and root, or find that they were written before; returns whether that is so."""
        slot, keys, name = slot_of(ms_id), self._keys, plan.record.spec.name
        root_key, record_key = keys.group(slot, ms_id, ROOT), keys.microservice(slot, ms_id)
        whole = len(plan.documents) == 1
        root = plan.documents[ROOT] if whole else machine.unfinished(plan.documents[ROOT])
        compares = [absent(record_key), absent(root_key), absent(keys.manifest(ms_id, ROOT))]
        puts: list[Operation] = [Put(record_key, encode(plan.record)), Put(root_key, encode(root))]
        if ROOT in plan.manifests:
            puts.append(Put(keys.manifest(ms_id, ROOT), encode(plan.manifests[ROOT])))
        if name:
            compares.append(absent(keys.name(name)))
            puts.append(Put(keys.name(name), ms_id.encode()))
        result = await self._store.txn(compares, puts, [Get(root_key)])
        if result.succeeded:
            return True
        present = result.reads[0]
        return bool(present) and machine.is_unfinished(decode(present[0].value, GroupDocument, root_key))

    async def _finish(self, ms_id: str, plan: machine.Rebuilt) -> bool:
        """Write the groups of shards, then let the root go on; returns whether it does."""
        if len(plan.documents) == 1:
            return True
        slot, keys = slot_of(ms_id), self._keys
        root_key = keys.group(slot, ms_id, ROOT)
        for path, document in plan.documents.items():
            if path == ROOT:
                continue
            key = keys.group(slot, ms_id, path)
            puts: list[Operation] = [Put(key, encode(document))]
            if path in plan.manifests:
                puts.append(Put(keys.manifest(ms_id, path), encode(plan.manifests[path])))
            await self._store.txn([absent(key)], puts)  # or an earlier run wrote it
        root = await self._store.get(root_key)
        if root is None:
            return False
        if not machine.is_unfinished(decode(root.value, GroupDocument, root_key)):
            return True
        final = [Put(root_key, encode(plan.documents[ROOT]))]
        return (await self._store.txn([unchanged(root_key, root.mod_revision)], final)).succeeded

    async def _bring_code(self, sha256: str) -> str:
        """Have the record of a bundle in etcd; returns what is to be said if the store does not hold the bundle."""
        key = self._keys.code(sha256) if sha256 else ""
        if not key or await self._store.get(key) is not None:
            return ""
        url = names.code(sha256)
        content = await self._access.read(url)
        if content is None or hashlib.sha256(content).hexdigest() != sha256:
            return f"its code, bundle {sha256[:12]}, is not in the store: push it again with `amino app push`"
        if not self._dry_run:
            kind = "zip" if content.startswith(b"PK") else "pickle"
            record = CodeRecord(kind, b"", url, len(content), self._clock.wall())  # type: ignore[arg-type]
            await self._store.txn([absent(key)], [Put(key, encode(record))])
        return ""

    # --- afterwards -------------------------------------------------------------------------------------------------

    async def servers(self) -> int:
        """Return how many servers there are to bring them back."""
        return len((await self._store.list(self._keys.servers_prefix))[0])

    async def look(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        """Return ``outcomes`` with the states that those which are in etcd have now."""
        documents: dict[str, dict[str, GroupDocument]] = {}
        for record in (await self._store.list(self._keys.groups_prefix))[0]:
            owned = self._keys.parse_group(record.key)
            documents.setdefault(owned.id, {})[owned.path] = decode(record.value, GroupDocument, record.key)
        return [self._seen(one, documents.get(one.id)) for one in outcomes]

    @staticmethod
    def _seen(one: Outcome, documents: dict[str, GroupDocument] | None) -> Outcome:
        if one.outcome not in (BACK, THERE) or documents is None:
            return one
        state, reason = machine.state_of(documents)
        known = [part for part in one.why.split("; ") if part and part != reason]
        return replace(one, state=state, why="; ".join(filter(None, (reason, *known))))


def _described(found: Mapping[str, dict[str, Files]]) -> set[str]:
    """Return the microservices that can be brought back, if nothing is damaged: those with a description."""
    return {ms_id for ms_id, groups in found.items() if any(files.descriptions for files in groups.values())}


def _newest(groups: Mapping[str, Files]) -> float:
    return max(
        (file.modified_at for files in groups.values() for file in files.checkpoints.values() if file), default=0.0
    )


def _next_number(store: CheckpointStore) -> int:
    return 1 + max((int(file.key.removeprefix(names.REBUILDS)) for file in store.list(names.REBUILDS)), default=0)


def _taken(holder: str) -> str:
    return f"microservice {holder} has that name; delete it and run this again"
