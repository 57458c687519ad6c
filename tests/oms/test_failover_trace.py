"""A failover is one trace, to which every server adds its part."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from amino.errors import CoordinationUnavailable
from amino.oms.failovers import CLAIMED_FOR_S
from amino.telemetry import names
from amino.telemetry.metrics import Metrics
from amino.telemetry.trace import Telemetry, failover_traceparent
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


class _Recorder(Telemetry):
    """Telemetry that remembers what was recorded."""

    def __init__(self) -> None:
        super().__init__()
        self.tracing = self.metering = True
        self.spans: list[tuple[str, int, int, str | None, dict]] = []
        self.failovers: list[tuple[str, float]] = []
        self.metrics = _Counting(self.failovers)

    def emit(self, name, *, start_ns, end_ns, parent=None, attributes=None, error=None):
        self.spans.append((name, start_ns, end_ns, parent, dict(attributes or {})))

    def emit_failover(self, cluster, server, incarnation, *, kind, start_ns, end_ns):
        parent = failover_traceparent(cluster, server, incarnation)
        self.spans.append((names.FAILOVER, start_ns, end_ns, parent, {names.KIND: kind}))


class _Counting(Metrics):
    def __init__(self, failovers: list) -> None:
        self.failovers = failovers

    def failover(self, kind, duration_s):
        self.failovers.append((kind, duration_s))


def test_a_failover_is_one_trace() -> None:
    """Lost, detected, elected, placed and restored carry the trace of the lost incarnation; the root comes once."""

    async def main(clock):
        async with World(clock) as world:
            world.telemetry = recorder = _Recorder()
            await world.add("s1", "s2", "s3")
            ids = [(await world.create(durable=True)).microservice for _ in range(12)]
            victim = world.servers["s2"]
            mine = [ms_id for ms_id in ids if world.home(ms_id) is victim]
            victim.die()
            await world.elected()
            await world.settled()
            await asyncio.sleep(1)
            trace = failover_traceparent("test", "s2", victim.incarnation)
            counts = Counter(span[0] for span in recorder.spans)
            assert {span[3] for span in recorder.spans} == {trace}
            assert counts[names.FAILOVER_PLACED] == counts[names.FAILOVER_RESTORED] == len(mine) > 0
            assert counts[names.FAILOVER] == 1, "whoever leads the slot of the server's name tells, once"
            assert counts[names.FAILOVER_LOST] == counts[names.FAILOVER_DETECTED] == counts[names.FAILOVER]
            assert counts[names.FAILOVER_ELECTED] >= 20
            assert all(world.document(ms_id).trace == trace for ms_id in mine)
            assert all(end >= start for _, start, end, _, _ in recorder.spans)
            assert [kind for kind, _ in recorder.failovers] == ["crash"] * counts[names.FAILOVER]

    run_virtual(main)


@pytest.mark.parametrize("later_s", [0.0, CLAIMED_FOR_S + 60.0], ids=["at once", "when the claim is gone"])
def test_a_slot_that_moves_on_tells_no_failover_again(later_s) -> None:
    """Who leads the slot of a lost server's name changes later: each loss keeps the one root that it has."""

    async def main(clock):
        async with World(clock) as world:
            world.telemetry = recorder = _Recorder()
            await world.add("s1", "s2", "s3", "s4")
            for _ in range(16):
                await world.create(durable=True)
            world.servers["s2"].die()
            await world.elected()
            await world.until(lambda: len(recorder.failovers) == 1)
            await asyncio.sleep(later_s)  # of virtual time
            world.leader_of("s2").die()
            await world.elected()
            await world.settled()
            await asyncio.sleep(1)  # of virtual time, for what is not to come
            roots = Counter(span[3] for span in recorder.spans if span[0] == names.FAILOVER)
            assert list(roots.values()) == [1, 1], "one for each server that died"
            assert len(recorder.failovers) == 2

    run_virtual(main)


def test_a_failover_is_told_though_etcd_does_not_say_who_has_told_it() -> None:
    """On doubt it is told: a span too many does less harm than a failover that nobody sees."""

    async def refuse(_ttl_s):
        raise CoordinationUnavailable("etcd is silent")

    async def main(clock):
        async with World(clock) as world:
            world.telemetry = recorder = _Recorder()
            await world.add("s1", "s2", "s3")
            for _ in range(12):
                await world.create(durable=True)
            for server in world.servers.values():
                server.store.grant = refuse
            world.servers["s2"].die()
            await world.until(lambda: len(recorder.failovers) > 0)
            assert [kind for kind, _ in recorder.failovers] == ["crash"]

    run_virtual(main)
