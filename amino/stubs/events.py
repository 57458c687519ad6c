"""Events of microservices: ``amino.emit`` in methods, ``cluster.subscribe`` outside.

Owns the public functions, and a subscriber's position. Leaves keeping events to ``kernel.outbox``.
Invariants: a subscription delivers the events of one microservice in order, none twice, none left out silently: its
position is a token that stays good across failovers and moves.
Failure behaviour: what cannot be delivered any more raises ``EventsMissed`` that names it, and iterating goes on behind it;
while the microservice cannot be reached it is asked again, for ``patience_s``.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from amino import limits
from amino.aio.mode import drive, on, on_loop, sleep
from amino.contracts.calls import CURRENT
from amino.contracts.own import EVENTS_CALL, NEWEST, OLDEST
from amino.errors import ClusterUnavailable, EventsMissed, Invalid
from amino.marks import READONLY
from amino.stubs.positions import Positions
from amino.stubs.runtime import DEADLINE
from amino.stubs.shard_events import AGAIN, BATCH, PAUSE_S_MAX, PAUSE_S_MIN, WAIT_S, Answer, ShardEvents, shards_of
from amino.wire import codec

if TYPE_CHECKING:
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target

KEPT_ATTRIBUTE = "__amino_events_kept__"
BYTES_ATTRIBUTE = "__amino_event_bytes_kept__"
_TOPIC_LENGTH_MAX = 128


class Event(NamedTuple):
    """One event, as a subscriber gets it.

    Args:
        token: where to subscribe from to get what follows it.
    """

    topic: str
    payload: Any
    token: str


def emit(topic: str, payload: Any = None) -> None:
    """Tell the subscribers of this microservice something; called in its changing methods.

    The event is part of the object's state, and delivered once the call that emitted it has passed all managers: with
    ``PeriodicCheckpoint(every=1)``, after its checkpoint. The last 1,000 events (1 MiB) are kept for subscribers that are behind;
    a class may say otherwise with ``__amino_events_kept__`` and ``__amino_event_bytes_kept__``.

    Args:
        topic: 1 to 128 characters. payload: any value that can be sent, at most 256 KiB; copied now.

    Raises:
        Invalid: too large, or no changing method is running here. NotEncodable: the payload cannot be kept.
    """
    invocation = CURRENT.get()
    if invocation is None or invocation.home is None:
        raise Invalid("amino.emit was called outside a microservice's method; events are part of its state")
    if invocation.readonly:
        raise Invalid("amino.emit changes the object, and this method is marked @amino.readonly; remove the mark")
    if not isinstance(topic, str) or not 0 < len(topic) <= _TOPIC_LENGTH_MAX:
        raise Invalid(f"topic {topic!r} is not a text of 1 to {_TOPIC_LENGTH_MAX} characters")
    packed = codec.pack(payload, trusted=True)
    if len(packed) > limits.EVENT_BYTES_MAX:
        raise Invalid(
            f"the event on {topic!r} takes {len(packed)} bytes; the bound is {limits.EVENT_BYTES_MAX}: send a name of the data"
        )
    home, effects = invocation.home, invocation.effects

    def branch() -> int:  # of the first event of all; the same in every replica
        return home.epoch if effects is None else int(effects.value(effects.next("branch"), lambda: home.epoch))

    cls = type(home.instance)
    home.own_tables().emit(
        topic,
        packed,
        branch=branch,
        kept_max=int(getattr(cls, KEPT_ATTRIBUTE, limits.EVENTS_KEPT)),
        bytes_max=int(getattr(cls, BYTES_ATTRIBUTE, limits.EVENT_BYTES_KEPT)),
    )


class _Found(NamedTuple):
    """What is next in a stream: an event, a gap, or only a place further on.

    Args:
        shard: whose stream; empty for that of a microservice without shards. ended: nothing follows in it.
    """

    shard: str
    token: str
    event: tuple[str, Any] | None = None
    missed: EventsMissed | None = None
    ended: bool = False


class Subscription:
    """An endless iterator over the events of one microservice: ``for`` in threads, ``async for`` on loops.

    For one user at a time. ``close`` it (or use it in a ``with``) when done: a waiting iterator then ends.

    Args:
        after: where to begin: ``newest``, ``oldest`` or a token.

    Attributes:
        token: the position; subscribing with ``after=token`` goes on behind the last event that was delivered.
    """

    def __init__(self, runtime: Runtime, target: Target, topic: str, after: str, patience_s: float) -> None:
        self._runtime = runtime
        self._target = target
        self._topic = topic
        self._patience_s = patience_s
        self._after = after
        self._found: deque[_Found] = deque()
        self._shards: ShardEvents | None = None
        self._delivered = Positions()
        self._closed = False
        self.token = after

    def __repr__(self) -> str:
        return f"<subscription to {self._topic or 'all events'} of {self._target.microservice} after {self.token}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __aiter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        if on_loop():
            raise RuntimeError(
                "this loop over events blocks, and an event loop is running in this thread; use async for"
            )
        event = drive(self._next())
        if event is None:
            raise StopIteration
        return event

    async def __anext__(self) -> Event:
        event = await self._next()
        if event is None:
            raise StopAsyncIteration
        return event

    def close(self) -> None:
        """End the subscription; an iterator that waits ends within ten seconds. Idempotent, from any thread."""
        self._closed = True
        if self._shards is not None:
            self._shards.close()

    async def start(self) -> None:
        """Settle where ``newest`` is, so that everything emitted from now on is delivered. Idempotent.

        Blocking subscriptions have done so when they are made; on a loop ``async with`` does it, or the first ``async for``.
        """
        if self._after in (NEWEST, OLDEST):
            await self._poll(0.0)

    async def _next(self) -> Event | None:
        while not self._closed:
            while self._found:
                found = self._found.popleft()
                if found.shard:
                    self.token = self._delivered.pass_to(found.shard, found.token, ended=found.ended)
                else:
                    self.token = found.token
                if found.missed is not None:
                    raise found.missed
                if found.event is not None:
                    return Event(*found.event, self.token)
            await self._poll(WAIT_S)
        return None

    async def _poll(self, wait_s: float) -> None:
        """Ask for what follows, until there is an answer."""
        if self._shards is None:
            found = await self._ask(wait_s) if not self._after.startswith("s") else None
            if self._closed:
                return
            if found is not None and not found.get("former"):
                self._take("", found)
                return
            self._begin_with_shards()  # also where only shards that it had have left something to read
        await self._poll_shards()

    async def _ask(self, wait_s: float) -> dict[str, Any] | None:
        """Ask a microservice that has no shards; None if it has some, or nobody listens any more."""
        clock = self._runtime.clock
        give_up = clock.monotonic() + self._patience_s
        pause_s = PAUSE_S_MIN
        while True:
            token = DEADLINE.set(WAIT_S + limits.HOLD_S * 2)
            try:
                location = self._target.location or await self._runtime.look_up(
                    self._target, clock.monotonic() + WAIT_S
                )
                if shards_of(location):
                    return None
                found = await self._runtime.invoke(
                    self._target, EVENTS_CALL, READONLY, (self._after, self._topic, BATCH, wait_s), {}
                )
                return found if isinstance(found, dict) else None
            except AGAIN:
                if self._closed:
                    return None
                if clock.monotonic() >= give_up:
                    raise
            finally:
                DEADLINE.reset(token)
            await sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)

    # --- shards -----------------------------------------------------------------------------------------------------

    def _begin_with_shards(self) -> None:
        self._delivered = Positions.parsed(self._after)
        self._shards = ShardEvents(self._runtime, self._target, self._topic, Positions.parsed(self._after))

    async def _poll_shards(self) -> None:
        """Ask all shards, on a loop: there it takes no thread for each."""
        if on_loop():
            answers = await self._read_shards()
        else:
            try:
                answers = await on(await self._background(), self._read_shards())
            except concurrent.futures.CancelledError:
                raise ClusterUnavailable(
                    "this cluster connection was closed; open another with amino.connect"
                ) from None
        for answer in answers:
            self._take(answer.name, answer.found)

    async def _read_shards(self) -> list[Answer]:
        shards = self._shards
        assert shards is not None, "made before"
        if self._after in (NEWEST, OLDEST):
            await shards.settle(self._after, self._patience_s)
            self._after = self.token = str(shards.places)
            self._delivered = Positions.parsed(self._after)
            return []
        try:
            return await shards.read(self._patience_s)
        except AGAIN:
            if self._closed:
                return []
            raise
        finally:
            self._delivered.learn(shards.places.at)

    async def _background(self) -> asyncio.AbstractEventLoop:
        """Return the connection's own loop."""
        give_up = self._runtime.clock.monotonic() + self._patience_s
        while True:
            loop: asyncio.AbstractEventLoop | None = self._runtime.background()
            if loop is not None:
                return loop
            if self._runtime.clock.monotonic() >= give_up:
                raise ClusterUnavailable("this cluster connection has not begun, or was closed")
            await sleep(PAUSE_S_MIN)

    def _take(self, shard: str, found: dict[str, Any]) -> None:
        """Queue what was found, in the order of its stream; the position moves as it is handed out."""
        if found["missed"] is not None:
            why, first, last = found["missed"]
            told = (
                "were delivered, and are lost with the state that held them: the microservice was recovered from before"
                if why == "lost"
                else "were dropped before this subscriber asked for them; read the state, or keep more of them"
            )
            where = f"{self._target.microservice}{f', shard {shard},' if shard else ''}"
            details = {"shard": shard} if shard else {}
            missed = EventsMissed(
                f"events {first} to {last} of {where} {told}", why=why, first=first, last=last, **details
            )
            token = found["events"][0][0] if found["events"] else found["token"]
            self._found.append(_Found(shard, _before(token) if found["events"] else token, missed=missed))
        for token, topic, payload in found["events"]:
            self._found.append(_Found(shard, token, event=(topic, payload)))
        self._found.append(_Found(shard, found["token"], ended=bool(found.get("ended"))))
        if not shard:
            self._after = found["token"]


def _before(token: str) -> str:
    """Return the token of the place right before an event."""
    branch, _, number = token.partition("-")
    return f"{branch}-{int(number) - 1}"


def subscription(runtime: Runtime, target: Target, topic: str, after: str, patience_s: float) -> Subscription:
    """Return a subscription, with its beginning settled where that can be waited for here."""
    if not isinstance(after, str) or not after:
        raise Invalid(f"after={after!r} is no place to begin; use {NEWEST!r}, {OLDEST!r} or an event's token")
    made = Subscription(runtime, target, topic, after, patience_s)
    if not on_loop():
        drive(made.start())
    return made
