"""What a server component sees of the world: clock, randomness, its object, checkpoints, background tasks.

Owns ``ReplicaContext``, and the view of it that each component gets. Leaves behaviour to the parts it hands out.
Invariant: everything a component starts ends with its replica.
Failure behaviour: a background task that fails is logged with the microservice's id; the replica serves on.
"""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.aio.mode import drive, on, on_loop
from amino.aio.tasks import TaskOwner
from amino.contracts.component import PLACES_EACH
from amino.contracts.effects import Diverged
from amino.kernel.arrival import arrived
from amino.kernel.forks import take_fork
from amino.marks import ASYNC, INLINE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Sequence

    import msgspec

    from amino.aio.clock import Clock
    from amino.contracts.calls import Call, RequestId
    from amino.contracts.context import Checkpoints, Fork
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.contracts.operations import Operation, Replayed
    from amino.kernel.groups import Group
    from amino.kernel.object import KernelObject


class ObjectView:
    """Implements ``contracts.component.ObjectControl``: the object with the components before one place."""

    __slots__ = ("_around", "_place", "_target")

    def __init__(self, around: ReplicaContext, target: KernelObject, place: int) -> None:
        self._around = around
        self._target = target
        self._place = place

    @property
    def mutations(self) -> int:
        """How many mutating calls have finished."""
        return self._target.mutations

    def changing(self) -> list[RequestId]:
        """Return the requests of mutating calls that are running."""
        return self._target.changing()

    async def snapshot(self) -> bytes:
        """Return the state of one instant."""
        return (await self.snapshot_counted())[1]

    async def snapshot_counted(self) -> tuple[int, bytes]:
        """As ``snapshot``, with the number of mutations that it holds."""
        target, place, run = self._target, self._place, self._around.run
        await target.chain.before_snapshot(place)
        if run is None or not on_loop():
            return await target.snapshot_counted(place)
        counted: tuple[int, bytes] = await run(lambda: drive(target.snapshot_counted(place)))
        return counted

    async def restore(self, snapshot: bytes) -> None:
        """Replace the state."""
        target, place, run = self._target, self._place, self._around.run
        if run is None or not on_loop():
            await target.restore(snapshot, place)
        else:
            await run(lambda: drive(target.restore(snapshot, place)))

    async def rebuild(
        self, snapshot: bytes | None, operations: Sequence[Operation] = (), within: RequestId | None = None
    ) -> None:
        """Replace the state and run operations on it."""
        around = self._around
        if around.run is not None and on_loop():
            await around.run(lambda: drive(self._rebuild(snapshot, operations, within)))
        else:
            await self._rebuild(snapshot, operations, within)

    async def _rebuild(self, snapshot: bytes | None, operations: Sequence[Operation], within: RequestId | None) -> None:
        target, clock = self._target, self._around.clock
        kept = target.answers()
        if snapshot is not None:
            await target.restore(snapshot, self._place, within)
        try:
            for number, each in enumerate(operations, 1):
                replayed = await self.replay(each, clock.monotonic() + limits.DEADLINE_S_DEFAULT)
                if replayed.unfaithful or replayed.digest != each.digest:
                    raise Diverged(
                        f"{each.method}, number {number} of {len(operations)} to be run again, ended otherwise than the "
                        f"first time ({replayed.unfaithful or 'another outcome'}): the class is not deterministic. Take "
                        "times and random numbers from amino.now() and amino.random()"
                    )
        finally:
            if snapshot is not None:
                target.keep_answers(kept)

    async def fork(self, call: Call) -> Fork:
        """Return a private copy of the object."""
        target, place, run = self._target, self._place, self._around.run
        if run is None or not on_loop():
            return await take_fork(self, target, place, call)
        taken: Fork = await run(lambda: drive(take_fork(self, target, place, call)))
        return taken

    def take_out(
        self, owner_of: Callable[[Any], str], mine: str, targets: list[str], heir: str = ""
    ) -> dict[str, list[bytes]]:
        """Take out of the object what belongs to other owners."""
        return self._target.take_out(owner_of, mine, targets, heir)

    def put_in(self, number: int, part: bytes) -> None:
        """Put such a part into the object."""
        self._target.put_in(number, part)

    def discard(self, owns: Callable[[Any], bool]) -> None:
        """Remove the state of keys."""
        self._target.discard(owns)

    def wake_readers(self) -> None:
        """Have readers of events answered."""
        self._target.wake_readers()

    async def digest(self) -> int:
        """Return a checksum of the state."""
        target, run = self._target, self._around.run
        if run is None or not on_loop():
            return await target.digest()
        found: int = await run(lambda: drive(target.digest()))
        return found

    def operation(self, call: Call) -> Operation:
        """Return ``call`` as a log keeps it."""
        return self._target.operation(call)

    def in_thread(self, operation: Operation) -> bool:
        """Return whether the operation's method runs in a worker thread."""
        return self._around.run is not None and not self._target.flags_of(operation.method) & (ASYNC | INLINE)

    async def replay(self, operation: Operation, deadline: float) -> Replayed:
        """Run a logged operation again."""
        return await self._rerun(self._target, operation, self._place, deadline)

    async def rerun(self, other: KernelObject, operation: Operation, deadline: float) -> Replayed:
        """Run a logged operation on ``other``, a copy, past all components."""
        return await self._rerun(other, operation, None, deadline)

    async def _rerun(self, target: KernelObject, operation: Operation, place: int | None, deadline: float) -> Replayed:
        around = self._around
        asynchronous = target.flags_of(operation.method) & (ASYNC | INLINE)
        if around.run is None:  # one loop runs everything
            return await target.replay(operation, place, deadline)
        if asynchronous:
            return await on(around.loop, target.replay(operation, place, deadline))
        if not on_loop():
            return await target.replay(operation, place, deadline)
        replayed: Replayed = await around.run(lambda: drive(target.replay(operation, place, deadline)))
        return replayed


class ComponentContext:
    """Implements ``contracts.component.ServerContext`` for the component at one place of a replica's chain."""

    __slots__ = ("_replica", "object", "place")

    def __init__(self, replica: ReplicaContext, place: int) -> None:
        self._replica = replica
        self.place = place
        self.object = ObjectView(replica, replica.object, place)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._replica, name)

    def post(
        self,
        replica: ReplicaDocument,
        topic: str,
        payload: bytes,
        timeout_s: float,
        on_answer: Callable[[bytes], None],
    ) -> bool:
        """As ``notify``, but never waits."""
        around = self._replica
        return around.of_group.post(
            around.managers[self.place // PLACES_EACH], replica, topic, payload, timeout_s, on_answer
        )

    async def notify(self, replica: ReplicaDocument, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Have the component at this place of ``replica``'s chain handle a message."""
        return await self._replica.notify_component(self.place, replica, topic, payload, timeout_s)


class ReplicaContext:
    """What the components of one replica share. ``at`` gives each its own view."""

    def __init__(
        self,
        target: KernelObject,
        *,
        server: str,
        clock: Clock,
        checkpoints: Callable[[KernelObject], Checkpoints],
        on_event: Callable[[str, str, str], None],
        seed: int,
        run: Callable[[Callable[[], Any]], Awaitable[Any]] | None = None,
        group: Group | None = None,
        managers: tuple[str, ...] = (),
        joining: bool = False,
        incarnation: int = 0,
    ) -> None:
        self.microservice = target.microservice
        self.path = target.path
        self.replica = target.replica
        self.server = server
        self.clock = clock
        self._seed = seed
        self._random: random.Random | None = None
        self.object = target
        self._make_checkpoints = checkpoints
        self._checkpoints: tuple[int, Checkpoints] | None = None
        self._on_event = on_event
        self.loop = asyncio.get_running_loop()
        self.run = run
        self.managers = managers
        self.joining = joining
        self.incarnation = incarnation
        self._group = group
        self._tasks: TaskOwner | None = None

    @property
    def group(self) -> tuple[GroupDocument, int]:
        """The group's document and its revision."""
        return self.of_group.seen

    @property
    def of_group(self) -> Group:
        """The group, as the components of this replica see it."""
        return self._group  # type: ignore[return-value] # None only where there are no components that could ask

    @property
    def answers(self) -> bool:
        """Whether this replica answers calls: no other is the group's primary."""
        return self._group is None or self.group[0].primary in ("", self.replica)

    def lives(self, server: str, incarnation: int) -> bool:
        """Whether that incarnation is the server's present one."""
        return self.of_group.lives(server, incarnation)

    async def proven_dead(self, server: str, incarnation: int) -> bool:
        """Whether that incarnation has a tombstone."""
        return await self.of_group.proven_dead(server, incarnation)

    def session_valid(self) -> bool:
        """Whether this server may act."""
        return self.of_group.session_valid()

    async def edit_group(self, document: GroupDocument, revision: int) -> tuple[bool, GroupDocument | None, int]:
        """Write the group's document if it is still at ``revision``."""
        return await self.of_group.edit(document, revision)

    async def notify_component(
        self, place: int, replica: ReplicaDocument, topic: str, payload: bytes, timeout_s: float
    ) -> bytes:
        """Have the component at ``place`` of another replica's chain handle a message."""
        return await self.of_group.notify(self.managers[place // PLACES_EACH], replica, topic, payload, timeout_s)

    def beat(self, epoch: int | None) -> None:
        """Send heartbeats as the group's primary at ``epoch``; None to stop."""
        self.of_group.beat(epoch)

    def answer_at(self, epoch: int) -> None:
        """Take calls of this epoch, and of no other."""
        self.object.epoch = epoch

    def at(self, place: int) -> ComponentContext:
        """Return the context of the component at ``place`` of the chain."""
        return ComponentContext(self, place)

    @property
    def random(self) -> random.Random:
        """Random numbers, made on first use: most components need none, and the state is large."""
        if self._random is None:
            self._random = random.Random(self._seed)
        return self._random

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this replica's group, at its present epoch."""
        if self._checkpoints is None or self._checkpoints[0] != self.object.epoch:
            self._checkpoints = (self.object.epoch, self._make_checkpoints(self.object))
        return self._checkpoints[1]

    @property
    def checkpoint_at(self) -> float:
        """When the newest checkpoint known here was taken, by the wall clock; 0 if none is known."""
        return self._checkpoints[1].newest_at if self._checkpoints is not None else 0.0

    @property
    def primary_of(self) -> GroupDocument | None:
        """The group's document, if the group is replicated and this replica is its primary."""
        document = self._group.seen[0] if self._group is not None else None
        return document if document is not None and document.primary == self.replica else None

    async def registry(self, method: str, request: msgspec.Struct) -> Any:
        """Run a registry operation."""
        return await self.object.runtime.registry.call(method, request, timeout_s=limits.DEADLINE_S_DEFAULT)

    async def message(self, group: str, method: str, payload: Any) -> Any:
        """Send a message to a group's component."""
        runtime = self.object.runtime
        microservice, _, path = group.partition("/")
        return await runtime.message(
            runtime.target(microservice), f"/{path}", method, payload, limits.DEADLINE_S_DEFAULT
        )

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """As ``spawn``, but run ``coroutine`` at once, right here, until it waits for something."""
        if self._tasks is None:
            self._tasks = TaskOwner(f"replica {self.microservice}")
        self._tasks.start(coroutine, name)

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Callable[[], Awaitable[None]]:
        """Run ``coroutine`` on the server's loop until it ends or the replica leaves; call on that loop."""
        if self._tasks is None:
            self._tasks = TaskOwner(f"replica {self.microservice}")
        task = self._tasks.spawn(coroutine, name)

        async def stop() -> None:
            task.cancel()
            await asyncio.wait([task])

        return stop

    def event(self, kind: str, **fields: Any) -> None:
        """Record something an operator should see; from any thread."""
        if kind == "primary" and self._group is not None and self._group.heard_ns:  # it was a follower until then
            arrived(self.object, self.group[0].trace, failover=True, heard_ns=self._group.heard_ns)
        text = ", ".join(f"{key}: {value}" for key, value in fields.items())
        self._on_event(kind, self.microservice, text)

    async def aclose(self) -> None:
        """End everything components started. Idempotent."""
        if self._tasks is not None:
            await on(self.loop, self._tasks.aclose())
