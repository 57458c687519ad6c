"""Proving by a transaction that a replica may answer.

Owns the writes that a hosting server makes to a group document: confirming a placement, switching a move, and (for the
slot leader in the same process) creating a microservice that serves at once. Leaves every other edit to slot leaders.
Invariants: both compare this server's session key and the document's revision; the switch also compares the slot leader's
key, so that a deposed leader's move cannot land.
Failure behaviour: an unknown outcome is repeated until it is settled or the session ends; a compare that fails because the
write had landed already counts as done, otherwise ``NotExecuted`` (reason ``fenced``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import msgspec

from amino.aio.mode import sleep
from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument, decode, encode
from amino.coordination.store import Delete, Get, Put, created_at, unchanged
from amino.errors import CoordinationUnavailable, NotExecuted, Overloaded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.services import Fence
    from amino.coordination.store import Compare, Operation, Store, TxnResult

_RETRY_S = 0.05
_UNKNOWN_S_MAX = 60.0


class Writer(Protocol):
    """Runs guarded transactions, several at a time."""

    async def write(self, compares: Sequence[Compare], then: Sequence[Operation]) -> TxnResult:
        """Do ``then`` if all compares hold."""
        ...


def confirmed(document: GroupDocument, replica: str, methods: dict[str, int]) -> GroupDocument:
    """Return ``document`` with ``replica`` confirmed and the group active. Pure."""
    return msgspec.structs.replace(
        document,
        phase=Phase.ACTIVE,
        version=document.version + 1,
        constructed=True,
        methods=methods,
        replicas=tuple(
            msgspec.structs.replace(each, confirmed=True) if each.id == replica else each for each in document.replicas
        ),
    )


def switched(document: GroupDocument, methods: dict[str, int]) -> GroupDocument:
    """Return ``document`` with its move carried out: next epoch, the target in the source's place. Pure."""
    move = document.move
    assert move is not None
    target = msgspec.structs.replace(move.target, confirmed=True)
    source = next(each for each in document.replicas if each.id == move.source)
    return msgspec.structs.replace(
        document,
        phase=Phase.ACTIVE,
        epoch=document.epoch + 1,
        version=document.version + 1,
        methods=methods,
        replicas=tuple(target if each.id == move.source else each for each in document.replicas),
        leftovers=(*document.leftovers, source),
        move=None,
        explanation={**{k: v for k, v in document.explanation.items() if k != source.id}, target.id: move.why},
    )


class Confirmer:
    """Writes confirmations.

    Args:
        writer: combines the confirmations of many replicas into few transactions.
        server_key: this server's session key. incarnation: its create revision.
        valid: whether the session is valid; confirming stops when it is not.
        slot_key: returns the key of a slot.
        nothing: a key that is never written; deleting it makes a transaction a write, which no stale member answers.
    """

    def __init__(
        self,
        store: Store,
        writer: Writer,
        *,
        server_key: str,
        incarnation: int,
        slot_key: Callable[[int], str],
        nothing: str,
        valid: Callable[[], bool],
    ) -> None:
        self._store = store
        self._writer = writer
        self._mine = created_at(server_key, incarnation)
        self._slot_key = slot_key
        self._nothing = nothing
        self._valid = valid

    async def confirm(
        self, key: str, document: GroupDocument, replica: str, fence: Fence, methods: dict[str, int]
    ) -> int:
        """Confirm ``replica`` in the group document at ``key``; returns the document's new revision. Idempotent.

        Raises:
            NotExecuted: the document changed meanwhile, or the session ended (reason ``fenced``).
        """
        compares = [self._mine, unchanged(key, fence.document_revision)]
        goal = confirmed(document, replica, methods)
        return self._not_overtaken(await self._settle(key, goal, compares, [Put(key, encode(goal))], replica), replica)

    async def switch(self, key: str, document: GroupDocument, fence: Fence, methods: dict[str, int]) -> int:
        """Carry out ``document.move`` in favour of this server; returns the document's new revision. Idempotent."""
        assert document.move is not None
        compares = [
            self._mine,
            unchanged(key, fence.document_revision),
            created_at(self._slot_key(fence.slot), fence.leader_revision),
        ]
        goal, target = switched(document, methods), document.move.target.id
        return self._not_overtaken(await self._settle(key, goal, compares, [Put(key, encode(goal))], target), target)

    async def change(
        self,
        key: str,
        goal: GroupDocument,
        replica: str,
        fence: Fence,
        compares: Sequence[Compare],
        write: Sequence[Operation],
    ) -> int:
        """Put a change of managers on record: ``write``, by which ``goal`` gets to ``key``. Idempotent.

        Returns:
            The documents' new revision.

        Raises:
            NotExecuted: a document changed meanwhile, or the session ended (reason ``fenced``).
        """
        leads = created_at(self._slot_key(fence.slot), fence.leader_revision)
        done = await self._settle(key, goal, [self._mine, leads, *compares], write, replica)
        return self._not_overtaken(done, replica)

    async def edit(self, key: str, document: GroupDocument, revision: int) -> tuple[bool, GroupDocument | None, int]:
        """Write ``document`` at ``key`` if it is at ``revision`` and this incarnation lives: a primary's edit of its group.

        Returns:
            Whether it was done, the document as it is after it (None if it is gone), and its revision.

        Raises:
            CoordinationUnavailable: the outcome is not known.
        """
        result = await self._store.txn([self._mine, unchanged(key, revision)], [Put(key, encode(document))], [Get(key)])
        if result.succeeded:
            return True, document, result.revision
        found = result.reads[0][0] if result.reads and result.reads[0] else None
        if found is None:
            return False, None, result.revision
        return False, decode(found.value, GroupDocument, key), found.mod_revision

    async def create(
        self, key: str, document: GroupDocument, replica: str, compares: Sequence[Compare], puts: Sequence[Put]
    ) -> int | None:
        """Write ``puts``, of which ``document`` at ``key`` is one and confirms ``replica`` of this server.

        Args:
            compares: must include that this server's session key is this incarnation's, and that ``key`` is absent.

        Returns:
            The document's revision, None if a compare did not hold: nothing was written.

        Raises:
            NotExecuted: the session ended (reason ``fenced``).
        """
        return await self._settle(key, document, compares, puts, replica)

    @staticmethod
    def _not_overtaken(revision: int | None, replica: str) -> int:
        if revision is None:
            raise NotExecuted(f"the placement of {replica} was overtaken by a newer decision", reason="fenced")
        return revision

    async def _settle(
        self, key: str, goal: GroupDocument, compares: Sequence[Compare], write: Sequence[Operation], replica: str
    ) -> int | None:
        """Write ``write`` and be sure of the outcome; returns the revision, None if a compare does not hold.

        Once an outcome is unknown it waits for the session to be valid again: the write may have landed, and giving up now would
        leave a replica on record that a live server does not have. A session that is over ends the process.
        """
        unknown_s = 0.0
        while unknown_s < _UNKNOWN_S_MAX and (self._valid() or unknown_s):
            if not self._valid():
                await sleep(_RETRY_S)
                unknown_s += _RETRY_S
                continue
            try:
                result = await self._writer.write(compares, write)
                if not result.succeeded:
                    result = await self._store.txn(compares, write, [Get(key)])
                if result.succeeded:
                    return result.revision
                found = result.reads[0][0] if result.reads and result.reads[0] else None
                if found is not None and self._is_done(decode(found.value, GroupDocument, key), goal, replica):
                    # our own write had landed; prove that nothing newer did, by a transaction and not by that read
                    check = await self._store.txn(
                        [self._mine, unchanged(key, found.mod_revision)], [Delete(self._nothing)]
                    )
                    if check.succeeded:
                        return found.mod_revision
                    continue
                return None
            except Overloaded:
                await sleep(_RETRY_S)
            except CoordinationUnavailable:
                await sleep(_RETRY_S)
                unknown_s += _RETRY_S
        raise NotExecuted(f"the session ended before the placement of {replica} was confirmed", reason="fenced")

    @staticmethod
    def _is_done(found: GroupDocument, goal: GroupDocument, replica: str) -> bool:
        mine: ReplicaDocument | None = next((each for each in found.replicas if each.id == replica), None)
        same = (found.epoch, found.generation) == (goal.epoch, goal.generation)
        return same and mine is not None and mine.confirmed
