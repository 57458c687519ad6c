"""Numbers made of revisions: those of an etcd that was lost are all lower than those of the one that replaced it."""

from __future__ import annotations

import pytest

from amino.contracts.decisions import (
    ABORT,
    ABORTED,
    ASK,
    COMMIT,
    COMMITTED,
    BeginDecisionRequest,
    DecideRequest,
    DecisionDocument,
    DecisionsRequest,
)
from amino.contracts.documents import ClusterDocument, encode
from amino.contracts.kernel_service import Empty
from amino.contracts.locks import AcquireLockRequest, HeldLockRequest
from amino.coordination.store import Put
from amino.errors import Conflict, LockLost
from amino.node.cluster_document import cluster_document
from tests.coordination.virtual import run_virtual
from tests.oms.world import World

SINCE = 1_790_000_000_000_000


async def _begin(world: World, counts_from: int = SINCE) -> None:
    await world.admin.txn([], [Put(world.keys.cluster, encode(ClusterDocument(counts_from=counts_from)))])
    await world.add("s1")


def test_a_new_etcd_counts_from_the_time_of_its_first_use() -> None:
    """More microseconds pass than revisions are made, so one that replaces another counts higher."""

    async def main(clock):
        async with World(clock) as world:
            first = await cluster_document(world.admin, world.keys)
            assert first.counts_from > SINCE
            assert await cluster_document(world.admin, world.keys) == first

    run_virtual(main)


def test_clients_take_the_members_of_a_new_etcd_for_newer() -> None:
    """Its revisions are lower than those they know; what they are told is not."""

    async def main(clock):
        async with World(clock) as world:
            await _begin(world)
            assert (await world.servers["s1"].registry.members(Empty())).revision > SINCE

    run_virtual(main)


def test_lock_tokens_of_a_lost_etcd_are_lower_and_hold_nothing() -> None:
    """A fenced object that has seen one accepts those of today; the holder of before has lost its lock."""

    async def main(clock):
        async with World(clock) as world:
            await _begin(world)
            registry = world.servers["s1"].registry
            grant = await registry.acquire_lock(AcquireLockRequest("orders", "a"))
            assert grant.token > SINCE
            assert (await registry.acquire_lock(AcquireLockRequest("orders", "a"))).token == grant.token
            assert (await registry.renew_lock(HeldLockRequest("orders", "a", grant.token, 5.0))).token == grant.token
            for old in (1, 77, SINCE):
                with pytest.raises(LockLost):
                    await registry.renew_lock(HeldLockRequest("orders", "a", old, 5.0))
                await registry.release_lock(HeldLockRequest("orders", "a", old, 5.0))
            assert (await registry.acquire_lock(AcquireLockRequest("orders", "b"))).token == 0
            await registry.release_lock(HeldLockRequest("orders", "a", grant.token, 5.0))
            assert (await registry.acquire_lock(AcquireLockRequest("orders", "b"))).token > grant.token

    run_virtual(main)


def test_a_decision_that_was_lost_is_no_abort() -> None:
    """An absent key means abort only for what began in this etcd; for what began before it stays open until it is settled."""

    async def main(clock):
        async with World(clock) as world:
            await _begin(world)
            registry = world.servers["s1"].registry
            for wish in (ABORT, ASK, COMMIT):
                with pytest.raises(Conflict, match="amino settle old"):
                    await registry.decide(DecideRequest("old", 40, wish))
            assert (await registry.decide(DecideRequest("never", 0, ABORT))).outcome == ABORTED
            await world.admin.txn([], [Put(world.keys.decision("old"), encode(DecisionDocument(COMMITTED, ())))])
            for wish in (ABORT, ASK, COMMIT):
                assert (await registry.decide(DecideRequest("old", 40, wish))).outcome == COMMITTED
            await world.admin.txn([], [Put(world.keys.decision("other"), encode(DecisionDocument(ABORTED, ())))])
            assert (await registry.decide(DecideRequest("other", 40, ABORT))).outcome == ABORTED

    run_virtual(main)


def test_decisions_of_today_are_made_as_ever() -> None:
    """Begun, decided once, listed, ended; what was aborted has no key and is aborted."""

    async def main(clock):
        async with World(clock) as world:
            await _begin(world)
            registry = world.servers["s1"].registry
            begun = await registry.begin_decision(BeginDecisionRequest("t", ("a/", "b/")))
            assert begun.revision > SINCE
            assert (await registry.begin_decision(BeginDecisionRequest("t"))).revision == begun.revision
            assert (await registry.decide(DecideRequest("t", begun.revision, COMMIT))).outcome == COMMITTED
            told = await registry.decide(DecideRequest("t", begun.revision, ABORT))
            assert (told.outcome, told.revision) == (COMMITTED, begun.revision)
            (listed,) = (await registry.decisions(DecisionsRequest())).decisions
            assert listed.revision == begun.revision
            await registry.end_decision(DecideRequest("t", listed.revision))
            assert (await registry.decisions(DecisionsRequest())).decisions == ()
            begun = await registry.begin_decision(BeginDecisionRequest("u"))
            assert (await registry.decide(DecideRequest("u", begun.revision, ABORT))).outcome == ABORTED
            assert (await registry.decide(DecideRequest("u", begun.revision, COMMIT))).outcome == ABORTED

    run_virtual(main)
