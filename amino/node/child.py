"""The kernel process under a supervisor: ``python -m amino.node.child``.

Owns the process around a kernel server: pipes, event loop, signs of life, the end. Leaves the server itself to a
``Node`` (``assembly.KernelNode``), and the session to the supervisor.
Invariants: signs of life come from the main loop, so a blocked loop is a silent child; the process never outlives its
supervisor by more than ``ORPHAN_S``, and answers nothing once it has noticed.
Failure behaviour: what prevents the start is told to the supervisor, then the process ends with code 1. When the
supervisor dies, the process fences itself, writes its own tombstone and ends with code 3.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import importlib
import logging
import mmap
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NoReturn, Protocol

import msgspec

from amino.aio.clock import Clock, RealClock
from amino.aio.tasks import TaskOwner
from amino.code.loader import use_app_dirs
from amino.config import ServerConfig
from amino.contracts.calls import CURRENT
from amino.contracts.documents import Tombstone, encode
from amino.coordination.deadline import SharedDeadline
from amino.coordination.ending import prove_dead
from amino.coordination.keys import Keys
from amino.coordination.session import SessionView
from amino.errors import AminoError, Invalid
from amino.node import control
from amino.node.connections import open_store
from amino.node.flight_board import Board, FlightBoard
from amino.telemetry import logs, names
from amino.telemetry.setup import from_environment
from amino.telemetry.trace import Telemetry

_log = logging.getLogger("amino.node")
ORPHAN_S = 0.45
EXIT_FAILED = 1
EXIT_ORPHAN = 3


class Addresses(msgspec.Struct, frozen=True):
    """Where a node can be reached, once bound, and which checkpoint store it shares with the others.

    Args:
        started_at: wall clock; with the process id it tells this run from others.
    """

    address: str
    grpc_address: str = ""
    store_id: str = ""
    started_at: float = 0.0


class Node(Protocol):
    """A kernel server, as its process sees it. All methods run on the main loop."""

    async def bind(self) -> Addresses:
        """Bind the ports, without serving yet; connections wait or are told "not ready"."""
        ...

    async def serve(self, incarnation: int, lease: int, session: SessionView) -> None:
        """Begin to serve under this session; returns once it does."""
        ...

    async def drain(self) -> tuple[int, tuple[str, ...]]:
        """Move all objects to other servers; returns how many went and which microservices are left."""
        ...

    async def fence(self) -> None:
        """Stop answering at once: close all links and listeners. The session is over."""
        ...

    async def aclose(self) -> None:
        """End in order. Idempotent."""
        ...


MakeNode = Callable[[ServerConfig, Clock, Board, Telemetry], Node]


def main() -> NoReturn:
    """Be a kernel server under the supervisor that started this process."""
    assembly: Any = importlib.import_module("amino.node.assembly")
    run(assembly.KernelNode)


def run(make_node: MakeNode) -> NoReturn:
    """Be a child process with the node that ``make_node`` makes; ends the process."""
    incoming, outgoing = _take_over_pipes()
    for number in (signal.SIGINT, signal.SIGTERM):  # the supervisor decides when we end
        signal.signal(number, lambda *_: None)  # not SIG_IGN: programs that user code starts would inherit that
    faulthandler.enable()
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1)  # kill -USR1: where all threads are, into the log
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            code = runner.run(_Child(make_node, incoming, outgoing).run())
    except BaseException:  # noqa: BLE001 - the last line of the process: say it, then end with a code that says so
        _log.exception("the kernel process failed")
        code = EXIT_FAILED
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)  # threads that run user code must not hold up the end


def _take_over_pipes() -> tuple[int, int]:
    """Keep stdin and stdout for ourselves; user code reads nothing and prints to stderr."""
    incoming, outgoing = os.dup(0), os.dup(1)
    empty = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty, 0)
    os.close(empty)
    os.dup2(2, 1)
    return incoming, outgoing


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop of the fastest kind there is."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def what_runs() -> logs.About | None:
    """Return which microservice the method that runs in this thread or task belongs to, and its call's trace."""
    invocation = CURRENT.get()
    if invocation is None:
        return None
    about = {names.MICROSERVICE: invocation.microservice, names.REPLICA: invocation.replica}
    return about, invocation.traceparent


class _Child:
    """The conversation with the supervisor, from first to last word."""

    def __init__(self, make_node: MakeNode, incoming: int, outgoing: int) -> None:
        self._make_node = make_node
        self._incoming = incoming
        self._outgoing = outgoing
        self._clock = RealClock()
        self._session: control.Serve | None = None
        self._config: ServerConfig | None = None
        self._over = False
        self._telemetry = Telemetry.disabled()

    async def run(self) -> int:
        """Live; returns the exit code."""
        loop = asyncio.get_running_loop()
        messages: asyncio.Queue[control.ToChild | None] = asyncio.Queue()

        def arrived(message: control.ToChild) -> None:
            if isinstance(message, control.Serve):
                self._session = message  # known to the reading thread, which fences when the pipe ends
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(messages.put_nowait, message)

        def ended() -> None:
            if self._over:
                return
            self._invalidate()
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(messages.put_nowait, None)
            time.sleep(ORPHAN_S)  # the loop may be held up by user code; the bound holds all the same
            os._exit(EXIT_ORPHAN)

        control.PipeReader(self._incoming, control.TO_CHILD, arrived, ended, "amino-supervisor").start()
        first = await messages.get()
        if not isinstance(first, control.Configure):
            return EXIT_ORPHAN
        self._config = first.config
        try:
            telemetry = from_environment("amino-server", instance=first.config.name, publish=True)
        except Invalid as error:
            return self._failed(error)
        self._telemetry = telemetry
        logs.configure(telemetry, form=first.config.log_format, level=first.config.log_level.upper(), about=what_runs)
        try:
            use_app_dirs(first.config.app_dirs)
            node = self._make_node(first.config, self._clock, FlightBoard(Path(first.board)), telemetry)
            addresses = await node.bind()
        except (AminoError, OSError, ImportError) as error:
            return self._failed(error)
        gc.collect()
        gc.freeze()  # what was imported stays: a full collection that looks at all of it would hold up calls
        self._say(control.Ready(*msgspec.structs.astuple(addresses)))
        try:
            return await self._converse(node, messages)
        finally:
            self._over = True
            await telemetry.aclose(1.0)

    async def _converse(self, node: Node, messages: asyncio.Queue[control.ToChild | None]) -> int:
        failed: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        def fail(error: BaseException) -> None:
            if not failed.done():
                failed.set_result(self._failed(error))

        async def guarded(work: Awaitable[None]) -> None:
            try:
                await work
            except (AminoError, OSError, ImportError) as error:
                fail(error)

        tasks = TaskOwner("child", fail)  # a server that half serves is worse than one that starts again

        try:
            while True:
                message = await self._next(messages, failed)
                match message:
                    case int():
                        return message
                    case None:
                        await self._orphaned(node)
                        return EXIT_ORPHAN
                    case control.Ping() as ping:
                        self._say(control.Pong())
                        self._count(ping)
                    case control.Serve():
                        tasks.spawn(guarded(self._serve(node, message)), "serve")
                    case control.Drain():
                        tasks.spawn(guarded(self._drain(node)), "drain")
                    case control.Stop():
                        await node.aclose()
                        return 0
        finally:
            await tasks.aclose()

    def _count(self, ping: control.Ping) -> None:
        for duration_s in ping.round_trips:
            self._telemetry.metrics.keepalive(duration_s)
        for duration_s in ping.failed:
            self._telemetry.metrics.keepalive(duration_s, ok=False)

    async def _next(
        self, messages: asyncio.Queue[control.ToChild | None], failed: asyncio.Future[int]
    ) -> control.ToChild | int | None:
        getter = asyncio.ensure_future(messages.get())
        waiting: set[asyncio.Future[Any]] = {getter, failed}
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            return failed.result() if failed.done() else getter.result()
        finally:
            getter.cancel()

    async def _serve(self, node: Node, message: control.Serve) -> None:
        word = SharedDeadline.open(message.deadline_file)
        await node.serve(message.incarnation, message.lease, SessionView(word, self._clock, message.incarnation))
        self._say(control.Serving())

    async def _drain(self, node: Node) -> None:
        try:
            moved, left = await node.drain()
        except AminoError as error:
            _log.warning("the drain failed: %s", error)
            moved, left = 0, ()
        self._say(control.Drained(moved, left))

    def _invalidate(self) -> None:
        """Make the session invalid for every thread at once, from the thread that saw the supervisor's pipe end."""
        if self._session is None:
            return
        with contextlib.suppress(OSError, ValueError):
            with Path(self._session.deadline_file).open("r+b") as file:
                word = mmap.mmap(file.fileno(), 8)
            word[:] = bytes(8)
            word.close()

    async def _orphaned(self, node: Node) -> None:
        """Stop answering, then say for all to see that this incarnation is dead."""
        _log.error("the supervisor is gone; this kernel server ends")
        with contextlib.suppress(TimeoutError, AminoError, OSError):
            async with asyncio.timeout(ORPHAN_S / 4):
                await node.fence()
        if self._session is None or self._config is None:
            return
        keys = Keys(self._config.cluster)
        try:
            store = await open_store(self._config.etcd, request_timeout_s=ORPHAN_S, clock=self._clock)
            tombstone = encode(Tombstone(cause="supervisor died", detected_at=self._clock.wall()))
            await prove_dead(
                store, keys, self._config.name, self._session.incarnation, tombstone,
                clock=self._clock, timeout_s=ORPHAN_S,
            )  # fmt: skip
        except AminoError as error:
            _log.warning("no tombstone could be written (%s); others end the session when it has run out", error)

    def _failed(self, error: BaseException) -> int:
        fatal = isinstance(error, Invalid | ImportError)
        text = str(error) or type(error).__name__
        _log.error("cannot start: %s", text)
        self._say(control.Failed(text, fatal))
        return EXIT_FAILED

    def _say(self, message: control.ToSupervisor) -> None:
        control.send(self._outgoing, message)


if __name__ == "__main__":
    main()
