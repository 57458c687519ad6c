"""One simulated machine: a supervisor process and the kernel process that it starts again and again.

Owns the acts that ``node.supervisor_machine`` decides on, done to simulated processes. Leaves decisions to the machine and
kernel processes to ``kernel``.
Invariants: as on real machines: one session per kernel process; a name is claimed once every earlier kernel process is
dead and buried.
Failure behaviour: as on real machines; what the machine does by itself after a loss it does here too.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from amino.contracts.documents import FORMAT_READ, ServerRecord, Tombstone, encode
from amino.coordination.deadline import NEVER
from amino.coordination.ending import prove_dead
from amino.coordination.session import SessionHolder
from amino.coordination.session_machine import Timing
from amino.errors import AminoError, CoordinationUnavailable
from amino.node import supervisor_machine as machine
from amino.testing.simulation.kernel import Kernel, SimulatedHost

if TYPE_CHECKING:
    from amino.coordination.memory import MemoryStore
    from amino.node.kernel_server import KernelServer
    from amino.testing.simulation.cluster import SimulatedCluster
    from amino.testing.simulation.loop import Process

EXIT_NOTICED_S = 0.005
RETRY_S = 0.5
TICK_S_MIN = 0.0001
RESTART_S = 1.0


@dataclass(slots=True)
class _Run:
    kernel: Kernel
    holder: SessionHolder | None = None
    claim: asyncio.Task[None] | None = None


class SimulatedServer(SimulatedHost):
    """One machine of a ``SimulatedCluster``, and what can be done to it."""

    def __init__(self, cluster: SimulatedCluster, name: str, labels: dict[str, str]) -> None:
        super().__init__(cluster, name, labels)
        self.supervisor: Process | None = None
        self._rules = machine.Rules(ttl_s=cluster.ttl_s)
        self._state = machine.State()
        self._events: asyncio.Queue[machine.Event] = asyncio.Queue()
        self._run: _Run | None = None
        self._numbers = itertools.count(1)
        self._stopped = False

    # --- faults -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Switch the machine on: start its supervisor. Does nothing while it is on."""
        if self.supervisor is not None and not self.supervisor.dead:
            return
        self._stopped = False
        number = next(self._numbers)
        self.supervisor = self.cluster.loop.process(f"{self.name} supervisor {number}")
        store = self.supervisor.run(self.new_store, f"{self.name} supervisor", self.cluster.ttl_s / 3)
        self._state = machine.State(run=self._state.run)
        self._events = asyncio.Queue()
        self._run = None
        self.supervisor.spawn(self._supervise(store, self._events), "supervise")

    def crash(self) -> None:
        """Kill the kernel process; the supervisor notices and starts another."""
        if self.kernel is not None:
            self._end(self.kernel, "signal 9")

    def crash_supervisor(self) -> None:
        """Kill the supervisor; the kernel process sees its pipe close, stops and writes its own tombstone."""
        if self.supervisor is None or self.supervisor.dead:
            return
        self.supervisor.kill()
        kernel = self.kernel
        if kernel is not None and not kernel.process.dead:
            kernel.process.call_soon(self._orphaned, kernel)

    def crash_machine(self, *, silent: bool = True) -> None:
        """Lose the whole machine at once; ``start`` switches it on again.

        Args:
            silent: its peers hear nothing of it.
        """
        if self.supervisor is not None:
            self.supervisor.kill()
        if self.kernel is not None:
            self._end(self.kernel, "", silent=silent)

    def freeze(self, *, supervisor: bool = True, kernel: bool = True) -> None:
        """Stop processes of the machine, as SIGSTOP does."""
        if supervisor and self.supervisor is not None:
            self.supervisor.freeze()
        if kernel and self.kernel is not None and self.kernel.process.running:
            self.kernel.process.freeze()
            self.cluster.network.freeze(self.name)

    def thaw(self) -> None:
        """Let them run on."""
        if self.supervisor is not None:
            self.supervisor.thaw()
        if self.kernel is not None and self.kernel.process.frozen:
            self.kernel.process.thaw()
            self.cluster.network.thaw(self.name)

    def kernel_stops(self, why: str) -> None:
        """The kernel process ends itself at once."""
        if self.kernel is not None:
            self._end(self.kernel, why)

    def _end(self, kernel: Kernel, cause: str, *, silent: bool = False) -> None:
        if kernel.process.dead:
            return
        kernel.process.kill()
        kernel.store.abandon()
        if kernel.store in self.stores:
            self.stores.remove(kernel.store)
        if kernel is self.kernel:
            self.cluster.network.kill(self.name, silent=silent)
        if self.supervisor is not None and not self.supervisor.dead:
            self.cluster.loop.call_later(
                EXIT_NOTICED_S,
                self._events.put_nowait,
                machine.Exited(kernel.number, cause),
                context=self.supervisor.context,
            )

    def _orphaned(self, kernel: Kernel) -> None:
        """As the kernel process: the supervisor is dead."""
        kernel.word.publish(NEVER)
        self.cluster.network.kill(self.name)
        kernel.process.spawn(self._bury_self(kernel), "bury itself")

    async def _bury_self(self, kernel: Kernel) -> None:
        tombstone = encode(Tombstone(cause="supervisor died", detected_at=self.clock.wall()))
        if kernel.incarnation:
            with contextlib.suppress(CoordinationUnavailable):
                lease = await prove_dead(
                    kernel.store, self.cluster.keys, self.name, kernel.incarnation, tombstone, clock=self.clock
                )
                if lease:
                    await kernel.store.revoke(lease)
        self._end(kernel, "supervisor died")

    # --- the supervisor ---------------------------------------------------------------------------------------------

    async def _supervise(self, store: MemoryStore, events: asyncio.Queue[machine.Event]) -> None:
        while self.kernel is not None and not self.kernel.process.dead:  # noqa: ASYNC110 - the time is virtual
            await asyncio.sleep(0.05)  # its ports are still bound
        self._act_on(machine.Begin(), store)
        last = self.clock.monotonic()
        while self._state.phase is not machine.Phase.OVER:
            due_s = last + machine.next_tick_s(self._state, self._rules) - self.clock.monotonic()
            event: machine.Event | None = None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(due_s, TICK_S_MIN)):  # virtual time passes only where somebody waits
                    event = await events.get()
            if event is not None:
                self._act_on(event, store)
                continue
            now = self.clock.monotonic()
            elapsed_s, last = now - last, now
            self._act_on(machine.Tick(elapsed_s, self.kernel is not None and self.kernel.process.frozen), store)
        await store.aclose()
        self.stores.remove(store)
        assert self.supervisor is not None
        self.supervisor.kill()
        if not self._stopped:  # it could not have its name; whoever started it starts it again
            self.cluster.loop.call_later(RESTART_S, self.start, context=contextvars.Context())

    def _act_on(self, event: machine.Event, store: MemoryStore) -> None:
        self._state, effects = machine.step(self._state, event, self._rules)
        for effect in effects:
            self._act(effect, store)

    def _act(self, effect: machine.Effect, store: MemoryStore) -> None:
        run, put, supervisor = self._run, self._events.put_nowait, self.supervisor
        assert supervisor is not None
        match effect:
            case machine.StartChild(number):
                kernel = self.kernel = Kernel(self, number)
                self._run = _Run(kernel)
                kernel.process.spawn(kernel.start(lambda: put(machine.ChildReady(number))), "start")
            case machine.Claim(number) if run is not None:
                run.claim = supervisor.spawn(self._claim(run, store), "claim")
            case machine.Serve() if run is not None and run.holder is not None:
                run.kernel.process.call_soon(self._serve, run.kernel, run.holder.incarnation, run.holder.lease)
            case machine.Ping() if run is not None:
                run.kernel.process.call_soon(put, machine.Pong(run.kernel.number))
            case machine.Drain() if run is not None:
                run.kernel.process.call_soon(self._drain, run.kernel)
            case machine.Stop() if run is not None:
                self._end(run.kernel, "shut down")
            case machine.Kill(cause) if run is not None:
                run.kernel.word.publish(NEVER)
                self._end(run.kernel, cause)
            case machine.Bury(_, cause, blame) if run is not None:
                supervisor.spawn(self._bury(run, cause, blame=blame), "bury")
            case _:
                pass

    def _serve(self, kernel: Kernel, incarnation: int, lease: int) -> None:
        served = machine.ChildServes(kernel.number)
        put = self._events.put_nowait
        kernel.process.spawn(kernel.serve(incarnation, lease, lambda: put(served)), "serve")

    async def _claim(self, run: _Run, store: MemoryStore) -> None:
        number = run.kernel.number
        put = self._events.put_nowait
        record = encode(
            ServerRecord(
                name=self.name,
                address=self.address,
                labels=self.labels,
                store_id=self.store_id,
                version="0",
                format_read=FORMAT_READ,
            )
        )
        while True:
            try:
                run.holder = SessionHolder(
                    store,
                    self.cluster.keys,
                    self.name,
                    run.kernel.word,
                    clock=self.clock,
                    timing=Timing.of_ttl(self.cluster.ttl_s),
                    on_lost=lambda _: put(machine.LeaseLost(number)),
                )
                await run.holder.start(record)
                put(machine.Claimed(number))
                return
            except CoordinationUnavailable:
                await asyncio.sleep(RETRY_S)
            except AminoError as error:
                put(machine.Refused(number, str(error)))
                return

    async def _bury(self, run: _Run, cause: str, *, blame: bool) -> None:
        suspects = run.kernel.board.suspects() if blame else ()
        tombstone = encode(Tombstone(cause=cause, suspects=suspects, detected_at=self.clock.wall()))
        run.kernel.word.publish(NEVER)
        if run.claim is not None and not run.claim.done():
            run.claim.cancel()
            await asyncio.wait({run.claim})
        while run.holder is not None:
            try:
                await run.holder.tombstone_and_revoke(tombstone)
                break
            except CoordinationUnavailable:
                await asyncio.sleep(RETRY_S)
        self._events.put_nowait(machine.Buried())

    def stop(self) -> None:
        """Tell the supervisor to end, as SIGTERM does: it drains first."""
        self._stopped = True
        if self.supervisor is not None:
            self.supervisor.call_soon(self._events.put_nowait, machine.Terminate())

    def _drain(self, kernel: Kernel) -> None:
        if kernel.server is not None:
            kernel.process.spawn(self._drained(kernel, kernel.server), "drain")

    async def _drained(self, kernel: Kernel, server: KernelServer) -> None:
        with contextlib.suppress(AminoError):
            await server.drain()
        self._events.put_nowait(machine.Drained(kernel.number))
