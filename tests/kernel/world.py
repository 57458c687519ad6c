"""A kernel object and a dispatcher without sockets: what the tests of this folder and of ``tests/dm`` stand on."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any, Self

from amino.aio.clock import RealClock
from amino.aio.tasks import TaskOwner
from amino.aio.workers import Workers
from amino.contracts.calls import Call, CallHead, RequestId, encode_call_head
from amino.dm.chain import ComposedServerChain
from amino.kernel.context import ComponentContext
from amino.kernel.dispatcher import Dispatcher
from amino.kernel.object import KernelObject
from amino.marks import method_table
from amino.telemetry.trace import Telemetry
from amino.wire import codec


class Board:
    """Notes nothing."""

    def enter(self, microservice: str, method: str) -> int:
        """Do nothing."""
        return 0

    def leave(self, cell: int) -> None:
        """Do nothing."""


@dataclass
class Around:
    """Implements ``kernel.object.Surroundings``."""

    clock: Any = field(default_factory=RealClock)
    board: Any = field(default_factory=Board)
    runtime: Any = None
    server: str = "s1"
    incarnation: int = 7
    labels: dict[str, str] = field(default_factory=dict)
    hold_s: float = 0.05
    dedup_horizon_s: float = 300.0


class Checkpoints:
    """Keeps checkpoints in memory; ``fails`` are raised one by one before."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.fails: list[Exception] = []

    async def write(self, snapshot: bytes, keep: int) -> int:
        """Keep ``snapshot``."""
        if self.fails:
            raise self.fails.pop(0)
        self.written.append(snapshot)
        return len(self.written)


class Context:
    """Implements ``contracts.component.ServerContext``."""

    def __init__(self, target: KernelObject, around: Around) -> None:
        self.microservice = target.microservice
        self.object = target
        self.clock = around.clock
        self.random = random.Random(1)
        self.checkpoints = Checkpoints()
        self.events: list[str] = []
        self.run = None
        self.answers = True

    def at(self, place: int) -> Any:
        """Return the context of the component at ``place``."""
        return ComponentContext(self, place)

    def event(self, kind: str, **fields: Any) -> None:
        """Note it."""
        self.events.append(kind)


def serving(instance: Any, *managers: Any, around: Around | None = None, microservice: str = "m1") -> KernelObject:
    """Return a kernel object of ``instance`` that serves; its context is ``target.context``."""
    around = around or Around()
    target = KernelObject(
        microservice=microservice,
        path="/",
        replica="r1",
        epoch=1,
        methods=method_table(type(instance)),
        surroundings=around,
    )
    target.seal_nowait()
    target.context = Context(target, around)
    target.chain = ComposedServerChain(managers, target.context.at)
    target.adopt_instance(instance)
    target.unseal()
    return target


def call_of(
    target: KernelObject,
    method: str,
    *args: Any,
    sequence: int = 1,
    path: tuple[int, ...] = (),
    client: str = "c1",
    root: str = "m1",
    timeout_s: float = 5.0,
    floor: int = 1,
    attempt: int = 0,
    age_s: float = 0.0,
) -> Call:
    """Return a call as the dispatcher would hand it on."""
    return Call(
        microservice=target.microservice,
        method=method,
        args=args,
        kwargs={},
        flags=target.flags_of(method),
        request=RequestId(client, root, sequence, path),
        deadline=RealClock().monotonic() + timeout_s,
        floor=floor,
        attempt=attempt,
        age_s=age_s,
        digest=codec.digest(method, codec.encode_arguments(args, {}, trusted=True)[1]),
        received=codec.encode_arguments(args, {}, trusted=True),
    )


def value_of(answer: Any) -> Any:
    """Return the result in an answer, or raise the application error in it."""
    status, head, segments = answer
    if status == 0:
        return codec.decode(head[0], segments)
    raise codec.decode_exception(head, segments, trusted=True)


class Session:
    """Implements ``kernel.dispatcher.Validity``; invalid at the checks numbered in ``invalid_at``."""

    def __init__(self) -> None:
        self.ok = True
        self.waits: list[float] = []

    def valid(self) -> bool:
        """Whether it is."""
        return self.ok

    async def wait_valid(self, hold_s: float) -> bool:
        """Wait not at all."""
        self.waits.append(hold_s)
        return self.ok


class Peer:
    """A trusted peer."""

    trusted = True


class InLink:
    """The link of an inbound frame."""

    peer = Peer()


class Inbound:
    """One CALL frame; ``answer`` resolves to the reply."""

    def __init__(self, head: bytes, segments: list[Any]) -> None:
        self.head = head
        self.segments = segments
        self.link = InLink()
        self.replies: list[tuple[int, bytes, tuple[bytes, ...]]] = []
        self._loop = asyncio.get_running_loop()
        self.answer = self._loop.create_future()

    def reply(self, status: int, head: bytes = b"", segments: Any = ()) -> bool:
        """Take the reply, from any thread."""
        self.replies.append((status, head, tuple(segments)))
        self._loop.call_soon_threadsafe(lambda: self.answer.done() or self.answer.set_result(self.replies[0]))
        return True


class Served:
    """A dispatcher with objects, to be used on a loop: ``async with Served(target) as served``."""

    def __init__(self, *targets: KernelObject, telemetry: Telemetry | None = None, threads_max: int = 4, **bounds: int):
        self.objects = {(target.microservice, target.path): target for target in targets}
        self.session = Session()
        self.around = targets[0]._around
        self._telemetry = telemetry or Telemetry.disabled()
        self._workers = Workers(threads_max)
        self._bounds = bounds

    async def __aenter__(self) -> Self:
        self.tasks = TaskOwner("calls")
        self.dispatcher = Dispatcher(
            find=lambda microservice, path: self.objects.get((microservice, path)),
            surroundings=self.around,
            validity=self.session,
            workers=self._workers,
            tasks=self.tasks,
            telemetry=self._telemetry,
            **self._bounds,
        )
        return self

    async def until_idle(self) -> None:
        """Wait until no worker thread runs a job."""
        for _ in range(100_000):
            if not self._workers.busy:
                return
            await asyncio.sleep(0)
        raise AssertionError("worker threads stay busy")

    async def __aexit__(self, *exc: object) -> None:
        await self.tasks.aclose()
        self._workers.close()

    def send(self, method: str, *args: Any, sequence: int = 1, **head: Any) -> Inbound:
        """Hand a frame to the dispatcher."""
        number, segments = codec.encode_arguments(args, {}, trusted=True)
        fields: dict[str, Any] = {
            "microservice": "m1", "path": "/", "epoch": 1, "method": method, "client": "c1", "root": "m1",
            "sequence": sequence, "nested": (), "floor": 1, "attempt": 0, "age_s": 0.0, "budget_s": 5.0, "codec": number,
        }  # fmt: skip
        inbound = Inbound(encode_call_head(CallHead(**(fields | head))), segments)
        self.dispatcher.handle(inbound)
        return inbound

    async def call(self, method: str, *args: Any, **head: Any) -> Any:
        """Call and return the result, or raise."""
        from amino.wire.frames import Status, decode_error

        reply = await self.send(method, *args, **head).answer
        if reply[0] == Status.ERROR:
            raise decode_error(reply[1])
        return value_of(reply)
