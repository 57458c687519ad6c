"""A run against a cluster that somebody else started, while somebody else breaks it.

Owns calling, recording, watching etcd and processes, and judging. Leaves every fault to others, and so knows of none.
Invariants: nothing of the cluster is started, ended or signalled; its own microservices are deleted in the end.
Failure behaviour: as ``runner``: what goes wrong with the run itself is a verdict that is not good.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import psutil

import amino
from amino.aio.mode import offload
from amino.aio.tasks import TaskOwner
from amino.errors import AminoError, Invalid
from amino.testing.chaos.clusters import AttachedCluster, ClusterView
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.judges.whole import judge_run
from amino.testing.chaos.observer import SAMPLE_EVERY_S, Observer
from amino.testing.chaos.record import RunRecord, Sample, Verdict
from amino.testing.chaos.workloads.base import Workload
from amino.testing.chaos.workloads.registry import workload as make
from chaos.runner import AUDIT_S, Display
from chaos.scenarios import Scenario
from chaos.workers import Workers

ALIVE_S = 60.0


class Attached:
    """One such run.

    Args:
        scenario: whose workloads and managers are used; its faults are not.
        addresses: of kernel servers; without, those that etcd has on record. etcd: members, for what is watched there.
        pids: processes whose sizes are sampled.
    """

    def __init__(
        self,
        scenario: Scenario,
        *,
        addresses: Sequence[str],
        etcd: Sequence[str],
        pids: Sequence[int],
        name: str,
        insecure: bool,
        seed: int,
        duration_s: float,
        display: Display,
    ) -> None:
        if not addresses and not etcd:
            raise Invalid("neither --address nor --etcd; give one of them, to find the cluster by")
        self.record = RunRecord(scenario.name, "attached", seed, duration_s, patience_s=ALIVE_S)
        self._scenario = scenario
        self._addresses, self._etcd, self._pids = list(addresses), list(etcd), list(pids)
        self._name, self._insecure = name, insecure
        self._display = display
        self._recorder = Recorder()
        self._workloads: list[Workload] = []

    async def run(self) -> RunRecord:
        """Do it; returns the judged record."""
        problems: list[Verdict] = []
        try:
            problems += await self._record()
        except (AminoError, OSError, TimeoutError) as error:
            text = f"it could not be run to its end: {type(error).__name__}: {error}"
            problems.append(Verdict("run", ok=False, text=text))
        self._display.phase("judging")
        self.record.operations = list(self._recorder.operations)
        self.record.add(problems)
        self.record.add(await offload(judge_run, self.record, self._workloads))
        return self.record

    async def _record(self) -> list[Verdict]:
        async with contextlib.AsyncExitStack() as open_:
            attached = AttachedCluster(self._etcd, name=self._name, insecure=self._insecure)
            observer: Observer | None = None
            if self._etcd:
                await attached.start()
                view = await open_.enter_async_context(ClusterView(self._etcd, self._name))
                observer = await open_.enter_async_context(Observer(attached, view, lambda: self._recorder.now_s))
                self._addresses = self._addresses or [attached.address(server) for server in attached.servers]
            self._recorder = Recorder()
            clients = [
                await open_.enter_async_context(await offload(self._connect)) for _ in range(self._scenario.workers)
            ]
            self._workloads = [
                make(kind, self._recorder, chain, f"{kind}-{self.record.seed}")
                for kind, chain in self._scenario.chains.items()
            ]
            self.record.workloads = [one.described for one in self._workloads]
            self._display.phase("creating its microservices")
            for workload in self._workloads:
                await workload.prepare(clients)
            sampling = TaskOwner("chaos samples")
            sampling.spawn(self._sample(), "processes")
            open_.push_async_callback(sampling.aclose)
            self._display.phase(f"calling for {self.record.duration_s:g} s: break it now")
            scenario = self._scenario
            async with Workers(self._workloads, scenario.workers, self.record.seed, scenario.pause_s) as workers:
                with self._display.live(self._recorder, self._recorder.now_s + self.record.duration_s):
                    await asyncio.sleep(self.record.duration_s)
                    await workers.finish()
            self._display.phase("auditing")
            for workload in self._workloads:
                async with asyncio.timeout(AUDIT_S + ALIVE_S):
                    await workload.audit(clients[0])
            if observer is not None:
                self.record.events = observer.events
                self.record.samples += observer.samples
                self.record.notes += observer.notes
            self.record.samples.sort(key=lambda one: one.at_s)
            await self._delete(clients[0])
            return [Verdict("workers", ok=False, text=text) for text in workers.problems]

    def _connect(self) -> amino.Cluster:
        return amino.connect(*self._addresses, cluster=self._name, insecure=self._insecure)

    async def _delete(self, client: amino.Cluster) -> None:
        for workload in self._workloads:
            with contextlib.suppress(AminoError):
                await amino.aio(client.delete)(f"chaos-{workload.name}".replace("@", "-"))

    async def _sample(self) -> None:
        while True:
            figures: dict[str, float] = {}
            for pid in self._pids:
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    figures[f"{pid} memory bytes"] = process.memory_info().rss
                    figures[f"{pid} descriptors"] = process.num_fds()
            if figures:
                self.record.samples.append(Sample(self._recorder.now_s, figures))
            await asyncio.sleep(SAMPLE_EVERY_S)
