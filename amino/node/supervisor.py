"""The supervisor: parent of a kernel server, holder of its session, witness of its death.

Owns the acts that ``supervisor_machine`` decides on: child processes, their session in etcd, their tombstones, the run
folder with deadline words and flight boards. Leaves decisions to the machine and etcd's rules to ``SessionHolder``.
Invariants: one session per child; a name is claimed only once every earlier child is dead, its session given up.
Failure behaviour: etcd that does not answer is waited for, with the reason logged; a name held by another server, or a
configuration no child can start with, ends the supervisor with an error.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

import amino
from amino.aio.clock import Clock, RealClock
from amino.aio.tasks import TaskOwner
from amino.config import ServerConfig
from amino.contracts.documents import FORMAT_READ, ServerRecord, Tombstone, encode
from amino.coordination.deadline import NEVER, SharedDeadline
from amino.coordination.keys import Keys
from amino.coordination.session import SessionHolder
from amino.coordination.session_machine import Timing
from amino.coordination.store import Store
from amino.errors import AminoError, CoordinationUnavailable
from amino.node import control
from amino.node import supervisor_machine as machine
from amino.node.addresses import advertised
from amino.node.child_process import ChildProcess, python_environment
from amino.node.cluster_document import cluster_document, reopen
from amino.node.connections import open_store
from amino.node.flight_board import create_board, read_board
from amino.node.health import Condition, HealthPort
from amino.node.reports import Report, ServerDown, ServerServes
from amino.node.service_manager import ServiceManager
from amino.node.shared_folder import shared_folder

_log = logging.getLogger("amino.supervisor")
CHILD = (sys.executable, "-P", "-m", "amino.node.child")
RETRY_S = 0.5
TOLD_MAX = 32
"""Round trips of the session that are told with one ping, at most."""
ANOTHER_ETCD_S = 10.0
"""So long must all answers have been another etcd's; a member that only lags behind is over it sooner."""


@dataclass(slots=True)
class _Run:
    """One child and its session."""

    number: int
    board: Path
    deadline_file: Path
    process: ChildProcess | None = None
    ready: control.Ready | None = None
    word: SharedDeadline | None = None
    holder: SessionHolder | None = None
    claim: asyncio.Task[None] | None = None
    serves: bool = False


@dataclass(frozen=True, slots=True)
class Ended:
    """How a supervisor ended: exit code, and the error to show, empty if all was well.

    ``another_etcd``: because etcd is not the one it knew; one that knows nothing is to go on.
    """

    code: int
    message: str = ""
    another_etcd: bool = False


OnReport = Callable[[Report], None]


class Supervisor:
    """Runs a kernel server until told to end.

    Args:
        config: of the server.
        store: open; closed by the caller.
        folder: for shared memory files; made and removed by the caller.
        arguments: command line of the child.
        rules: times; default by ``config``.
        on_report: told on the loop when the server serves and when its process is dead.
        foreign: returns why ``store`` is not the etcd that it was, empty while it is.
    """

    def __init__(
        self,
        config: ServerConfig,
        store: Store,
        folder: Path,
        *,
        clock: Clock | None = None,
        arguments: Sequence[str] = CHILD,
        rules: machine.Rules | None = None,
        on_report: OnReport | None = None,
        foreign: Callable[[], str] = lambda: "",
    ) -> None:
        self._foreign = foreign
        self._on_report: OnReport = on_report if on_report is not None else lambda _: None
        self._config = config
        self._store = store
        self._folder = folder
        self._clock = clock if clock is not None else RealClock()
        self._arguments = arguments
        self._rules = rules if rules is not None else rules_of(config)
        self._keys = Keys(config.cluster)
        self._state = machine.State()
        self._events: asyncio.Queue[machine.Event] = asyncio.Queue()
        self._tasks = TaskOwner("supervisor", lambda error: self._give_up(f"{type(error).__name__}: {error}"))
        self._run: _Run | None = None
        self._ended: Ended | None = None
        self._seed = 0
        self._listen: tuple[str, str] | None = None
        self._started_at = self._clock.wall()
        self._round_trips: dict[bool, deque[float]] = {True: deque(maxlen=TOLD_MAX), False: deque(maxlen=TOLD_MAX)}

    def __repr__(self) -> str:
        return f"Supervisor({self._config.name}, {self._state.phase.value}, run {self._state.run})"

    def terminate_nowait(self, *, drain: bool = True) -> None:
        """Begin to end: the first call drains, the second (or one without ``drain``) stops now. Never waits."""
        self._events.put_nowait(machine.Terminate())
        if not drain:
            self._events.put_nowait(machine.Terminate())

    def condition(self) -> Condition:
        """Return how the server is now; never waits."""
        run, phase = self._run, self._state.phase
        session_s = run.word.read() - self._clock.boottime() if run is not None and run.word is not None else 0.0
        return Condition(
            phase=phase.value if run is not None else "waiting for etcd",
            has_served=self._state.has_served,
            serves=phase is machine.Phase.SERVING and run is not None and run.serves,
            session_s=session_s,
        )

    async def run(self) -> Ended:
        """Supervise until told to end; no child is left when this returns. Cancellation kills the child."""
        try:
            await self._prepare()
            if self._ended is None:
                await self._loop()
        finally:
            run = self._run
            if run is not None and run.process is not None:
                if run.word is not None:
                    run.word.publish(NEVER)
                run.process.kill()
                await run.process.wait()
            await self._tasks.aclose()
            if run is not None and run.holder is not None:
                await run.holder.aclose()
        assert self._ended is not None
        return self._ended

    async def _prepare(self) -> None:
        """Learn the cluster's hash seed, waiting for etcd as long as it takes."""
        said = False
        while self._ended is None:
            try:
                self._seed = (await cluster_document(self._store, self._keys)).hash_seed
                return
            except CoordinationUnavailable as error:
                if not said:
                    _log.warning("waiting for etcd at %s: %s", ", ".join(self._config.etcd.endpoints), error)
                    said = True
            except AminoError as error:
                self._give_up(str(error))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S):
                    event = await self._events.get()
                if isinstance(event, machine.Terminate):
                    self._ended = Ended(0)

    async def _loop(self) -> None:
        self._handle(machine.Begin())
        last = self._clock.monotonic()
        while self._ended is None:
            due_s = last + machine.next_tick_s(self._state, self._rules) - self._clock.monotonic()
            if due_s > 0:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(due_s):
                        self._handle(await self._events.get())
                    continue
            if why := self._foreign():
                _log.error("%s starts over, because etcd was replaced: %s", self._config.name, why)
                self._ended = Ended(0, another_etcd=True)  # no tombstone: our incarnation means nothing there
                return
            now = self._clock.monotonic()
            elapsed_s, last = now - last, now
            process = self._run.process if self._run is not None else None
            self._handle(machine.Tick(elapsed_s, process is not None and process.is_stopped))

    def _handle(self, event: machine.Event) -> None:
        self._state, effects = machine.step(self._state, event, self._rules)
        for effect in effects:
            _log.debug("%s -> %s", event, effect)
            self._act(effect)

    def _act(self, effect: machine.Effect) -> None:
        run = self._run
        match effect:
            case machine.StartChild(number):
                self._start(number)
            case machine.Claim() if run is not None:
                run.claim = self._tasks.spawn(self._claim(run), "claim")
            case machine.Serve() if run is not None and run.holder is not None:
                self._tell(control.Serve(run.holder.incarnation, run.holder.lease, str(run.deadline_file)))
            case machine.Ping():
                self._tell(control.Ping(tuple(self._round_trips[True]), tuple(self._round_trips[False])))
                self._round_trips = {True: deque(maxlen=TOLD_MAX), False: deque(maxlen=TOLD_MAX)}
            case machine.Drain():
                _log.info("draining %s; a second signal stops it now", self._config.name)
                self._tell(control.Drain())
            case machine.Stop():
                self._tell(control.Stop())
            case machine.Kill(cause) if run is not None and run.process is not None:
                _log.warning("killing the kernel process %d: %s", run.process.pid, cause)
                if run.word is not None:
                    run.word.publish(NEVER)
                run.process.kill()
            case machine.Bury(_, cause, blame) if run is not None:
                self._tasks.spawn(self._bury(run, cause, blame=blame), "bury")
            case machine.Exit(code, message):
                self._ended = Ended(code, message)

    def _tell(self, message: control.ToChild) -> None:
        if self._run is not None and self._run.process is not None:
            self._run.process.send(message)

    @property
    def config(self) -> ServerConfig:
        """The configuration, with the ports in use once there are any: clients find the next incarnation where it was."""
        if self._listen is None:
            return self._config
        return msgspec.structs.replace(self._config, listen=self._listen[0], grpc_listen=self._listen[1])

    # --- a child's life ---

    def _start(self, number: int) -> None:
        run = _Run(number, self._folder / f"board-{number}", self._folder / f"deadline-{number}")
        self._run = run
        create_board(run.board)
        config = self.config
        environment = python_environment(PYTHONHASHSEED=str(self._seed))

        def said(message: control.ToSupervisor) -> None:
            self._said(run, message)

        def exited(cause: str) -> None:
            _log.log(
                logging.INFO if self._state.phase is machine.Phase.STOPPING else logging.WARNING,
                "the kernel process of %s ended: %s", self._config.name, cause,
            )  # fmt: skip
            self._events.put_nowait(machine.Exited(number, cause))
            if run.process is not None:
                self._on_report(ServerDown(run.process.pid, cause))

        try:
            run.process = ChildProcess.start(self._arguments, environment, said, exited)
        except OSError as error:
            self._give_up(f"cannot start {self._arguments[0]}: {error}; reinstall amino")
            return
        run.process.send(control.Configure(config, str(run.board)))

    def _said(self, run: _Run, message: control.ToSupervisor) -> None:
        match message:
            case control.Ready():
                run.ready = message
                self._listen = (message.address, message.grpc_address)
                self._events.put_nowait(machine.ChildReady(run.number))
            case control.Failed(text, fatal):
                self._listen = None
                self._events.put_nowait(machine.ChildFailed(run.number, text, fatal))
            case control.Drained(moved, left):
                _log.info("drained %s: %d moved, %d left", self._config.name, moved, len(left))
                self._events.put_nowait(machine.Drained(run.number))
            case control.Serving():
                run.serves = True
                self._events.put_nowait(machine.ChildServes(run.number))
                self._report_serving(run)
        self._events.put_nowait(machine.Pong(run.number))

    def _report_serving(self, run: _Run) -> None:
        if run.ready is None or run.holder is None or run.process is None:
            return
        record = self._record(run)
        _log.info("%s serves at %s", self._config.name, record.address)
        self._on_report(ServerServes(record.address, record.grpc_address, run.process.pid, run.holder.incarnation))

    async def _claim(self, run: _Run) -> None:
        run.word = SharedDeadline.create(run.deadline_file)

        def lost(_reason: str) -> None:  # which the holder has logged
            self._events.put_nowait(machine.LeaseLost(run.number))

        record = encode(self._record(run))
        while True:
            try:
                await reopen(self._store, self._keys, self._config.name)
                run.holder = SessionHolder(
                    self._store, self._keys, self._config.name, run.word,
                    clock=self._clock, timing=timing_of(self._config), on_lost=lost, on_round_trip=self._round_trip,
                )  # fmt: skip
                await run.holder.start(record)
                self._events.put_nowait(machine.Claimed(run.number))
                return
            except CoordinationUnavailable as error:
                _log.warning("%s cannot claim its name yet: %s", self._config.name, error)
                await asyncio.sleep(RETRY_S)
            except AminoError as error:
                self._events.put_nowait(machine.Refused(run.number, str(error)))
                return

    def _round_trip(self, duration_s: float, renewed: bool) -> None:
        self._round_trips[renewed].append(duration_s)

    def _record(self, run: _Run) -> ServerRecord:
        config, ready, process = self._config, run.ready, run.process
        assert ready is not None
        assert process is not None
        return ServerRecord(
            name=config.name,
            address=advertised(ready.address, config.advertise),
            grpc_address=advertised(ready.grpc_address, config.advertise) if ready.grpc_address else "",
            labels={"host": socket.gethostname(), **config.labels},
            capacity=config.capacity,
            pid=process.pid,
            supervisor_pid=os.getpid(),
            store_id=ready.store_id,
            version=amino.__version__,
            started_at=ready.started_at or self._clock.wall(),
            format_read=FORMAT_READ,
        )

    async def _bury(self, run: _Run, cause: str, *, blame: bool) -> None:
        suspects = read_board(run.board) if blame else ()
        tombstone = encode(Tombstone(cause=cause, suspects=suspects, detected_at=self._clock.wall()))
        if run.word is not None:
            run.word.publish(NEVER)
        if run.claim is not None and not run.claim.done():
            run.claim.cancel()
            await asyncio.wait({run.claim})
        while run.holder is not None:
            try:
                await run.holder.tombstone_and_revoke(tombstone)
                break
            except CoordinationUnavailable as error:
                _log.warning("%s cannot bury incarnation %d yet: %s", self._config.name, run.holder.incarnation, error)
                await asyncio.sleep(RETRY_S)
        self._forget(run)
        self._events.put_nowait(machine.Buried())

    def _forget(self, run: _Run) -> None:
        if run.word is not None:
            run.word.close()
            run.word = None
        for file in (run.board, run.deadline_file):
            file.unlink(missing_ok=True)

    def _give_up(self, message: str) -> None:
        self._ended = Ended(1, message)
        self._events.put_nowait(machine.Buried())  # wakes the loop


def rules_of(config: ServerConfig) -> machine.Rules:
    """Return the supervisor's times as configured."""
    return machine.Rules(ttl_s=config.session.ttl_s, hang_s=config.hang_s, drain_timeout_s=config.drain_timeout_s)


def timing_of(config: ServerConfig) -> Timing:
    """Return the session's times as configured."""
    session = config.session
    return Timing(
        ttl_s=session.ttl_s,
        renew_every_s=session.renew_every_s,
        request_timeout_s=session.request_timeout_s,
        margin_s=session.margin_s,
    )


async def supervise(
    config: ServerConfig,
    *,
    arguments: Sequence[str] = CHILD,
    on_report: OnReport | None = None,
    on_start: Callable[[Supervisor], None] | None = None,
) -> Ended:
    """Be ``amino server``: supervise until SIGTERM or SIGINT (drain; a second one: stop now).

    Args:
        config: of the server.
        arguments: command line of the child.
        on_report: see ``Supervisor``.
        on_start: given the supervisor, for other ways to end it.
    """
    while True:
        ended, config = await _supervise_one(config, arguments, on_report, on_start)
        if not ended.another_etcd:
            return ended


async def _supervise_one(
    config: ServerConfig,
    arguments: Sequence[str],
    on_report: OnReport | None,
    on_start: Callable[[Supervisor], None] | None,
) -> tuple[Ended, ServerConfig]:
    """Supervise while etcd is the same one; returns how that ended, and the configuration to go on with."""
    clock = RealClock()
    store = await open_store(config.etcd, request_timeout_s=config.session.request_timeout_s, clock=clock)
    loop = asyncio.get_running_loop()
    try:
        with shared_folder() as folder:
            manager = ServiceManager(os.environ)
            supervisor = Supervisor(
                config, store, folder, clock=clock, arguments=arguments, on_report=_telling(manager, on_report),
                foreign=lambda: store.foreign(ANOTHER_ETCD_S),
            )  # fmt: skip

            def terminate() -> None:
                manager.ends()
                supervisor.terminate_nowait()

            for number in (signal.SIGTERM, signal.SIGINT):
                try:
                    loop.add_signal_handler(number, terminate)
                except NotImplementedError:  # Windows
                    signal.signal(number, lambda *_: loop.call_soon_threadsafe(terminate))
            if on_start is not None:
                on_start(supervisor)
            async with contextlib.AsyncExitStack() as around:
                if config.health_listen:
                    port = await HealthPort.open(config.health_listen, supervisor.condition)
                    around.push_async_callback(port.aclose)
                    _log.info("probes are answered at %s", port.address)
                if manager.beat_every_s:
                    beats = TaskOwner("service manager")
                    around.push_async_callback(beats.aclose)
                    beats.spawn(_beat(manager), "beat")
                return await supervisor.run(), supervisor.config
    finally:
        await store.aclose()


def _telling(manager: ServiceManager, on_report: OnReport | None) -> OnReport:
    def report(what: Report) -> None:
        match what:
            case ServerServes(address=address):
                manager.serves(f"serving at {address}")
            case ServerDown(cause=cause):
                manager.does(f"the kernel process ended: {cause}")
        if on_report is not None:
            on_report(what)

    return report


async def _beat(manager: ServiceManager) -> None:
    while True:
        manager.alive()
        await asyncio.sleep(manager.beat_every_s)
