"""One run: a cluster, its workloads, faults from a seed, and the record that is judged.

Owns the order of these. Leaves each to its part.
Invariants: faults are all undone and the cluster is at rest before the audit; a record is judged whatever became of the run.
Failure behaviour: what goes wrong with the run itself becomes a verdict that is not good; being interrupted ends everything.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

import msgspec

from amino.aio.mode import offload
from amino.errors import AminoError
from amino.testing.chaos.clusters import Cluster, ClusterView
from amino.testing.chaos.faults import Nemesis, Planned, Scene, Shape, plan
from amino.testing.chaos.faults.nemesis import Watcher
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.judges.placement import placed
from amino.testing.chaos.judges.whole import judge_run
from amino.testing.chaos.observer import Observer
from amino.testing.chaos.record import FaultRecord, RunRecord, Verdict
from amino.testing.chaos.workloads.base import Workload
from amino.testing.chaos.workloads.registry import workload as make
from chaos.scenarios import BOUNDS, Scenario
from chaos.workers import Workers

QUIET_S = 1.0
REST_S = 60.0
AUDIT_S = 60.0
SLOW_START_S = 120.0


class Display(Watcher, Protocol):
    """Who shows how a run goes."""

    def phase(self, name: str) -> None:
        """Be told what is done now."""

    def live(self, recorder: Recorder, until_s: float) -> contextlib.AbstractContextManager[None]:
        """Show operations as they happen, until the end of the context."""


class Silent:
    """A display that shows nothing."""

    def phase(self, name: str) -> None:
        """See ``Display``."""

    def fault(self, record: FaultRecord, what: str) -> None:
        """See ``Watcher``."""

    @contextlib.contextmanager
    def live(self, recorder: Recorder, until_s: float) -> Iterator[None]:  # noqa: ARG002 - shows nothing
        """See ``Display``."""
        yield


class Run:
    """One run of a scenario on a cluster that is not started yet.

    Args:
        schedule: of faults; default: drawn from the seed. display: shows how it goes.
    """

    def __init__(
        self,
        scenario: Scenario,
        cluster: Cluster,
        *,
        seed: int,
        duration_s: float,
        command: str = "",
        schedule: Sequence[Planned] | None = None,
        display: Display | None = None,
    ) -> None:
        self.scenario = scenario
        self.cluster = cluster
        self.record = RunRecord(scenario.name, cluster.topology, seed, duration_s, command=command)
        self._schedule = schedule
        self._display: Display = display if display is not None else Silent()
        self._recorder = Recorder()
        self._workloads: list[Workload] = []
        self._problems: list[Verdict] = []

    def now(self) -> float:
        """Seconds since the run's zero: the moment at which the cluster served."""
        return self._recorder.now_s

    async def run(self) -> RunRecord:
        """Do all of it; returns the judged record."""
        try:
            await self._break()
        except (AminoError, OSError, TimeoutError) as error:
            self._problem("run", f"it could not be run to its end: {type(error).__name__}: {error}")
        finally:
            self._display.phase("ending the cluster")
            await self.cluster.aclose()
        self._display.phase("judging")
        self.record.operations = list(self._recorder.operations)
        await offload(self._judge)
        return self.record

    def _judge(self) -> None:
        self.record.add(self._problems)
        self.record.add([self._faults_verdict()])
        self.record.add(judge_run(self.record, self._workloads, bounds=BOUNDS))

    def _problem(self, judge: str, text: str) -> None:
        self._problems.append(Verdict(judge, ok=False, text=text))

    def _faults_verdict(self) -> Verdict:
        faults = self.record.faults
        not_there = [one for one in faults if not one.verified]
        text = f"{len(faults)} faults happened and were undone"
        if not faults:
            text = "no fault happened"
        elif not_there:
            one = not_there[0]
            text = f"{len(not_there)} of {len(faults)} did not happen, or could not be undone: {one.kind} {one.text}"
        return Verdict("faults", bool(faults) and not not_there, text, figures={"faults": len(faults)})

    async def _break(self) -> None:
        self._display.phase(f"starting {len(self.cluster.servers)} servers and {self.cluster.members} members of etcd")
        async with asyncio.timeout(SLOW_START_S):
            await self.cluster.start()
        self._recorder = Recorder()
        self._workloads = [make(kind, self._recorder, chain) for kind, chain in self.scenario.chains.items()]
        self.record.workloads = [one.described for one in self._workloads]
        async with contextlib.AsyncExitStack() as open_:
            view = await open_.enter_async_context(ClusterView(self.cluster.etcd_endpoints))
            clients = [
                await open_.enter_async_context(await offload(self.cluster.connect))
                for _ in range(self.scenario.workers)
            ]
            observer = await open_.enter_async_context(Observer(self.cluster, view, self.now))
            self._display.phase("creating the microservices")
            for workload in self._workloads:
                await workload.prepare(clients)
            await self._await_rest(view, "before the first fault")
            await self._under_faults(view)
            self._display.phase("waiting for rest")
            await self._await_rest(view, "after the last fault")
            if self.scenario.regions:
                self._problems += await self._placements(view)
            self._display.phase("auditing")
            for workload in self._workloads:
                async with asyncio.timeout(AUDIT_S):
                    await workload.audit(clients[0])
            await asyncio.sleep(QUIET_S)
            self.record.events, self.record.samples = observer.events, observer.samples
            self.record.notes += observer.notes

    async def _await_rest(self, view: ClusterView, when: str) -> None:
        wrong = await view.await_rest(len(self.cluster.servers), REST_S, len(self.cluster.devices))
        if wrong:
            self._problem("rest", f"{when} the cluster did not come to rest in {REST_S:g} s: {'; '.join(wrong[:5])}")

    async def _placements(self, view: ClusterView) -> list[Verdict]:
        """Judge where replicas are that are wanted in regions, once they had the time to go home."""
        until_s = self.now() + REST_S
        while True:
            servers = {name: record.labels.get("region", "") for name, (_, record) in (await view.servers()).items()}
            names = {ms_id: name for name, ms_id in (await view.names()).items()}
            groups = [(names.get(ms_id, ""), group) for (ms_id, _), group in (await view.groups()).items()]
            verdicts = [
                placed([group for name, group in groups if name == one.microservice], servers, one.name)
                for one in self._workloads
            ]
            verdicts = [one for one in verdicts if one.figures["groups"]]
            if all(one.ok for one in verdicts) or self.now() > until_s:
                return verdicts
            await asyncio.sleep(QUIET_S)

    async def _under_faults(self, view: ClusterView) -> None:
        begin, duration_s = self.now(), self.record.duration_s
        schedule = self._schedule
        if schedule is None:
            shape = Shape.of(self.cluster)
            schedule = plan(self.scenario.faults, shape, self.record.seed, duration_s, gap_s=self.scenario.gap_s)
        self._display.phase("breaking it")
        nemesis = Nemesis(Scene(self.cluster, view), self.now, watcher=self._display)
        self.record.faults, self.record.notes = nemesis.records, nemesis.notes
        scenario = self.scenario
        async with Workers(self._workloads, scenario.workers, self.record.seed, scenario.pause_s) as workers:
            with self._display.live(self._recorder, begin + duration_s):
                later = [msgspec.structs.replace(one, at_s=begin + one.at_s) for one in schedule]
                await nemesis.run(later, until_s=begin + duration_s)
                await asyncio.sleep(max(0.0, begin + duration_s - self.now()))
                await workers.finish()
        for text in workers.problems:
            self._problem("workers", text)
