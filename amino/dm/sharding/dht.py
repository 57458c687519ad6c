"""``DHT``: an object divided over shards by key, that can grow and shrink while it is used.

Owns the manager: choosing the shard at the caller, judging keys and moving content at the shards. Leaves the ring to
``contracts.sharding``, ownership to ``ownership``, and the steps of a change to the OMS.
Invariants: as ``ownership``; a key's answered requests move with it, so a repeated request runs once across a change; no
call is between the look at its key and its end while keys leave or arrive.
Failure behaviour: a call for a key that is elsewhere is sent there; one for a key on its way waits, within its deadline; one
for every shard that leaves one out is refused by those that know better, and sent again.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from amino import limits
from amino.aio.mode import on_loop
from amino.contracts.calls import COMPONENT, SHARDS_HEADER, PerShard
from amino.contracts.levels import Level
from amino.contracts.own import EVENTS_CALL
from amino.contracts.sharding import Transition, ring_of
from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.sharding.ownership import Ownership, Verdict
from amino.errors import Invalid, NotExecuted
from amino.kernel.gate import Gate
from amino.marks import BROADCAST, KEY_SHIFT, KEYED, READONLY

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext, ServerContext

_REDIRECTS_MAX = 8
WRONG_SHARD, NO_GROUP, OTHER_SHARDS = "wrong-shard", "no-group", "other-shards"
"""Reasons that no repetition at the same place mends (``stubs.sender``)."""


class DHT(Manager, frozen=True, kw_only=True):
    """Divides the object over shards: each holds the state of the keys that consistent hashing gives it.

    Guarantee: a keyed method (``@amino.key``) runs on the shard that owns its key; methods marked ``@amino.broadcast`` run
    on every shard, one after the other's state, and their results are folded; others are refused. Adding or removing a shard
    (``amino scale NAME --shards N``) moves only the keys whose owner changes, while calls go on; none is lost. Each shard is
    made by the constructor with the same arguments. What moves is every entry of the object's dicts and sets, by their keys,
    or what the class's ``__amino_split__(owns)`` returns (and takes out) and ``__amino_merge__(part)`` puts in.

    Args:
        shards: how many to begin with (1 to 1,000).
        virtual_nodes: points of each shard on the ring (1 to 4,096): more spread better, fewer are found faster.
    """

    shards: Annotated[int, msgspec.Meta(ge=1, le=1000)] = 3
    virtual_nodes: Annotated[int, msgspec.Meta(ge=1, le=4096)] = 64

    provides = frozenset({Trait.SHARDS})

    def level(self, place: int) -> Level:
        """Return the group of shards."""
        return Level(type(self).__name__, place, "shards", self.shards)

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that chooses the shard."""
        return _Chooser(self.virtual_nodes, context)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component of a shard."""
        return _Shard(self.virtual_nodes, context)


class _Chooser(ClientBase):
    def __init__(self, virtual_nodes: int, context: ClientContext) -> None:
        self._virtual_nodes = virtual_nodes
        self._context = context

    async def on_call(self, call: Call, forward: Forward) -> Any:
        if call.flags & KEYED:
            return await self._to_owner(call, forward)
        if call.method.startswith(COMPONENT) and call.path != "/":
            return await forward(call)  # a manager further in says which shard it means
        if call.flags & BROADCAST or call.method.startswith(COMPONENT):
            return await self._to_all(call, forward)
        raise Invalid(
            f"{call.method} of a sharded microservice has no key: mark its argument with @amino.key, or the method with "
            "@amino.broadcast to run it on every shard"
        )

    async def _to_owner(self, call: Call, forward: Forward) -> Any:
        place = call.flags >> KEY_SHIFT
        if place >= len(call.args):
            raise Invalid(f"{call.method} was called without its key, argument {place + 1}; pass it by position")
        key = call.args[place]
        shard = ring_of(await self._context.shards(call.deadline), self._virtual_nodes).owner(key)
        for _ in range(_REDIRECTS_MAX):
            call.path = f"/{shard}"
            try:
                return await forward(call)
            except NotExecuted as error:
                if error.reason not in (WRONG_SHARD, NO_GROUP):
                    raise
                self._context.shards_changed()
                if error.reason == WRONG_SHARD:
                    shard = error.details["shard"]
                else:
                    shard = ring_of(await self._context.shards(call.deadline), self._virtual_nodes).owner(key)
        raise NotExecuted(
            f"{call.method} was sent from shard to shard; the shards are changing, retry", reason="moving"
        )

    async def _to_all(self, call: Call, forward: Forward) -> PerShard:
        answers: dict[str, Any] = {}
        told: list[str] = []  # by a shard that knows of more than we do
        for _ in range(_REDIRECTS_MAX):
            shards = told or list(await self._context.shards(call.deadline))
            missing = [_at(call, name, shards) for name in shards if name not in answers]
            try:
                if on_loop():
                    found = await asyncio.gather(*(forward(each) for each in missing))
                    answers.update(zip((each.path[1:] for each in missing), found, strict=True))
                else:
                    for each in missing:
                        answers[each.path[1:]] = await forward(each)
                return PerShard([answers[name] for name in shards])
            except NotExecuted as error:
                if error.reason not in (OTHER_SHARDS, NO_GROUP):
                    raise
                self._context.shards_changed()
                told = error.details["shards"].split(",") if error.reason == OTHER_SHARDS else []
                if call.flags & READONLY:
                    answers = {}  # of shards whose keys may have gone to others since
        raise NotExecuted(f"{call.method} found other shards each time; they are changing, retry", reason="moving")


def _at(call: Call, shard: str, shards: list[str]) -> Call:
    """Return a copy of ``call`` that goes to ``shard``, as a request of its own: answers of one shard may come to another.

    It says which ``shards`` it goes to; one that knows of others refuses it.
    """
    other = copy.copy(call)
    other.path = f"/{shard}"
    other.headers = {**(call.headers or {}), SHARDS_HEADER: shards}
    other.request = call.request._replace(path=(*call.request.path, int(shard)))
    return other


class _Shard(ServerBase):
    readonly_topics = frozenset({"part"})

    def __init__(self, virtual_nodes: int, context: ServerContext) -> None:
        self._context = context
        self._own = Ownership(context.path.rpartition("/")[2], virtual_nodes)
        self._outgoing: dict[str, list[bytes]] = {}
        self._calls = Gate()

    def on_snapshot(self) -> Any:
        own = self._own
        if not own.version:
            return None
        return (own.before, own.after, own.version, own.handed, dict(own.taken), dict(self._outgoing))

    def on_restore(self, state: Any) -> None:
        own = self._own
        if state is None:
            own.version = 0
            self._outgoing = {}
            return
        own.before, own.after, own.version, own.handed, own.taken, self._outgoing = state

    def shards(self) -> Transition | None:
        """The change under way, or the last one."""
        own = self._own
        return Transition(own.before, own.after, own.version) if own.version else None

    async def on_call(self, call: Call, forward: Forward) -> Any:
        token = self._calls.enter_nowait(call.request)
        if not token:
            clock = self._context.clock
            try:
                token = await self._calls.enter(call.request, max(call.deadline - clock.monotonic(), 0.0), clock)
            except TimeoutError:
                raise NotExecuted(
                    f"{call.method} waited for moving keys until its deadline", reason="deadline"
                ) from None
        try:
            own = self._own
            if call.flags & BROADCAST:
                self._check_all(call)
            if call.flags & KEYED and self._own.version:
                place = call.flags >> KEY_SHIFT
                if place >= len(call.args):
                    raise Invalid(f"{call.method} came without its key, argument {place + 1}; pass it by position")
                self._check(call.method, call.args[place])
            result = await forward(call)
            if call.method == EVENTS_CALL:  # so that a reader hears of shards that are new
                return {**result, "shards": list(own.after)}
            return result
        finally:
            self._calls.leave(token)

    def _check_all(self, call: Call) -> None:
        """Refuse a call that should run on every shard if it is not sent to each, or comes too late here."""
        own = self._own
        if own.handed and own.me not in own.after and not call.flags & READONLY:
            raise NotExecuted(f"shard {own.me} has handed over and leaves; retry", reason="not-ready")
        sent_to = (call.headers or {}).get(SHARDS_HEADER)  # clients of earlier releases do not say
        if sent_to is not None and not set(own.after) <= set(sent_to):
            raise NotExecuted(
                f"{call.method} of {self._context.microservice} was sent to shards {', '.join(sent_to)}; there are "
                f"{', '.join(own.after)}",
                reason=OTHER_SHARDS,
                shards=",".join(own.after),
            )

    def _check(self, method: str, key: Any) -> None:
        verdict, shard = self._own.judge(key)
        if verdict is Verdict.ELSEWHERE:
            raise NotExecuted(
                f"{method}: key {key!r} of {self._context.microservice} is on shard {shard}",
                reason=WRONG_SHARD,
                shard=shard,
            )
        if verdict is Verdict.ON_ITS_WAY:
            raise NotExecuted(
                f"{method}: key {key!r} of {self._context.microservice} is on its way from shard {shard}; retry",
                reason="not-ready",
            )

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:  # noqa: ARG002 - the upcall's form
        own = self._own
        if topic == "part":
            version, target, number = payload
            self._expect(version)
            return self._outgoing[target][number]
        if topic == "end":
            if payload == own.version:
                self._outgoing = {}
            return None
        if topic not in _MOVES:
            raise Invalid(f"a shard has no use for {topic!r}; the sender's release is incompatible")
        try:
            await self._calls.acquire_quiet(limits.QUIESCE_TIMEOUT_S)
        except TimeoutError:
            raise NotExecuted(
                f"calls of {self._context.microservice} kept running, its keys move when they have ended; retry",
                reason="not-ready",
            ) from None
        try:
            return _MOVES[topic](self, payload)
        finally:
            self._calls.release_quiet()

    def _expect(self, version: int) -> None:
        if version != self._own.version:
            raise Invalid(f"change {version} of shards is not the one under way here, {self._own.version}")

    def _begin(self, payload: Any) -> None:
        before, after, version = payload
        if self._own.begin(tuple(before), tuple(after), version):
            self._outgoing = {}
            self._context.object.wake_readers()

    def _hand_over(self, version: int) -> dict[str, int]:
        own = self._own
        self._expect(version)
        if not own.handed:
            targets = own.targets()
            if targets:
                heir = own.after[0] if own.me not in own.after else ""  # the first shard never leaves
                self._outgoing = self._context.object.take_out(own.leaving_to, own.me, targets, heir)
            own.handed = True
        return {target: len(parts) for target, parts in self._outgoing.items()}

    def _take(self, payload: Any) -> None:
        version, source, number, parts, content = payload
        own = self._own
        self._expect(version)
        if not own.is_next(source, number):
            return
        if number == 0:  # what the constructor made here for keys that have lived there
            self._context.object.discard(lambda key: own.comes_from(source, key))
        self._context.object.put_in(number, content)
        own.took(source, number, parts)


_MOVES: dict[str, Callable[[_Shard, Any], Any]] = {
    "begin": _Shard._begin,  # noqa: SLF001 - its own table
    "hand_over": _Shard._hand_over,  # noqa: SLF001
    "take": _Shard._take,  # noqa: SLF001
}
"""What changes which keys are here: done while no call is inside."""
