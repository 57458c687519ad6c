"""The world as the components of a deployment manager see it: their contexts, and what these hand out.

Owns these Protocols. Leaves components themselves to ``component``, and implementing contexts to kernel and stubs.
Invariant: a component reaches the world only through its context.
Failure behaviour: as each method says.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec

from amino.aio.clock import Clock
from amino.aio.signal import Signal
from amino.contracts.calls import Call, RequestId
from amino.contracts.documents import GroupDocument, ReplicaDocument
from amino.contracts.operations import Operation, Replayed
from amino.errors import AminoError

"""Places in a chain that each manager has: a server component, and one directly further out."""


class Fork(Protocol):
    """A private copy of the user's object, on which calls of a transaction run; it is never in a snapshot."""

    @property
    def mutations(self) -> int:
        """``ObjectControl.mutations`` when the copy was taken."""
        ...

    @property
    def operations(self) -> list[Operation]:
        """The calls that have run here and may have changed it, in order."""
        ...

    async def run(self, call: Call) -> Any:
        """Run ``call``'s method on the copy, recorded, and return its result. Raises ``Raised`` for what it raised."""
        ...

    async def verify(self, deadline: float) -> str:
        """Run its operations on yet another copy; returns why they are not deterministic, empty if they are."""
        ...

    def changed(self) -> bool:
        """Whether the copy may differ from the object it was taken of."""
        ...

    def undo(self) -> None:
        """Make the object what it was when the copy was taken; only while no call runs on it."""
        ...


class ObjectControl(Protocol):
    """What a server component may do with the object it stands in front of: everything further in, as one."""

    @property
    def mutations(self) -> int:
        """How many mutating calls have finished on this replica since it was constructed; in snapshots."""
        ...

    def changing(self) -> list[RequestId]:
        """Return the requests of mutating calls whose methods are running."""
        ...

    async def snapshot(self) -> bytes:
        """Return the state of object, components and answered requests, taken while no mutating call runs.

        New mutating calls wait meanwhile. Do not call it while this very call's method is still running.

        Raises:
            TimeoutError: a mutating call kept running; try again.
        """
        ...

    async def snapshot_counted(self) -> tuple[int, bytes]:
        """As ``snapshot``, with the number of mutations that it holds."""
        ...

    async def restore(self, snapshot: bytes) -> None:
        """Replace the state by an earlier snapshot, while no call runs."""
        ...

    async def rebuild(
        self, snapshot: bytes | None, operations: Sequence[Operation] = (), within: RequestId | None = None
    ) -> None:
        """Replace the state by ``snapshot`` (None: keep it) and run ``operations`` on it, while no other call runs.

        The answers to requests that are on record stay: none of them runs again. User code runs in a worker thread.

        Args:
            within: the running request that asks for this, if it is a changing one.

        Raises:
            TimeoutError: a mutating call kept running; nothing was done.
            Diverged: an operation had another outcome than when it was logged; the state is what it led to.
            AminoError: an operation could not be run.
        """
        ...

    async def fork(self, call: Call) -> Fork:
        """Return a private copy of the object alone, taken for ``call`` while no mutating call runs.

        Raises:
            NotExecuted: a mutating call kept running. Invalid: ``call`` is nested in one, or the object cannot be copied.
        """
        ...

    def take_out(
        self, owner_of: Callable[[Any], str], mine: str, targets: list[str], heir: str = ""
    ) -> dict[str, list[bytes]]:
        """Take the state of keys that belong to others out of the object, and return it in encoded parts per owner.

        Every target gets at least one part; part 0 holds the answered requests, timers, events and tokens. Only from within
        ``on_message``.

        Args:
            owner_of: tells the owner of a key. mine: who this is. targets: who else there is.
            heir: which target gets what belongs to no key; empty while this one stays.
        """
        ...

    def put_in(self, number: int, part: bytes) -> None:
        """Put part ``number`` of what another's ``take_out`` gave into the object. Only from within ``on_message``."""
        ...

    def discard(self, owns: Callable[[Any], bool]) -> None:
        """Remove the state of the keys that ``owns`` is true of. Only from within ``on_message``."""
        ...

    def wake_readers(self) -> None:
        """Have readers of events that wait answered now. Never waits."""
        ...

    async def digest(self) -> int:
        """Return a checksum of the object's state, taken while no mutating call runs; equal for equal states.

        Raises:
            TimeoutError: a mutating call kept running; try again.
        """
        ...

    def operation(self, call: Call) -> Operation:
        """Return ``call``, which has run with ``call.effects = Recorder()``, as a log keeps it."""
        ...

    def in_thread(self, operation: Operation) -> bool:
        """Return whether the operation's method runs in a worker thread, not on the loop. Raises ``NotFound``."""
        ...

    async def replay(self, operation: Operation, deadline: float) -> Replayed:
        """Run a logged operation again on this copy of the object, and save its answer; nothing outside is asked.

        From the server's loop or a thread; a ``def`` method runs in a worker thread, whoever asks.

        Raises:
            AminoError: it could not be run before ``deadline`` (monotonic seconds).
        """
        ...


class OperationLog(Protocol):
    """A log beside the newest checkpoint: what ran since. Not usable any more after its first failure."""

    @property
    def failed(self) -> AminoError | None:
        """Why it ended; None while it goes on."""
        ...

    @property
    def records(self) -> int:
        """How many records were appended."""
        ...

    @property
    def size(self) -> int:
        """How many bytes they have."""
        ...

    def append(self, record: bytes) -> Signal[AminoError | None]:
        """Add a record after all before it; returns what is set once it is durable, or to the reason why it is not.

        From any thread; never waits.
        """
        ...

    def hurry(self) -> None:
        """Somebody waits for what was appended: do not wait for the window to pass. From any thread; never waits."""
        ...

    async def aclose(self) -> None:
        """Let go of it. Idempotent."""
        ...


class Checkpoints(Protocol):
    """The checkpoints of one replica's group."""

    @property
    def newest_at(self) -> float:
        """When the newest checkpoint known here was taken, by the wall clock; 0 if none is known."""
        ...

    async def begin_log(self, snapshot: bytes, keep: int, window_s: float) -> OperationLog:
        """Write ``snapshot`` as ``write`` does, with an empty log beside it; returns that log.

        The log begun here before ends with that, all of it synced: a checkpoint with its log leads to the next one.

        Args:
            snapshot: the state after all that was appended to the log before.
            keep: how many checkpoints to keep (1 or more).
            window_s: how long what was appended may wait for more before it is synced; 0 gives each record a sync of its own.

        Raises:
            Invalid: the store can neither append with sync nor create objects atomically.
            StoreFailed, NotExecuted: as ``write``; the log begun before is as it was.
        """
        ...

    async def tail(self) -> list[bytes]:
        """Return what was logged after the checkpoint that ``newest`` returned, and let nobody append to it any more.

        Raises:
            CorruptCheckpoint: something that was acknowledged cannot be read any more.
            StoreFailed: the store cannot be read. NotExecuted: a later epoch has its own log (reason ``fenced``).
        """
        ...

    async def write(self, snapshot: bytes, keep: int) -> int:
        """Store ``snapshot`` under a fresh name, synced, then publish it by a guarded write; returns its sequence.

        Args:
            keep: how many to keep (1 or more); older ones are removed.

        Raises:
            StoreFailed: the store refused; the previous checkpoint stays current.
            NotExecuted: the session is not valid or the placement is not ours any more (reason ``fenced``).
        """
        ...

    async def newest(self) -> tuple[bytes, int] | None:
        """Return the newest intact checkpoint with its sequence, None if there never was one.

        Raises:
            CorruptCheckpoint: there are checkpoints but none is intact.
        """
        ...


class ServerContext(Protocol):
    """The world, as a server component sees it."""

    @property
    def microservice(self) -> str:
        """Id of the microservice."""
        ...

    @property
    def path(self) -> str:
        """The group's place in the tree."""
        ...

    @property
    def replica(self) -> str:
        """Id of this replica."""
        ...

    @property
    def server(self) -> str:
        """Name of the kernel server."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> random.Random:
        """Random numbers."""
        ...

    @property
    def object(self) -> ObjectControl:
        """The object this component stands in front of."""
        ...

    @property
    def checkpoints(self) -> Checkpoints:
        """The checkpoints of this replica's group."""
        ...

    @property
    def incarnation(self) -> int:
        """The kernel server's incarnation."""
        ...

    @property
    def joining(self) -> bool:
        """Whether this replica was made empty, for the group's primary to fill."""
        ...

    @property
    def group(self) -> tuple[GroupDocument, int]:
        """The group's document as this server heard of it last, and its revision; renewed before ``on_member_change``."""
        ...

    @property
    def answers(self) -> bool:
        """Whether this replica answers calls: no other is the group's primary."""
        ...

    def lives(self, server: str, incarnation: int) -> bool:
        """Whether that incarnation is the server's present one, as far as this server has heard."""
        ...

    async def proven_dead(self, server: str, incarnation: int) -> bool:
        """Whether that incarnation has a tombstone. Raises ``CoordinationUnavailable``."""
        ...

    @property
    def run(self) -> Callable[[Callable[[], Any]], Awaitable[Any]] | None:
        """Runs what may block in a worker thread; None where one loop runs everything."""
        ...

    def session_valid(self) -> bool:
        """Whether this server may act and answer right now."""
        ...

    async def edit_group(self, document: GroupDocument, revision: int) -> tuple[bool, GroupDocument | None, int]:
        """Write the group's document if it is still at ``revision`` and this incarnation still lives.

        Returns:
            Whether it was done, the document after it (None if it is gone), and its revision.

        Raises:
            CoordinationUnavailable: the outcome is not known; only a later successful edit settles it.
        """
        ...

    async def notify(self, replica: ReplicaDocument, topic: str, payload: bytes, timeout_s: float) -> bytes:
        """Have the same manager's component at ``replica`` handle a message, and return its answer.

        Raises:
            AminoError: it did not arrive, or was refused. Also ``OutcomeUnknown``.
        """
        ...

    def post(
        self,
        replica: ReplicaDocument,
        topic: str,
        payload: bytes,
        timeout_s: float,
        on_answer: Callable[[bytes], None],
    ) -> bool:
        """As ``notify``, but never waits: returns whether it was sent; ``on_answer`` gets the answer if there is one."""
        ...

    def beat(self, epoch: int | None) -> None:
        """Send heartbeats to the servers of the group's other replicas, as their primary at ``epoch``; None to stop."""
        ...

    def answer_at(self, epoch: int) -> None:
        """Take calls of this epoch from now on, and of no other."""
        ...

    async def registry(self, method: str, request: msgspec.Struct) -> Any:
        """Run a registry operation; from loops and threads."""
        ...

    async def message(self, group: str, method: str, payload: Any) -> Any:
        """Send a message (``:Manager:topic``) to a group's component, ``<microservice><path>``; returns its answer."""
        ...

    def start(self, coroutine: Coroutine[Any, Any, None], name: str) -> None:
        """As ``spawn``, but run ``coroutine`` at once, right here, until it waits for something."""
        ...

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Callable[[], Awaitable[None]]:
        """Run a background task on the server's loop until it ends or the replica leaves; returns its stopper."""
        ...

    def event(self, kind: str, **fields: Any) -> None:
        """Record something an operator should see."""
        ...


class ClientContext(Protocol):
    """The world, as a client component sees it."""

    @property
    def microservice(self) -> str:
        """Id of the microservice."""
        ...

    @property
    def clock(self) -> Clock:
        """Time."""
        ...

    @property
    def random(self) -> random.Random:
        """Random numbers."""
        ...

    async def shards(self, deadline: float) -> tuple[str, ...]:
        """Return the names of the microservice's shards, as this process was told last.

        Raises:
            NotExecuted: they could not be looked up by ``deadline`` (monotonic seconds).
        """
        ...

    def shards_changed(self) -> None:
        """Look the shards up anew for the next call: what was told last is out of date."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait, in the way that fits the caller; ends early when the microservice's location changes."""
        ...
