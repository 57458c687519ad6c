"""The state of a kernel object as a whole: snapshots, restore, operations of a log, parts that move to other shards.

Owns taking, replacing and replaying it. Leaves calls to ``object``.
Invariant: a snapshot holds object, components and answers of one instant.
Failure behaviour: what cannot be read here raises; the state is then what it was before.
"""

from __future__ import annotations

import contextlib
import copy
import threading
from typing import TYPE_CHECKING, Any, Self, cast

from amino import limits
from amino.aio.signal import Signal
from amino.contracts.calls import COMPONENT, Call, Raised, RequestId
from amino.contracts.effects import Replay
from amino.contracts.operations import Operation, Replayed
from amino.contracts.own import OWN_CALL
from amino.errors import Invalid, NotFound
from amino.kernel import own_calls, snapshots
from amino.kernel.answered import AnsweredTable
from amino.kernel.gate import Gate
from amino.kernel.outcomes import reading_by
from amino.kernel.own_parts import discard_own, put_own, take_own
from amino.kernel.parts import discard, put_in, take_out
from amino.kernel.tables import Tables
from amino.telemetry.trace import left_out
from amino.wire import codec
from amino.wire.digest import digest_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.component import ServerChain
    from amino.kernel.object import KernelObject
    from amino.kernel.observed import Observed
    from amino.kernel.surroundings import Surroundings
    from amino.kernel.timers import Timer
    from amino.kernel.wheel import TimerWheel


class ObjectState:
    """What a kernel object holds, and how it travels."""

    microservice: str
    path: str
    replica: str
    epoch: int
    methods: dict[str, int]
    mutations: int
    find_class: codec.FindClass | None
    chain: ServerChain
    instance: Any
    _around: Surroundings
    _mutation: Gate
    _answered: AnsweredTable
    tables: Tables | None
    observed: Observed | None = None
    serving: bool
    wheel: TimerWheel | None
    news: Signal[bool] | None
    stirred: int
    _joining: threading.Lock
    _bound: dict[str, Callable[..., Any]] | None

    if TYPE_CHECKING:  # of the class that this is a part of

        async def invoke(self, call: Call) -> Any: ...  # noqa: D102
        async def _execute(self, call: Call) -> Any: ...

    async def snapshot_counted(self, below: int | None = None) -> tuple[int, bytes]:
        """Return the number of mutations, and the state of one instant; new mutating calls wait meanwhile.

        Args:
            below: take the components before this place in the chain only; None for all.

        Raises:
            TimeoutError: a mutating call kept running; try again.
        """
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        try:
            return self.mutations, self.snapshot_sealed(below)
        finally:
            self._mutation.release_quiet()

    def snapshot_sealed(self, below: int | None = None) -> bytes:
        """Return the state; only while no mutating call can run."""
        return snapshots.write(
            snapshots.Contents(
                self.instance,
                self.chain.on_snapshot(below),
                self._answered.snapshot(),
                self.mutations,
                self.tables.snapshot() if self.tables is not None else None,
            )
        )

    async def digest(self) -> int:
        """Return a checksum of the user's object, taken while no mutating call runs."""
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        try:
            return digest_of(self.instance)
        finally:
            self._mutation.release_quiet()

    async def restore(
        self, snapshot: bytes | memoryview, below: int | None = None, within: RequestId | None = None
    ) -> None:
        """Replace the state by ``snapshot``, while no mutating call runs but ``within``; ``below`` as in ``snapshot_counted``."""
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S, within)
        try:
            before = self.tables
            self.restore_sealed(snapshot, below)
            if within is not None and before is not None and before.outbox is not None:
                self.own_tables().keep_events(before)
        finally:
            self._mutation.release_quiet()

    def restore_sealed(self, snapshot: bytes | memoryview, below: int | None = None) -> None:
        """Replace the state by ``snapshot``; only while no call can run.

        Raises:
            CodeUnavailable: it cannot be rebuilt here: its class is missing, or older than the state.
        """
        state = snapshots.read(snapshot, self.microservice, self.find_class, self._around.runtime)
        self.adopt_instance(state.instance)
        self._answered.restore(state.answered, self._around.clock.monotonic())
        self.mutations = state.mutations
        before, self.tables = self.tables, Tables.restored(state.tables, self._arm)
        self.chain.on_restore(state.components, below)
        if before is not None and before.tokens:
            self.own_tables().keep_tokens(before)
        if self.serving and self.tables is not None:
            self.tables.arm_new(before)
        self._wake_readers()

    def answers(self) -> tuple[int, Any]:
        """Return how many mutations were counted and all answers on record, for ``keep_answers``."""
        return self.mutations, self._answered.snapshot()

    def keep_answers(self, kept: tuple[int, Any]) -> None:
        """Have the count and answers of before ``restore`` again, and those since."""
        mutations, answers = kept
        self.mutations = max(self.mutations, mutations)
        self._answered.add(answers, self._around.clock.monotonic())

    async def copied(self, below: int) -> tuple[int, bytes, bytes]:
        """Return mutations, instance with tables, and components (before place ``below``) of one instant, packed apart.

        Raises:
            TimeoutError: a mutating call kept running; try again.
        """
        await self._mutation.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        try:
            return self.mutations, self.packed(), codec.pack(self.chain.on_snapshot(below))
        finally:
            self._mutation.release_quiet()

    def packed(self) -> bytes:
        """Return instance and tables for ``adopt_packed``; while nothing changes them."""
        return codec.pack((self.instance, self.tables.snapshot() or None if self.tables is not None else None))

    def adopt_packed(self, packed: bytes) -> None:
        """Take over a new copy of what was packed."""
        instance, tables = self.unpack(packed)
        self.adopt_instance(instance)
        before, self.tables = self.tables, Tables.restored(tables, self._arm)
        if self.tables is not None:  # what the packed state has emitted is read once the call that adopts it has passed
            self.tables.release_as(before)
            self.tables.arm_new(before)

    def unpack(self, packed: bytes) -> Any:
        """Return a new copy of a packed part."""
        with codec.finding(self.find_class):
            return codec.unpack(packed, binding=self._around.runtime)

    def beside(self, packed: bytes) -> Self:
        """Return a kernel object like this one with another state, to run methods on with ``invoke`` and nothing else."""
        other = copy.copy(self)
        other.wheel = None  # what it sets fires once it is adopted
        other.adopt_packed(packed)
        return other

    def changing(self) -> list[RequestId]:
        """Return the requests of mutating calls that are running."""
        return list(self._mutation.inside())

    def operation(self, call: Call) -> Operation:
        """Return ``call``, which has run here with a recorder, as a log keeps it."""
        assert call.received is not None
        number, segments = call.received
        request = call.request
        return Operation(
            call.method,
            number,
            tuple(map(bytes, segments)),
            request.client,
            request.microservice,
            request.sequence,
            request.path,
            call.floor,
            call.digest,
            call.effects.recorded if call.effects is not None else {},
            digest_of(call.result),
        )

    @property
    def runtime(self) -> Any:
        """What sends calls and registry operations from this server."""
        return self._around.runtime

    async def replay(self, operation: Operation, below: int | None, deadline: float) -> Replayed:
        """Run a logged operation again, through the components before place ``below`` only, and save its answer.

        With ``below`` None it is run past everything, and no answer is saved.

        Nothing outside is asked. Whatever the method raises is its outcome, as it was the first time.

        Raises:
            AminoError: it could not be run (its arguments cannot be read here, the object is held up past ``deadline``).
        """
        request = RequestId(operation.client, operation.root, operation.sequence, operation.nested)
        effects = Replay(operation.recorded)
        call = Call(
            self.microservice,
            operation.method,
            (),
            {},
            self.flags_of(operation.method),
            request,
            deadline,
            operation.floor,
            path=self.path,
            digest=operation.request_digest,
            received=(operation.codec, operation.segments),
            effects=effects,
        )
        with codec.finding(self.find_class):
            call.args, call.kwargs = codec.decode_arguments(
                operation.codec, operation.segments, trusted=True, binding=self._around.runtime
            )
        with left_out(), contextlib.suppress(Raised):
            await (self.invoke(call) if below is None else self.chain.call(call, self._execute, below))
        if call.emitted is not None and not any(request.nested_in(outer) for outer in self._mutation.inside()):
            self._release_events(call)  # what is replayed is committed, unless it is a part of a call that is not yet
        effects.check_complete()
        return Replayed(digest_of(call.result), "" if call.saved else effects.unfaithful)

    def take_out(
        self, owner_of: Callable[[Any], str], mine: str, targets: list[str], heir: str = ""
    ) -> dict[str, list[bytes]]:
        """Take out of the object what belongs to other owners, encoded, with all answered requests for each.

        Only while a message is being handled; see ``parts.take_out`` and ``own_parts.take_own``.
        """
        answered = self._answered.snapshot()
        with codec.finding(self.find_class):
            found = take_out(self.instance, owner_of, mine, targets)
            cls, binding = type(self.instance), self._around.runtime
            own = take_own(self.tables, cls, owner_of, mine, targets, heir, binding)
        return {target: [codec.pack((answered, own.get(target, {}))), *parts] for target, parts in found.items()}

    def put_in(self, number: int, part: bytes) -> None:
        """Put the part of that number that ``take_out`` gave into the object; only while a message is being handled."""
        with codec.finding(self.find_class):
            if number == 0:
                answered, own = codec.unpack(part)
                self._answered.add(answered, self._around.clock.monotonic())
                put_own(self.own_tables, own)
                self.wake_readers()
            else:
                put_in(self.instance, part, self._around.runtime)

    def discard(self, owns: Callable[[Any], bool]) -> None:
        """Remove the state of keys; only while a message is being handled."""
        discard(self.instance, owns)
        with codec.finding(self.find_class):
            discard_own(self.tables, type(self.instance), owns, self._around.runtime)

    def wake_readers(self) -> None:
        """Have readers of events that wait answered now: where they read next may be elsewhere. From any thread."""
        self.stirred += 1
        self._wake_readers()

    @property
    def own_lock(self) -> threading.Lock:
        """Guards making what most objects never need."""
        return self._joining

    def adopt_instance(self, instance: Any) -> None:
        """Take ``instance`` as the user's object."""
        self.instance = instance
        if self.find_class is not None:  # results of nested calls are read by the code of this object too
            self._bound = {
                name: reading_by(self.find_class, getattr(instance, name), flags)
                for name, flags in self.methods.items()
            }

    def release_instance(self) -> None:
        """Forget the user's object and the answers, of a kernel object that is gone: both can be large."""
        self.instance = None
        self._bound = None
        self.tables = None
        self._answered = AnsweredTable(self._around.dedup_horizon_s)

    def own_tables(self) -> Tables:
        """Return what Amino keeps in the object's state, made when first asked for; from any thread."""
        if self.tables is None:
            with self._joining:
                if self.tables is None:
                    self.tables = Tables(self._arm)
        return self.tables

    def _arm(self, timer: Timer) -> None:
        if self.wheel is not None:
            self.wheel.arm(cast("KernelObject", self), timer)

    def _release_events(self, call: Call) -> None:
        """Let readers have the events up to those of ``call``, which has passed all managers."""
        assert call.emitted is not None
        tables, number = call.emitted
        if self.tables is not None and self.tables is tables:  # else the state has been replaced since
            self.tables.release(number)
            self._wake_readers()

    def _wake_readers(self) -> None:
        with self._joining:
            news, self.news = self.news, None
        if news is not None:
            news.set(True)

    def _refuse_reentrant_mutation(self, call: Call) -> None:
        if (
            call.request.path
            and self.chain.restores_state
            and any(call.request.nested_in(inside) for inside in self._mutation.inside())
        ):
            raise Invalid(
                f"{call.method} changes {self.microservice} from within another changing call of the same chain "
                f"({call.request}); a manager of this microservice restores or replicates its state, which allows no "
                "such call. Mark the method @amino.readonly, or call it after the outer one has returned"
            )

    def flags_of(self, method: str) -> int:
        """Return the flags of a method or of a message to a component.

        Raises:
            NotFound: there is no such method, or no component takes such messages.
        """
        if method.startswith(OWN_CALL):
            return own_calls.flags_of(cast("KernelObject", self), method)
        flags = self.chain.message_flags(method) if method.startswith(COMPONENT) else self.methods.get(method)
        if flags is None:
            known = ", ".join(sorted(self.methods))
            raise NotFound(f"{self.microservice} has no public method {method!r}; it has {known}")
        return flags
