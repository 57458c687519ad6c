"""The memory transport's faults: cuts, losses, resets, death and freezing, the same again for the same seed."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from amino.errors import AlreadyExists, NotExecuted, OutcomeUnknown
from amino.rpc.handshake import NodeInfo
from amino.rpc.memory import MemoryNetwork
from amino.rpc.port import Inbound
from tests.rpc.worlds import CALL, echo


class _NoWait(selectors.DefaultSelector):
    """Never waits: the loop's clock jumps to the next timer instead."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list:
        self.loop.now += timeout or 0.0
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose time passes only by timers."""

    def __init__(self) -> None:
        self.now = 1000.0
        selector = _NoWait()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.now


def play(case: Callable[[], Awaitable[Any]]) -> Any:
    """Run ``case`` in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(case())  # type: ignore[arg-type]


class Stage:
    """A network with a server ``s1`` and a client ``c1``."""

    def __init__(self, handler: Callable[[Inbound], None] = echo, **faults: Any) -> None:
        self.network = MemoryNetwork(3, **faults)
        self.seen: list[bytes] = []
        self.replies: list[Inbound] = []

        def noting(inbound: Inbound) -> None:
            self.seen.append(inbound.head)
            self.replies.append(inbound)
            handler(inbound)

        self.listener = self.network.listen("s1:1", noting, NodeInfo("s1-process", "server", "s1", 1))
        self.transport = self.network.transport(NodeInfo("c1"))

    async def ask(self, head: bytes = b"q", timeout_s: float = 10.0) -> bytes:
        """Ask s1 and return its answer."""
        return (await self.transport.request("s1:1", CALL, head, timeout_s=timeout_s)).head


def test_a_cut_holds_frames_and_healing_delivers_them_late() -> None:
    """A request into a cut arrives after healing, if the connection has not broken yet."""

    async def case() -> None:
        stage = Stage(break_after_s=2.0)
        loop = asyncio.get_running_loop()
        await stage.ask()
        stage.network.cut("c1", "s1")
        call = asyncio.ensure_future(stage.ask(b"held"))
        await asyncio.sleep(1)
        assert stage.seen == [b"q"]
        healed = loop.time()
        stage.network.heal("c1", "s1")
        assert await call == b"held"
        assert loop.time() - healed < 0.1

    play(case)


def test_a_one_way_cut_loses_the_answer_only() -> None:
    """With the way back cut the request runs, and its caller ends as unknown when the connection breaks."""

    async def case() -> None:
        stage = Stage(break_after_s=2.0)
        await stage.ask()
        stage.network.cut("s1", "c1")
        with pytest.raises(OutcomeUnknown, match="no acknowledgement"):
            await stage.ask(b"ran")
        assert stage.seen == [b"q", b"ran"]
        with pytest.raises(NotExecuted):
            await stage.ask(b"cannot connect")
        stage.network.heal()
        assert await stage.ask(b"fine") == b"fine"

    play(case)


def test_a_lost_frame_breaks_its_connection() -> None:
    """Loss ends requests in flight as unknown, never as a wrong or doubled execution."""

    async def case() -> None:
        stage = Stage(loss=0.1, break_after_s=0.5)
        outcomes = {"answered": 0, "unknown": 0, "not executed": 0}
        for n in range(300):
            head = b"%d" % n
            try:
                assert await stage.ask(head) == head
                outcomes["answered"] += 1
            except OutcomeUnknown:
                outcomes["unknown"] += 1
            except NotExecuted:
                outcomes["not executed"] += 1
        assert outcomes["answered"] > 150
        assert outcomes["unknown"] > 20
        assert len(stage.seen) == len(set(stage.seen))

    play(case)


def test_resets_run_a_request_at_most_once() -> None:
    """A reset connection may or may not have delivered the request, but never twice."""

    async def case() -> None:
        stage = Stage(reset=0.2)
        unknown = 0
        for n in range(200):
            try:
                await stage.ask(b"%d" % n)
            except OutcomeUnknown:
                unknown += 1
        assert unknown > 20
        assert 0 < len(stage.seen) < 200
        assert len(stage.seen) == len(set(stage.seen))

    play(case)


def test_a_killed_process_ends_what_is_in_flight() -> None:
    """Callers of a killed process end at once as unknown, then not executed; it sends and serves nothing more."""

    async def case() -> None:
        stage = Stage(handler=lambda inbound: None)
        loop = asyncio.get_running_loop()
        call = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0.1)
        zombie = stage.network.transport(NodeInfo("s1-process", "server", "s1", 1))
        stage.network.kill("s1")
        killed = loop.time()
        with pytest.raises(OutcomeUnknown, match="died"):
            await call
        assert loop.time() - killed < 0.1
        stage.replies[0].reply(0, b"from the grave")
        with pytest.raises(NotExecuted):
            await stage.ask()
        with pytest.raises(NotExecuted):
            await zombie.request("s1:1", CALL, b"", timeout_s=1)
        again = stage.network.listen("s1:1", echo, NodeInfo("s1-process-2", "server", "s1", 2))
        assert await stage.ask() == b"q"
        assert (await stage.transport.peer("s1:1", timeout_s=1)).incarnation == 2
        await again.aclose()

    play(case)


def test_a_machine_that_vanishes_says_nothing() -> None:
    """Without a reset, callers wait until they drop the address or their time is over."""

    async def case() -> None:
        stage = Stage(handler=lambda inbound: None)
        first = asyncio.ensure_future(stage.ask(timeout_s=5))
        second = asyncio.ensure_future(stage.ask(timeout_s=60))
        await asyncio.sleep(0.1)
        stage.network.kill("s1", silent=True)
        with pytest.raises(OutcomeUnknown, match="deadline"):
            await first
        assert not second.done()
        stage.transport.drop("s1:1", "declared lost")
        with pytest.raises(OutcomeUnknown, match="declared lost"):
            await second
        with pytest.raises(NotExecuted, match="no answer within"):
            await stage.ask()

    play(case)


def test_a_frozen_process_hears_and_speaks_late() -> None:
    """What reaches a frozen process, and what it sends, waits for the thaw and then happens in order."""

    async def case() -> None:
        stage = Stage()
        await stage.ask(b"before")
        stage.network.freeze("s1")
        with pytest.raises(OutcomeUnknown, match="deadline"):
            await stage.ask(b"one", timeout_s=1)
        late = asyncio.ensure_future(stage.ask(b"two", timeout_s=60))
        await asyncio.sleep(5)
        assert stage.seen == [b"before"]
        stage.network.thaw("s1")
        assert await late == b"two"
        assert stage.seen == [b"before", b"one", b"two"]

    play(case)


def test_connecting_to_a_frozen_process_times_out() -> None:
    """A process that is frozen, or cut off, cannot be connected to."""

    async def case() -> None:
        stage = Stage()
        stage.network.freeze("s1")
        with pytest.raises(NotExecuted, match="no answer within"):
            await stage.ask()
        stage.network.thaw("s1")
        stage.network.cut("s1", "c1")
        attempt = asyncio.ensure_future(stage.ask())
        await asyncio.sleep(0.1)
        stage.transport.drop("s1:1", "declared lost")
        with pytest.raises(NotExecuted):
            await attempt

    play(case)


def test_one_seed_makes_one_history() -> None:
    """The same seed and calls give the same times and outcomes."""

    async def history() -> list[tuple[float, str]]:
        stage = Stage(loss=0.05, reset=0.05)
        loop = asyncio.get_running_loop()
        events: list[tuple[float, str]] = []

        async def caller(number: int) -> None:
            for n in range(20):
                try:
                    outcome = (await stage.ask(b"%d/%d" % (number, n))).decode()
                except (OutcomeUnknown, NotExecuted) as error:
                    outcome = error.code
                events.append((loop.time(), outcome))

        await asyncio.gather(*(caller(number) for number in range(8)))
        return events

    first = play(history)
    assert first == play(history)
    assert len({outcome for _, outcome in first}) > 20


def test_an_address_is_taken_once() -> None:
    """Two listeners cannot share an address; it is free again after ``aclose``."""

    async def case() -> None:
        stage = Stage()
        with pytest.raises(AlreadyExists, match="in use"):
            stage.network.listen("s1:1", echo, NodeInfo("x", "server", "s2", 1))
        await stage.ask()
        await stage.listener.aclose()
        await asyncio.sleep(0.1)
        assert stage.network.connections == 0
        stage.network.listen("s1:1", echo, NodeInfo("x", "server", "s2", 1))

    play(case)
