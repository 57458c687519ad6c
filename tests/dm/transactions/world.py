"""One object behind a dispatcher, and callers with the client side of its chain: transactions without sockets."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import Any, Self

import amino
from amino.contracts.calls import Call, Raised, RequestId
from amino.contracts.effects import Recorder
from amino.contracts.operations import encode_operation
from amino.dm.base import Manager, ServerBase
from amino.dm.chain import compose_client
from amino.wire import codec
from amino.wire.frames import Status, decode_error
from tests.kernel.world import Around, Served, serving


class ManualClock:
    """Stands still until told."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        """The time."""
        return self.time

    def wall(self) -> float:
        """The time."""
        return self.time


class Account:
    """Holds money, as plain as can be."""

    def __init__(self, balance: int = 100) -> None:
        self.balance = balance
        self.stamps: list[float] = []

    async def add(self, n: int) -> int:
        """Change."""
        self.balance += n
        return self.balance

    @amino.inline
    def add_inline(self, n: int) -> int:
        """Change."""
        self.balance += n
        return self.balance

    def add_thread(self, n: int) -> int:
        """Change, in a worker thread."""
        self.balance += n
        return self.balance

    async def add_slowly(self, n: int) -> int:
        """Change, with the loop in between."""
        before = self.balance
        await asyncio.sleep(0.01)
        self.balance = before + n
        return self.balance

    async def fail(self, n: int) -> None:
        """Change, then raise."""
        self.balance += n
        raise KeyError("no")

    async def touch(self) -> None:
        """Change nothing, without saying so."""

    async def stamp(self) -> float:
        """Take the time as one should."""
        self.stamps.append(amino.now())
        return self.stamps[-1]

    async def cheat(self) -> float:
        """Ask the outside directly."""
        self.balance += 1
        return random.random()

    @amino.readonly
    async def get(self) -> int:
        """Read."""
        return self.balance


class _Log(ServerBase):
    def __init__(self, log: list[bytes], seen: list[str], context: Any) -> None:
        self._log = log
        self._seen = seen
        self._context = context

    async def on_call(self, call: Any, forward: Any) -> Any:
        if call.readonly:
            return await forward(call)
        self._seen.append(call.method)
        call.effects = Recorder()
        try:
            return await forward(call)
        finally:
            if call.executed and not call.saved:
                self._log.append(encode_operation(self._context.object.operation(call)))


LOG: list[bytes] = []
SEEN: list[str] = []


class Logging(Manager, frozen=True, kw_only=True):
    """A manager further out that logs each mutating call into ``LOG``."""

    def server(self, context: Any) -> ServerBase:
        """Return the component."""
        return _Log(LOG, SEEN, context)


class World:
    """An object with ``managers``, the first of which is about transactions; ``async with World(...)``."""

    def __init__(self, instance: Any, *managers: Any, clock: Any = None) -> None:
        around = Around(clock=clock) if clock else Around()
        around.runtime = type("R", (), {"clock": around.clock, "random": random.Random(1), "bind": None})()
        self.around = around
        self.managers = managers
        self.target = serving(instance, *managers, around=around)
        self.served = Served(self.target)
        self.before_send: list[Any] = []
        self.clients = itertools.count(1)
        self._tasks: list[asyncio.Task[None]] = []
        context = self.target.context
        context.spawn = lambda work, name: self._tasks.append(asyncio.ensure_future(work))
        self.target.chain = type(self.target.chain)(managers, context.at)

    @property
    def component(self) -> Any:
        """The server component of transactions."""
        return self.target.chain._components[0][2]

    async def __aenter__(self) -> Self:
        await self.served.__aenter__()
        self.target.context.loop = loop = asyncio.get_running_loop()
        self.target.context.run = lambda function: loop.run_in_executor(None, function)
        await self.target.chain.on_start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.served.__aexit__(*exc)

    def client(self) -> Client:
        """Return a new caller."""
        return Client(self, f"client-{next(self.clients)}")


class Client:
    """A caller; stands in for ``ControlContext`` too."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.microservice = "m1"
        self.runtime = None
        self.manager = world.managers[0]
        self.random = random.Random(1)
        self.clock = world.around.clock
        self._numbers = itertools.count(1)
        self.forward = compose_client(world.managers, self, self._send)
        self.control = type(self.manager).Control(self)

    def new_id(self) -> str:
        """Return an id."""
        return f"{self.name}-{next(self._numbers)}"

    def transaction(self) -> Any:
        """Return a transaction."""
        return self.control.transaction()

    def new_call(
        self, method: str, *args: Any, nested: tuple[int, ...] = (), root: str = "", sequence: int = 0
    ) -> Call:
        """Return a call on its way out."""
        request = RequestId(root or self.name, "m1", sequence or next(self._numbers), nested)
        return Call("m1", method, args, {}, 0, request, self.clock.monotonic() + 5.0)

    async def call(self, method: str, *args: Any, **ids: Any) -> Any:
        """Call, as a stub does."""
        try:
            return await self.forward(self.new_call(method, *args, **ids))
        except Raised as raised:
            raise raised.error from None

    async def message(self, manager: Any, topic: str, payload: Any, path: str = "/") -> Any:
        """Send a message to the group at ``path``, as a handle does."""
        call = self.new_call(f":{manager.__name__}:{topic}", payload)
        call.path = path
        try:
            return await self.forward(call)
        except Raised as raised:
            raise raised.error from None

    async def _send(self, call: Call) -> Any:
        for each in list(self.world.before_send):
            each(call)
        request = call.request
        reply = await self.world.served.send(
            call.method, *call.args, client=request.client, sequence=request.sequence, nested=request.path,
            headers=call.headers, attempt=call.attempt, budget_s=call.deadline - self.clock.monotonic(),
        ).answer  # fmt: skip
        status, head, segments = reply
        if status == Status.ERROR:
            raise decode_error(head)
        if status == Status.APPLICATION_ERROR:
            raise Raised(codec.decode_exception(head, segments, trusted=True))
        return codec.decode(head[0], segments)
