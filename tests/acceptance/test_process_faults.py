"""Faults inside one server: the supervisor alone dies, the kernel process alone stops, user code keeps the interpreter."""

from __future__ import annotations

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.testing import LocalCluster
from bench.callers import Callers
from tests.acceptance.audit import Audit
from tests.acceptance.background import Background
from tests.acceptance.figures import Figures, rounds
from tests.acceptance.services import Counter
from tests.acceptance.test_server_loss import TTL_S, break_repeatedly, host_of, note

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]
ROW = "faults inside a server"
HELD_S = 6.0


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_the_supervisor_alone_is_killed(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """The kernel process sees its supervisor go, says that it ends, and ends; its objects are elsewhere at once."""

    def restart(server, _before):
        server.wait_ended()
        server.start()

    took = break_repeatedly(local, client, lambda server: server.kill_supervisor(), restart, rounds())
    note(figures, "supervisor alone killed", took, worst=0.5)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_the_kernel_process_alone_is_stopped(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """A stopped kernel process is killed after the TTL by its supervisor."""
    took = break_repeatedly(
        local,
        client,
        lambda server: server.stop_kernel(),
        lambda server, before: server.wait_serving(after=before),
        rounds(),
    )
    note(figures, "kernel process alone stopped", took, worst=TTL_S + 1.0)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_user_code_keeps_the_interpreter(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures
) -> None:
    """While a method keeps the interpreter lock for 6 s nothing is lost and nothing fails over; others are served."""
    dms = (AtLeastOnceRPC(), PeriodicCheckpoint(every=1))
    greedy = client.new(amino.spec(Counter, name="greedy", dms=dms), 7)
    others = {}
    for number in range(12):
        stub = client.new(amino.spec(Counter, name=f"other-{number}", dms=dms))
        others.setdefault(host_of(client, stub), stub)
    assert len(others) == 3
    home = host_of(client, "greedy")
    incarnations, groups = audit.incarnations(), audit.groups()
    longest = 0.0
    for _ in range(rounds(3)):
        with Callers([others[name].add for name in others if name != home]) as callers:
            held = Background(lambda: greedy.hold_interpreter(HELD_S))
            neighbour = Background(others[home].add)
            assert held.outcome(30.0) == HELD_S
            assert isinstance(neighbour.outcome(30.0), int)
        assert not [each for each in callers.seen if each.error]
        longest = max(longest, *(each.took for each in callers.seen))
    assert greedy.add() == 8
    assert audit.incarnations() == incarnations, "a server was given up though it only was busy"
    now = audit.groups()
    assert {ms_id: now[ms_id].epoch for ms_id in groups} == {ms_id: each.epoch for ms_id, each in groups.items()}
    figures.note("interpreter held for 6 s: failovers", 0, "failovers", at_most=0, note=f"{rounds(3)} times")
    figures.note("interpreter held for 6 s: longest call to other servers", longest, "s", at_most=2.0)
