"""Members of etcd are killed and frozen, one by one and a majority: calls go on, or are held and end clearly."""

from __future__ import annotations

import time
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import AminoError, NotExecuted, OutcomeUnknown
from amino.testing import LocalCluster
from bench.callers import Called, Callers
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.background import Background
from tests.acceptance.figures import Figures, rounds, seconds
from tests.acceptance.services import Counter

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
ROW = "etcd loss"
CREATE_S_MAX = 4.0
TTL_S = 3
THREE = {"etcd_members": 3, "session_ttl_s": TTL_S}


def errors_of(seen: list[Called]) -> list[str]:
    return [each.error for each in seen if each.error]


@pytest.mark.parametrize("local", [THREE], indirect=True)
@pytest.mark.parametrize("whom", ["follower", "leader"])
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_one_member_of_three_goes(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures, fault: str, whom: str
) -> None:
    """No call to an existing object fails, creations resume, no lease is lost and every server hears of everything."""
    plain = client.new(amino.spec(Counter, name="plain", dms=[SerializableRPC()]))
    durable = client.new(amino.spec(Counter, name="durable", dms=[PeriodicCheckpoint(every=1), SerializableRPC()]))
    retried = client.new(
        amino.spec(Counter, name="retried", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()])
    )
    incarnations, groups = audit.incarnations(), audit.groups()
    creations, made = [], []
    with Callers([plain.add, durable.add, retried.add]) as callers:
        for number in range(rounds(5)):
            victim = next(each.index for each in audit.etcd_members() if each.is_leader == (whom == "leader"))
            broken = time.perf_counter()
            local.etcd.kill(victim) if fault == "killed" else local.etcd.freeze(victim)
            for one in range(3):
                made.append(client.new(amino.spec(Counter, name=f"new-{number}-{one}", on_loss="recreate")))
                if not one:
                    creations.append(time.perf_counter() - broken)
            assert callers.first_good_after(time.perf_counter(), 10.0) is not None
            local.etcd.start(victim) if fault == "killed" else local.etcd.thaw(victim)
            eventually(lambda: len(audit.etcd_members()), lambda count: count == 3, 10.0)
    assert errors_of(callers.seen) == []
    for stub in (plain, durable, retried):
        assert stub.get() >= 1
    assert len(callers.seen) == plain.get() + durable.get() + retried.get(), "a call ran twice"
    assert audit.incarnations() == incarnations, "a lease was lost"
    now = audit.groups()
    assert {ms_id: now[ms_id].epoch for ms_id in groups} == {ms_id: each.epoch for ms_id, each in groups.items()}
    for server in local.servers.values():
        assert {each.record.name for each in audit.members_at(server.address).servers} == set(local.servers)
        for stub in made:
            ms_id = stub.__amino_reference__.microservice  # type: ignore[attr-defined]
            found = audit.locate_at(server.address, ms_id).groups["/"]
            assert (found.epoch, found.replicas[0].id) == (now[ms_id].epoch, now[ms_id].replicas[0].id)
    audit.await_consistent()
    figures.note(f"{whom} {fault}: failed calls", 0, "calls", at_most=0, note=f"of {len(callers.seen)}")
    figures.note(
        f"{whom} {fault}: longest wait of a call", max(each.took for each in callers.seen), "s", note="no bar: it may wait"
    )
    figures.note(f"{whom} {fault}: first creation after it", max(creations), "s", at_most=CREATE_S_MAX)


@pytest.mark.parametrize("local", [THREE], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "frozen"])
def test_the_majority_goes(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures, fault: str
) -> None:
    """Calls are held, then stop with a clear error; nothing runs twice; all resume, and no object is made anew."""
    away_s = seconds(6.0, 30.0)
    specs = {
        "plain": [SerializableRPC()],
        "durable": [AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()],
    }
    stubs: dict[str, Any] = {
        name: client.new(amino.spec(Counter, name=name, dms=dms)) for name, dms in specs.items()
    }
    for stub in stubs.values():
        stub.add()
    incarnations = audit.incarnations()
    epochs = {ms_id: each.epoch for ms_id, each in audit.groups().items()}
    leader = next(each.index for each in audit.etcd_members() if each.is_leader)
    victims = [leader, (leader + 1) % 3]

    def call(stub: Any) -> Any:
        with amino.deadline(2.5):
            return stub.add()

    for victim in victims:
        local.etcd.kill(victim) if fault == "killed" else local.etcd.freeze(victim)
    gone = time.perf_counter()
    with Callers([lambda: call(stubs["plain"]), lambda: call(stubs["durable"])]) as callers:
        long = Background(lambda: stubs["plain"].add())  # with its whole 30 s
        begun = time.perf_counter()
        patience = Background(lambda: client.new(amino.spec(Counter, name="created-meanwhile", on_loss="recreate")))
        time.sleep(max(0.0, away_s - (time.perf_counter() - gone)))
        for victim in victims:
            local.etcd.start(victim) if fault == "killed" else local.etcd.thaw(victim)
        back = time.perf_counter()
        good = {}
        for name, stub in stubs.items():
            eventually(lambda stub=stub: _answers(stub), bool, 20.0)  # type: ignore[misc]
            good[name] = time.perf_counter() - back
        kept = long.outcome(60.0)
        meanwhile = patience.outcome(60.0)
    ended = time.perf_counter()
    failed = errors_of(callers.seen)
    assert failed, "calls must not be answered while no server can prove its session"
    for error in failed:
        assert error.startswith(("NotExecuted", "OutcomeUnknown", "StoreFailed", "CoordinationUnavailable")), error
    slow = [each.took for each in callers.seen if each.took > 2.5 + 1.0]
    assert not slow, f"{len(slow)} calls ended up to {max(slow):.1f} s after they began, with a deadline of 2.5 s"
    assert isinstance(kept, (int, NotExecuted, OutcomeUnknown)), kept
    assert not isinstance(meanwhile, AminoError) or ended - begun > 29.0, meanwhile
    assert audit.incarnations() == incarnations, "a server lost its lease, and its objects were made anew for nothing"
    now = audit.groups()
    assert {ms_id: now[ms_id].epoch for ms_id in epochs} == epochs
    unknown = sum(error.startswith("OutcomeUnknown") for error in failed)
    figures.note(f"majority {fault} for {away_s:g} s: calls that ended with a clear error", len(failed), "calls",
                 note=f"{unknown} of them of unknown outcome, the others not executed")  # fmt: skip
    figures.note(f"majority {fault} for {away_s:g} s: all resume after its return", max(good.values()), "s", at_most=TTL_S)
    answered = [each.result for each in callers.seen if not each.error]
    total = sum(stub.get() for stub in stubs.values())
    assert len(answered) <= total <= len(callers.seen) + 3 + 40, "something ran twice"
    durable = [each.result for each in callers.seen if not each.error]
    assert len(set(durable)) <= len(durable)
    audit.await_consistent()


def _answers(stub: Any) -> bool:
    try:
        with amino.deadline(1.0):
            stub.get()
    except AminoError:
        return False
    return True
