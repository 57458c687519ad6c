"""Decisions of two-phase commits, at any server: etcd's compare-and-set lets exactly one outcome win.

Owns creating, settling, listing and removing the keys. Leaves who is to decide, and telling cohorts, to deployment managers.
Invariants: commit and abort compare the key's revision with that of its creation, so whoever comes second (an initiator
thawed after recovery, a write that timed out and lands late) changes nothing; every answer is read in a transaction that
writes, so that none is stale; an aborted decision leaves no key. Of a transaction that began in an etcd which was lost, the
absence of a key tells nothing: it stays open until an operator settles it (``amino settle``).
Failure behaviour: ``CoordinationUnavailable`` leaves the outcome open; ask again, or wish again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.contracts.decisions import (
    ABORT,
    ABORTED,
    ASK,
    COMMIT,
    COMMITTED,
    PENDING,
    BeginDecisionRequest,
    DecideRequest,
    Decision,
    DecisionDocument,
    DecisionList,
    DecisionsRequest,
)
from amino.contracts.documents import decode, encode
from amino.contracts.kernel_service import Empty
from amino.coordination.store import Delete, Get, Operation, Put, absent, unchanged
from amino.errors import Conflict, Invalid

if TYPE_CHECKING:
    from amino.aio.clock import Clock
    from amino.coordination.keys import Keys
    from amino.coordination.store import Record, Store
    from amino.oms.directory import Directory

COHORTS_MAX = 64


class DecisionOperations:
    """The registry's operations on decisions."""

    _store: Store
    _keys: Keys
    _clock: Clock
    _directory: Directory

    async def begin_decision(self, request: BeginDecisionRequest) -> Decision:
        """See ``contracts.services.Registry.begin_decision``."""
        if len(request.cohorts) > COHORTS_MAX:
            raise Invalid(f"{len(request.cohorts)} microservices in one transaction; the bound is {COHORTS_MAX}")
        key = self._keys.decision(request.transaction)
        document = DecisionDocument(PENDING, request.cohorts, request.resource, self._clock.wall())
        made = await self._store.txn([absent(key)], [Put(key, encode(document))], [Get(key)])
        if made.succeeded:
            return self._told(request.transaction, document, made.revision)
        record = made.reads[0][0]
        return self._told(request.transaction, decode(record.value, DecisionDocument, key), record.create_revision)

    async def decide(self, request: DecideRequest) -> Decision:
        """See ``contracts.services.Registry.decide``."""
        key = self._keys.decision(request.transaction)
        look: list[Operation] = [Get(key), Delete(self._keys.nothing)]
        revision = request.revision - self._directory.cluster.counts_from
        if request.wish == ASK or revision <= 0:
            seen = await self._store.txn([], look)
            return self._settled(request, seen.reads[0])
        if request.wish == ABORT:
            done = await self._store.txn([unchanged(key, revision)], [Delete(key)], look)
            return self._told(request.transaction) if done.succeeded else self._settled(request, done.reads[0])
        if request.wish != COMMIT:
            raise Invalid(f"wish is {request.wish!r}; give commit, abort or ask")
        record = await self._store.get(key)  # for what is copied into the new value; the transaction judges
        if record is None:
            return self._settled(request, (await self._store.txn([], look)).reads[0])
        begun = decode(record.value, DecisionDocument, key)
        committed = DecisionDocument(COMMITTED, begun.cohorts, begun.resource, begun.begun_at)
        done = await self._store.txn([unchanged(key, revision)], [Put(key, encode(committed))], look)
        if done.succeeded:
            return self._told(request.transaction, committed, revision)
        return self._settled(request, done.reads[0])

    async def decisions(self, request: DecisionsRequest) -> DecisionList:
        """See ``contracts.services.Registry.decisions``."""
        records, _ = await self._store.list(self._keys.decisions_prefix)
        found = [
            self._told(
                record.key.removeprefix(self._keys.decisions_prefix),
                decode(record.value, DecisionDocument, record.key),
                record.create_revision,
            )
            for record in records
        ]
        return DecisionList(tuple(each for each in found if each.resource == request.resource))

    async def end_decision(self, request: DecideRequest) -> Empty:
        """See ``contracts.services.Registry.end_decision``."""
        key = self._keys.decision(request.transaction)
        record = await self._store.get(key)
        revision = request.revision - self._directory.cluster.counts_from
        if record is not None and record.mod_revision > record.create_revision == revision:
            await self._store.txn([unchanged(key, record.mod_revision)], [Delete(key)])
        return Empty()

    def _settled(self, request: DecideRequest, records: tuple[Record, ...]) -> Decision:
        if records:
            document = decode(records[0].value, DecisionDocument, records[0].key)
            return self._told(request.transaction, document, records[0].create_revision)
        if 0 < request.revision < self._directory.cluster.counts_from:
            raise Conflict(
                f"the outcome of transaction {request.transaction} was lost with etcd; see what the other participants hold, "
                f"then `amino settle {request.transaction} commit` or `abort`",
                transaction=request.transaction,
            )
        return self._told(request.transaction)

    def _told(self, transaction: str, document: DecisionDocument | None = None, revision: int = 0) -> Decision:
        if document is None:
            return Decision(transaction, ABORTED)
        counted = self._directory.cluster.counts_from + revision
        return Decision(transaction, document.outcome, counted, document.cohorts, document.resource)
