"""Kernel servers are killed and frozen while a client calls: failover in time, nothing acknowledged lost or doubled."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.calls import CallHead, encode_call_head
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import AminoError, OutcomeUnknown
from amino.rpc.peer_transport import PeerTransport
from amino.testing import LocalCluster
from amino.wire import codec
from amino.wire.frames import FrameKind, Status
from bench.callers import Callers
from tests.acceptance.audit import Audit
from tests.acceptance.background import Background
from tests.acceptance.figures import Figures, rounds
from tests.acceptance.services import Counter

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(400)]
ROW = "server loss"
TTL_S = 2
DURABLE = (AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC())
PATIENCE_S = 30.0


def host_of(client: amino.Cluster, target: Any) -> str:
    return client.describe(target).groups["/"].replicas[0].server


def break_repeatedly(
    local: LocalCluster,
    client: amino.Cluster,
    fault: Callable[[Any], None],
    mend: Callable[[Any, int], None],
    times: int,
) -> list[float]:
    """Break the server that hosts a counter again and again; returns the seconds to the next good call of each time.

    One caller counts on, so its answers are 1, 2, 3, ... exactly when nothing acknowledged is lost and nothing runs twice.
    """
    counter = client.new(amino.spec(Counter, name="hits", dms=DURABLE), 0)
    took = []
    with Callers([counter.add]) as callers:
        assert callers.first_good_after(0.0, PATIENCE_S) is not None
        for _ in range(times):
            server = local.server(host_of(client, "hits"))
            before = server.incarnation
            broken = time.perf_counter()
            fault(server)
            good = callers.first_good_after(broken, PATIENCE_S)
            assert good is not None, f"no good call within {PATIENCE_S} s; {callers.seen[-1]}"
            took.append(good.ended - broken)
            mend(server, before)
    failed = [each for each in callers.seen if each.error]
    assert not failed, f"{len(failed)} calls failed, the first with {failed[0].error}"
    answers = [each.result for each in callers.seen]
    assert answers == list(range(1, len(answers) + 1)), "an acknowledged call was lost, or one ran twice"
    assert counter.get() == len(answers)
    return took


def note(figures: Figures, what: str, took: list[float], *, p50: float | None = None, worst: float) -> None:
    figures.note(f"{what}: p50", statistics.median(took), "s", at_most=p50, note=f"{len(took)} times, TTL {TTL_S} s")
    figures.note(f"{what}: worst", max(took), "s", at_most=worst)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_the_kernel_process_is_killed(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """A SIGKILL of the kernel process is survived in a fraction of a second."""
    took = break_repeatedly(
        local,
        client,
        lambda server: server.kill_kernel(),
        lambda server, before: server.wait_serving(after=before),
        rounds(),
    )
    note(figures, "kernel killed", took, p50=0.3, worst=1.0)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_a_machine_is_lost(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """Supervisor and kernel process killed together, as by the loss of a machine, cost the TTL and at most a second."""

    def restart(server: Any, _before: int) -> None:
        server.wait_ended()
        server.start()

    took = break_repeatedly(local, client, lambda server: server.kill(), restart, rounds())
    note(figures, "supervisor and kernel killed", took, worst=TTL_S + 1.0)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_a_machine_freezes(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """Supervisor and kernel process frozen cost the TTL and at most a second; thawed, they begin anew."""

    def thaw(server: Any, before: int) -> None:
        server.resume()
        server.wait_serving(after=before)

    took = break_repeatedly(local, client, lambda server: server.stop(), thaw, rounds())
    note(figures, "supervisor and kernel frozen", took, worst=TTL_S + 1.0)


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_a_thawed_server_answers_nothing_of_its_past(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures
) -> None:
    """A call in flight when its server froze never gets an answer from there, though its link was kept open all the time."""
    late = 0
    for number in range(rounds(5)):
        counter = client.new(amino.spec(Counter, name=f"late-{number}", dms=DURABLE[:2]), 0)
        document = client.describe(counter)
        replica = document.groups["/"].replicas[0]
        server = local.server(replica.server)
        frozen_pid, address, before = server.kernel_pid, server.address, server.incarnation
        codec_number, segments = codec.encode_arguments((1.0,), {}, trusted=True)
        head = encode_call_head(
            CallHead(document.id, "/", document.groups["/"].epoch, "slow_add", "raw", document.id, 1, (), 1, 0, 0.0, 25.0,
                     codec_number)
        )  # fmt: skip
        raw = PeerTransport("raw", "amino")

        asked = Background(
            lambda raw=raw, address=address, head=head, segments=segments: drive(
                raw.request(address, FrameKind.CALL, head, segments, timeout_s=25.0)
            )
        )
        audit.await_call_inside(address)
        server.stop()
        assert counter.get() == 0, "what the frozen server had not checkpointed was never acknowledged"
        server.resume()
        reply = asked.outcome(30.0)
        drive(raw.aclose())
        late += not isinstance(reply, AminoError) and reply.status == Status.OK
        server.wait_serving(after=before)
        assert server.kernel_pid != frozen_pid, "an incarnation must not outlive its lease"
        assert not audit.kernel(server.address).replicas, "a new incarnation begins empty"
        assert counter.add() == 1
    figures.note("late replies accepted after SIGCONT", late, "replies", at_most=0, note=f"{rounds(5)} freezes")
    audit.await_consistent()


@pytest.mark.parametrize("local", [{"session_ttl_s": TTL_S}], indirect=True)
def test_a_call_that_may_not_be_repeated_ends_as_unknown(
    local: LocalCluster, client: amino.Cluster, audit: Audit
) -> None:
    """Without a manager that repeats, a call in flight at a lost server ends as unknown, long before its deadline."""
    counter = client.new(amino.spec(Counter, name="once", dms=[PeriodicCheckpoint(every=1)]), 0)
    server = local.server(host_of(client, counter))
    asked = Background(lambda: asyncio.run(counter.slow_add(20.0)))  # type: ignore[arg-type]
    audit.await_call_inside(server.address)
    server.kill()
    assert isinstance(asked.outcome(TTL_S + 3.0), OutcomeUnknown)
    with contextlib.suppress(OutcomeUnknown):  # this link to the lost server may not have been reset yet
        assert counter.get() == 0
    assert counter.get() == 0
