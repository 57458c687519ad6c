"""Decisions of two-phase commits that nobody ends: what housekeeping may remove."""

from __future__ import annotations

from types import SimpleNamespace

from amino.aio.clock import RealClock
from amino.contracts.decisions import COMMITTED, PENDING, DecisionDocument
from amino.contracts.documents import encode
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put
from amino.ids import slot_of
from amino.oms.housekeeping import UNDECIDED_ROUNDS, Housekeeping


def house_of(ids):
    """Return a store with its keys, and the housekeeping of a cluster that has the microservices ``ids``."""
    clock, keys = RealClock(), Keys("test")
    store = MemoryStore(MemoryEtcd(clock), clock=clock)

    async def delete_if(compares, names):
        return (await store.txn(compares, [Delete(name) for name in names])).succeeded

    directory = SimpleNamespace(group=lambda ms_id: ms_id if ms_id in ids else None)
    leader = SimpleNamespace(directory=directory, blobs=None, writes=SimpleNamespace(delete_if=delete_if))
    return store, keys, Housekeeping(store=store, keys=keys, leader=leader, kernels=None, led={0})


async def names_in(store, keys):
    """Return the transactions with a decision."""
    return [record.key.removeprefix(keys.decisions_prefix) for record in (await store.list(keys.decisions_prefix))[0]]


async def test_only_what_stays_pending_for_long_is_removed():
    """A commit is kept for its cohorts, and what a database decides for its recovery; an abort is always safe."""
    store, keys, house = house_of({"a"})
    documents = {
        "old": DecisionDocument(PENDING, ("a/",)),
        "done": DecisionDocument(COMMITTED, ("a/",)),
        "bank": DecisionDocument(PENDING, ("a/",), "bank"),
    }
    for name, document in documents.items():
        await store.txn([], [Put(keys.decision(name), encode(document))])
    for _ in range(UNDECIDED_ROUNDS):
        await house._sweep_decisions()
    await store.txn([], [Put(keys.decision("new"), encode(documents["old"]))])
    assert len(await names_in(store, keys)) == 4
    await house._sweep_decisions()
    assert await names_in(store, keys) == ["bank", "done", "new"]


async def test_a_commit_goes_with_the_last_of_its_cohorts():
    """One that lost its state may be restored with its promise: only what is deleted needs no decision (seed 5868)."""
    ids = {"a", "b"}
    store, keys, house = house_of(ids)
    for ms_id in ids:
        await store.txn([], [Put(keys.microservice(slot_of(ms_id), ms_id), b"record")])
    await store.txn([], [Put(keys.decision("done"), encode(DecisionDocument(COMMITTED, ("a/", "b/0"))))])
    ids.remove("a")
    await house._sweep_decisions()
    assert await names_in(store, keys) == ["done"]
    ids.remove("b")  # as this server sees it; the record says otherwise
    await house._sweep_decisions()
    assert await names_in(store, keys) == ["done"]
    await store.txn([], [Delete(keys.microservice(slot_of(ms_id), ms_id)) for ms_id in ("a", "b")])
    await house._sweep_decisions()
    assert await names_in(store, keys) == []
