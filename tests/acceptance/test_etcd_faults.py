"""Members of etcd are killed and frozen, one by one and a majority: calls go on, or are held and end clearly."""

from __future__ import annotations

import contextlib
import functools
import time
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.testing import LocalCluster
from bench.callers import Called, Callers
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.background import let_last
from tests.acceptance.figures import Figures, in_full, rounds
from tests.acceptance.services import Counter

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
ROW = "etcd loss"
CREATE_S_MAX = 4.0
DEADLINE_S = 2.5
CLEAR = ("NotExecuted", "OutcomeUnknown", "StoreFailed", "CoordinationUnavailable")
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
    """No call to an existing object fails, creations resume, no session is lost and every server hears of everything.

    Also when an etcd leader that was frozen wakes up and revokes the leases that ran out for it (etcd issue 15247): those of
    sessions never run out.
    """
    plain = client.new(amino.spec(Counter, name="plain", dms=[SerializableRPC()]))
    durable = client.new(amino.spec(Counter, name="durable", dms=[PeriodicCheckpoint(every=1), SerializableRPC()]))
    retried = client.new(
        amino.spec(Counter, name="retried", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()])
    )
    incarnations, groups = audit.incarnations(), audit.groups()
    creations, made = [], []
    called = [plain, durable, retried]
    with Callers([stub.add for stub in called]) as callers:
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
            eventually(audit.etcd_members, lambda all_: len(all_) == 3 and any(one.is_leader for one in all_), 10.0)
    assert errors_of(callers.seen) == []
    assert len(callers.seen) == sum(stub.get() for stub in called), "a call ran twice, or was lost"
    now = audit.groups()
    lost = sum(audit.incarnations().get(name) != incarnation for name, incarnation in incarnations.items())
    figures.note(f"{whom} {fault}: sessions lost", lost, "sessions", at_most=0)
    assert audit.incarnations() == incarnations, "a session was lost"
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
        f"{whom} {fault}: longest wait of a call",
        max(each.took for each in callers.seen),
        "s",
        note="no bar: it may wait",
    )
    figures.note(f"{whom} {fault}: first creation after it", max(creations), "s", at_most=CREATE_S_MAX)


@pytest.mark.parametrize("local", [THREE], indirect=True)
@pytest.mark.parametrize("fault", ["killed", "followers frozen", "leader frozen too"])
def test_the_majority_goes(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures, fault: str
) -> None:
    """Calls are held, then stop with a clear error; nothing runs twice; all resume, and no object is made anew."""
    away_s = in_full(6.0, 30.0)
    durable = client.new(
        amino.spec(Counter, name="durable", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()])
    )
    plain = client.new(amino.spec(Counter, name="plain", dms=[SerializableRPC()]))
    stubs: dict[str, Any] = {"durable": durable, "plain": plain}
    for stub in stubs.values():
        stub.add()
    incarnations = audit.incarnations()
    epochs = {ms_id: each.epoch for ms_id, each in audit.groups().items()}
    leader = next(each.index for each in audit.etcd_members() if each.is_leader)
    victims = [(leader + 1) % 3, (leader + 2) % 3] if fault == "followers frozen" else [leader, (leader + 1) % 3]
    for victim in victims:
        local.etcd.kill(victim) if fault == "killed" else local.etcd.freeze(victim)
    gone = time.perf_counter()
    seen: dict[str, list[Called]] = {}
    with contextlib.ExitStack() as calling:
        callers = {
            name: calling.enter_context(Callers([functools.partial(_call_within, stub, DEADLINE_S)]))
            for name, stub in stubs.items()
        }
        let_last(away_s - (time.perf_counter() - gone))
        for victim in victims:
            local.etcd.start(victim) if fault == "killed" else local.etcd.thaw(victim)
        back = time.perf_counter()
        good = {name: each.first_good_after(back, 30.0) for name, each in callers.items()}
    seen = {name: each.seen for name, each in callers.items()}
    assert all(good.values()), f"no call succeeds after the outage: {[each[-1] for each in seen.values()]}"
    for name, stub in stubs.items():
        failed = errors_of(seen[name])
        assert failed, "no call may be answered while no server can prove its session"
        strange = [error for error in failed if not error.startswith(CLEAR)]
        assert not strange, strange[0]
        slow = [each.took for each in seen[name] if each.took > DEADLINE_S + 1.0]
        assert not slow, f"{len(slow)} calls took up to {max(slow):.1f} s, with a deadline of {DEADLINE_S} s"
        answers = [each.result for each in seen[name] if not each.error]
        assert answers == sorted(set(answers)), "an answer was given twice, or an older one after a newer"
        unknown = sum(not error.startswith("NotExecuted") for error in failed)
        assert 1 + len(answers) <= stub.get() <= 1 + len(answers) + unknown, "a call ran twice, or one was lost"
        figures.note(f"majority, {fault}, {away_s:g} s: {name}: calls that ended clearly", len(failed), "calls",
                     note=f"{unknown} of unknown outcome, the others not executed: {failed[0][:160]}")  # fmt: skip
    resumed = max(each.ended for each in good.values() if each is not None) - back
    assert audit.incarnations() == incarnations, "a server lost its session, and its objects were made anew for nothing"
    now = audit.groups()
    assert {ms_id: now[ms_id].epoch for ms_id in epochs} == epochs
    figures.note(f"majority, {fault}, {away_s:g} s: all resume after its return", resumed, "s", at_most=TTL_S)
    audit.await_consistent()


def _call_within(stub: Any, deadline_s: float) -> Any:
    with amino.deadline(deadline_s):
        return stub.add()
