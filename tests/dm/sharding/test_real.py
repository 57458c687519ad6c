"""Shards on real servers: growing and shrinking under load, and whatever is killed in the middle of it."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.sharding import Ring
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, LockingTransactions, OptimisticTransactions, PeriodicCheckpoint
from amino.errors import Invalid, TransactionAborted
from amino.oms.shard_machine import CHANGES
from amino.testing import LocalCluster
from tests.acceptance.figures import Figures, in_full, rounds
from tests.dm.sharding.store import Counting, Held, PlainStore, Store, Telling
from tests.waiting import until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.keeps("servers that were killed come back for the next test"),
]
amino_cluster = {"app_dirs": [Path(__file__).resolve().parents[3]], "session_ttl_s": 2, "servers": 3}
KEYS = in_full(20_000, 100_000)
PATIENCE_S = 30.0
FIGURES = Figures("DHT")
AGAIN = AtLeastOnceRPC(timeout_s=PATIENCE_S)
REPLICATED = (AGAIN, DHT(shards=3), ConsensusRSM())
STORED = (AGAIN, DHT(shards=3), PeriodicCheckpoint(every=1))


@pytest.fixture
def client(cluster: LocalCluster) -> Iterator[amino.Cluster]:
    """A connection."""
    with cluster.connect() as connected:
        yield connected


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    """What keeps shards from handing keys over."""
    gate = Held(tmp_path)
    yield gate
    gate.open()


def new_store(client: amino.Cluster, name: str, dms: Any, cls: type[Store] = PlainStore, *args: Any) -> Any:
    """Create a store; the last one of that name is gone."""
    return client.new(amino.spec(cls, name=name, dms=dms), *args)


def home_of(client: amino.Cluster, store: Any, path: str) -> str:
    """Return the server of a shard (of its primary)."""
    group = client.describe(store).groups[path]
    return next((one for one in group.replicas if one.id == group.primary), group.replicas[0]).server


def changing(client: amino.Cluster, store: Any) -> bool:
    """Return whether a change of shards is under way."""
    return CHANGES in client.describe(store).groups["/"].coordinator


def scale_soon(client: amino.Cluster, store: Any, shards: int) -> threading.Thread:
    """Begin a change of shards."""

    def scale() -> None:
        until(lambda: client.scale(store, shards=shards, timeout_s=PATIENCE_S) is None, PATIENCE_S, lambda: "no change")

    thread = threading.Thread(target=scale)
    thread.start()
    return thread


def wait_for_shards(client: amino.Cluster, store: Any, shards: int) -> None:
    """Wait until there are so many, and none comes or goes."""
    until(
        lambda: len(client.describe(store).groups) == shards + 1 and not changing(client, store),
        PATIENCE_S,
        lambda: f"not {shards} shards: {client.describe(store).groups['/']}",
    )


def test_keys_move_as_shards_come_and_go(client: amino.Cluster) -> None:
    """No key is lost, no call fails, and each step moves the share of the shard that comes or goes, nothing more."""
    store = new_store(client, "spread", [DHT(shards=1)])
    store.fill(KEYS)
    client.scale(store, shards=3)
    assert store.size() == KEYS

    def places() -> dict[str, int]:
        return {key: shard for shard, keys in enumerate(store.by_shard()) for key in keys if key.startswith("key-")}

    with Counting(store) as load:
        load.wait_for_more()
        before = places()
        for shards in (4, 5, 4, 3, 2):
            client.scale(store, shards=shards)
            load.wait_for_more()
            after = places()
            assert len(after) == KEYS
            moved = sum(after[key] != shard for key, shard in before.items())
            larger = max(len(set(before.values())), shards)
            FIGURES.note(f"keys moved, to {shards} shards", moved / KEYS, "", at_most=1 / larger + 0.1)
            before = after
    FIGURES.note(
        "calls that failed while shards came and went", len(load.problems), "calls", at_most=0, note=f"{KEYS} keys"
    )
    assert load.problems == []
    everything = store.all()
    assert everything == {**load.expected, **{f"key-{number}": 1 for number in range(KEYS)}}


def test_a_blocking_subscriber_hears_all_shards_while_they_change(client: amino.Cluster) -> None:
    """One thread gets what every shard tells, each event once; its token goes on where the shards are others."""
    store = client.new(amino.spec(Telling, name="telling", dms=STORED))
    with client.subscribe(store) as events:
        told = []
        for shards in (4, 1, 3):
            for number in range(20):
                store.add(f"key-{number}")
            told += [next(events).payload for _ in range(10)]
            client.scale(store, shards=shards)
        told += [next(events).payload for _ in range(25)]
        token = events.token
    with client.subscribe(store, after=token) as rest:
        told += [next(rest).payload for _ in range(5)]
    assert sorted(told) == sorted((f"key-{number}", count) for number in range(20) for count in (1, 2, 3))


def test_a_call_that_runs_while_its_key_shall_move_is_not_lost(client: amino.Cluster, held: Held) -> None:
    """Keys leave once the calls that were let in to them have ended; others wait meanwhile and fail no more than these."""
    store = new_store(client, "slow", [DHT(shards=1)])
    key = next(key for key in map(str, range(100)) if Ring(("0", "1")).owner(key) == "1")
    held.close()
    answers: list[int] = []
    slow = threading.Thread(target=lambda: answers.append(store.add_behind(key, held.path)))
    slow.start()
    growing = scale_soon(client, store, 2)
    until(lambda: changing(client, store), PATIENCE_S, lambda: "the change does not begin")
    growing.join(2.5)  # longer than a shard waits for its calls before it lets others go first
    assert changing(client, store)
    held.open()
    for thread in (slow, growing):
        thread.join(PATIENCE_S)
    assert answers == [1]
    assert store.add(key) == 2
    assert store.by_shard() == [[], [key]]


def test_a_key_takes_with_it_what_happened_to_it_and_nothing_comes_back(client: amino.Cluster) -> None:
    """What the constructor makes on each shard counts only where the key is: not after it was changed or removed there."""
    store = new_store(client, "seeded", [DHT(shards=2)], PlainStore, "", 200)
    keys = [f"key-{number}" for number in range(200)]
    for key in keys[:100]:
        store.remove(key)
    for key in keys[100:]:
        assert store.add(key) == 2
    for shards in (4, 1):
        client.scale(store, shards=shards)
        assert [store.get(key) for key in keys] == [0] * 100 + [2] * 100
    assert store.size() == 100


def test_a_repeated_request_runs_once_across_a_change(client: amino.Cluster) -> None:
    """Its answer moves with the key."""
    store = new_store(client, "once", [DHT(shards=1)])
    runtime = client._runtime
    target = store._amino_target
    keys = [f"key-{number}" for number in range(40)]

    def add(attempt: int) -> list[int]:
        return [
            drive(
                runtime.invoke_for(
                    target,
                    "add",
                    (key,),
                    {},
                    timeout_s=10.0,
                    caller=("somebody", number, 1, attempt, 1.0),
                    traceparent=None,
                )
            )
            for number, key in enumerate(keys, 1)
        ]

    assert add(0) == [1] * 40
    client.scale(store, shards=3)
    assert add(1) == [1] * 40
    client.scale(store, shards=1)
    assert add(2) == [1] * 40
    assert store.all() == dict.fromkeys(keys, 1)


def test_each_shard_runs_a_broadcast_as_a_request_of_its_own(client: amino.Cluster) -> None:
    """What it calls in turn is called by each of them, and nothing another shard has answered is taken for its answer."""
    store = new_store(client, "telling-each", [DHT(shards=3)])
    other = new_store(client, "told", [])
    assert store.tell(other) == 1 + 2 + 3

    def tell(attempt: int) -> Any:
        return drive(
            client._runtime.invoke_for(
                store._amino_target,
                "tell",
                (other,),
                {},
                timeout_s=10.0,
                caller=("somebody", 1, 1, attempt, 1.0),
                traceparent=None,
            )
        )

    assert tell(0) == tell(1) == 4 + 5 + 6
    client.scale(store, shards=1)
    assert tell(2) in (4, 5, 6)
    assert other.get("told") == 6


def test_what_is_called(client: amino.Cluster) -> None:
    """Keys by position, by name and in any place; results of all shards folded; and refusals that say what to do."""
    store = new_store(client, "called", [DHT(shards=3)])
    assert store.add("a", by=2) == store.add(by=0, key="a") == store.add_at(0, "a") == store.add_at(key="a", by=0) == 2
    keys: list[Any] = [1, b"1", "1", 1.5, None, ("a", 1)]
    assert [store.add(key) for key in keys] == [1] * 6
    assert store.add(1.0) == 2
    assert store.size() == 7
    assert store.all() == {**dict.fromkeys(keys, 1), 1: 2, "a": 2}
    assert store.most() == 2
    with pytest.raises(
        Invalid, match=r"has no key: mark its argument with @amino.key, or the method with @amino.broadcast"
    ):
        store.unmarked()
    with pytest.raises(Invalid, match=r"a key of type list has no stable place; use str, int"):
        store.add(["a"])
    store.add("key-0")
    with pytest.raises(Invalid, match=r"no usual sum; mark the method @amino.broadcast\(fold=\.\.\.\)"):
        store.odd()
    with pytest.raises(Invalid, match="pass it by position"):
        drive(
            client._runtime.invoke_for(
                store._amino_target, "add", (), {"key": "a"}, timeout_s=5.0, caller=None, traceparent=None
            )
        )


@pytest.mark.parametrize("victim", ["leader", "source", "target"])
def test_a_server_dies_in_the_middle_of_a_change(
    cluster: LocalCluster, client: amino.Cluster, held: Held, victim: str
) -> None:
    """The slot leader's server, that of a shard that hands keys over, or the new one's: the change is finished all the same."""
    store = new_store(client, f"killed-{victim}", STORED, Store, held.path)
    with Counting(store) as load:
        load.wait_for_more()
        held.close()
        growing = scale_soon(client, store, 4)
        until(held.reached.exists, PATIENCE_S, lambda: "no shard hands keys over")
        description = client.describe(store)
        name = (
            description.slot_leader
            if victim == "leader"
            else home_of(client, store, "/0" if victim == "source" else "/3")
        )
        server = cluster.server(name)
        incarnation = server.incarnation
        server.kill_kernel()
        held.open()
        server.wait_serving(after=incarnation)
        growing.join(PATIENCE_S)
        wait_for_shards(client, store, 4)
        load.wait_for_more()
    assert load.problems == []
    assert store.all() == load.expected
    assert all(store.by_shard())


def test_shards_of_replicas_are_whole_again_without_help(cluster: LocalCluster, client: amino.Cluster) -> None:
    """Nine kernel objects, three on each server, one of each shard; servers die, and it is so again, with no write lost."""
    store = new_store(client, "whole", REPLICATED)

    def whole() -> bool:
        groups = dict(client.describe(store).groups)
        root = groups.pop("/")
        live = {server.record.name: server.incarnation for server in client.servers()}
        return len(groups) == len(root.children) == 3 and all(
            len(group.replicas) == len(group.in_sync) == 3
            and {one.server for one in group.replicas} == {"s1", "s2", "s3"}
            and all(one.confirmed and live.get(one.server) == one.incarnation for one in group.replicas)
            for group in groups.values()
        )

    with Counting(store) as load:
        for number in range(rounds(3)):
            until(whole, PATIENCE_S, lambda: f"not nine: {client.describe(store).groups}")
            load.wait_for_more()
            server = cluster.server(home_of(client, store, f"/{number % 3}"))
            incarnation = server.incarnation
            server.kill_kernel()
            load.wait_for_more()
            server.wait_serving(after=incarnation)
        until(whole, PATIENCE_S, lambda: f"not nine: {client.describe(store).groups}")
        FIGURES.note("DHT(3) over ConsensusRSM(3): kills after which nine objects were whole again", rounds(3), "kills")
        growing = scale_soon(client, store, 4)
        until(lambda: changing(client, store), PATIENCE_S, lambda: "the change does not begin")
        server = cluster.server(home_of(client, store, "/0"))
        incarnation = server.incarnation
        server.kill_kernel()
        growing.join(PATIENCE_S)
        server.wait_serving(after=incarnation)
        wait_for_shards(client, store, 4)
        load.wait_for_more()
    assert load.problems == []
    assert store.all() == load.expected


def test_shards_come_back_from_their_checkpoints(cluster: LocalCluster, client: amino.Cluster) -> None:
    """After a change of shards, too, each from its own."""
    store = new_store(client, "stored", STORED)
    for number in range(60):
        store.add(f"key-{number}")
    client.scale(store, shards=4)
    for server in cluster.servers.values():
        incarnation = server.incarnation
        server.kill_kernel()
        server.wait_serving(after=incarnation)
        assert store.size() == 60
        assert [store.get(f"key-{number}") for number in range(60)] == [1] * 60
    client.scale(store, shards=2)
    assert store.size() == 60


@pytest.mark.parametrize(
    "manager", [LockingTransactions(), OptimisticTransactions()], ids=lambda each: type(each).__name__
)
def test_a_transaction_is_one_of_one_shard(client: amino.Cluster, manager: Any) -> None:
    """Keys of one shard change together or not at all; a key of another shard aborts it; a change of shards keeps it whole."""
    store = new_store(client, f"bank-{type(manager).__name__}", [AtLeastOnceRPC(), manager, DHT(shards=2)])
    control = amino.control(store, type(manager))
    ring = Ring(("0", "1"))
    mine = [key for key in map(str, range(50)) if ring.owner(key) == "0"]
    other = next(key for key in map(str, range(50)) if ring.owner(key) == "1")
    with control.transaction():
        store.add(mine[0], -5)
        store.add(mine[1], 5)
    assert [store.get(key) for key in mine[:2]] == [-5, 5]
    with pytest.raises(TransactionAborted) as caught, control.transaction():  # noqa: PT012 - the block is what is tested
        store.add(mine[0], -5)
        store.add(other, 5)
    assert caught.value.reason == "refused"
    assert [store.get(mine[0]), store.get(other)] == [-5, 0]
    moving = [key for key in mine if Ring(("0", "1", "2")).owner(key) == "2"]
    committed = True
    try:
        with control.transaction():
            store.add(moving[0], -5)
            growing = scale_soon(client, store, 3)
            until(lambda: changing(client, store), PATIENCE_S, lambda: "the change does not begin")
            store.add(moving[1], 5)
    except TransactionAborted:
        committed = False
    growing.join(PATIENCE_S)
    wait_for_shards(client, store, 3)
    assert [store.get(key) for key in moving[:2]] == ([-5, 5] if committed else [0, 0])
    assert sum(store.all().values()) == 0
