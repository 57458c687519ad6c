"""Reading the events of all shards of a microservice at once.

Owns one question at a time to each shard, and what the answers mean. Leaves places to ``positions`` and delivery to ``events``.
Invariants: events of one shard come in order, each once, also when the shard leaves: the first shard has what was left of it;
an answer that did not come from the shard that was asked (the managers changed meanwhile) is not used.
Failure behaviour: shards that cannot be reached are asked again; ``read`` raises what the last of them said only once none has
answered for ``patience_s``.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

from amino import limits
from amino.aio.tasks import TaskOwner
from amino.contracts.own import EVENTS_CALL, NEWEST
from amino.errors import AminoError, ClusterUnavailable, NotExecuted, OutcomeUnknown, StoreFailed
from amino.marks import READONLY
from amino.stubs.positions import FIRST, Positions
from amino.stubs.runtime import DEADLINE

if TYPE_CHECKING:
    from amino.contracts.services import Location
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target

WAIT_S = 10.0
BATCH = 256
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.5
AGAIN = (NotExecuted, OutcomeUnknown, ClusterUnavailable, StoreFailed)
_NO_GROUP = "no-group"


class Answer(NamedTuple):
    """What one shard said."""

    name: str
    found: dict[str, Any]


class ShardEvents:
    """The streams of a microservice's shards. On one loop.

    Args:
        places: where to read; moved forward by every answer.
    """

    def __init__(self, runtime: Runtime, target: Target, topic: str, places: Positions) -> None:
        self._runtime = runtime
        self._target = target
        self._topic = topic
        self.places = places
        self._tasks = TaskOwner("events of shards")
        self._asked: dict[str, asyncio.Task[Answer | AminoError | None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False

    def __repr__(self) -> str:
        return f"ShardEvents({self._target.microservice}, {self.places})"

    def close(self) -> None:
        """Ask nothing more; ``read`` ends with what it has. Idempotent, from any thread."""
        self._closed = True
        with contextlib.suppress(RuntimeError):  # the loop has ended, and the tasks with it
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        for task in self._asked.values():
            task.cancel()

    async def settle(self, place: str, patience_s: float) -> None:
        """Learn the shards there are, and read from ``place`` on: ``newest`` is now. Retries for ``patience_s``."""
        give_up = self._runtime.clock.monotonic() + patience_s
        shards = shards_of(await self._location()) or {FIRST}
        if place != NEWEST:
            self.places.learn(shards)
            return
        self.places.begin_at(shards, place)
        while NEWEST in self.places.at.values():
            for name in [name for name, token in self.places.at.items() if token == NEWEST]:
                answer = await self._ask_caught(name, 0.0)
                if isinstance(answer, Answer):
                    self.places.at[name] = answer.found["token"]
                    self.places.skip(answer.found.get("former", ()))
                elif isinstance(answer, AminoError) and self._runtime.clock.monotonic() >= give_up:
                    raise answer
                else:
                    await asyncio.sleep(PAUSE_S_MIN)
                    self.places.at = {
                        each: token
                        for each, token in self.places.at.items()
                        if token != NEWEST or each in shards_of(await self._location())
                    }

    async def read(self, patience_s: float) -> list[Answer]:
        """Return what shards answer next; waits until one has."""
        clock, self._loop = self._runtime.clock, asyncio.get_running_loop()
        give_up, pause_s = clock.monotonic() + patience_s, PAUSE_S_MIN
        while not self._closed:
            try:
                location = await self._location()
            except AGAIN:
                if clock.monotonic() >= give_up:
                    raise
                await asyncio.sleep(pause_s)
                continue
            self.places.learn(shards_of(location))
            for name in self.places.at:
                if name not in self._asked:
                    self._asked[name] = self._tasks.spawn(self._ask_caught(name, WAIT_S), name)
            await asyncio.wait(self._asked.values(), return_when=asyncio.FIRST_COMPLETED)
            ended = {name: task for name, task in self._asked.items() if task.done()}
            self._asked = {name: task for name, task in self._asked.items() if name not in ended}
            done = {name: task.result() for name, task in ended.items() if not task.cancelled()}
            answers = [answer for answer in done.values() if isinstance(answer, Answer)]
            for answer in answers:
                self._take(answer, location)
            if answers:
                return answers
            problem = next((error for error in done.values() if isinstance(error, AminoError)), None)
            if problem is not None and (clock.monotonic() >= give_up or not isinstance(problem, AGAIN)):
                raise problem
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S_MAX)
        return []

    def _take(self, answer: Answer, location: Location) -> None:
        found = answer.found
        self.places.at[answer.name] = found["token"]
        if found.get("ended"):
            self.places.end(answer.name)
        self.places.learn(found.get("former", ()))
        if set(found.get("shards", ())) - shards_of(location):
            self._target.location = None

    async def _location(self) -> Location:
        deadline = self._runtime.clock.monotonic() + limits.DEADLINE_S_DEFAULT
        return self._target.location or await self._runtime.look_up(self._target, deadline)

    async def _ask_caught(self, name: str, wait_s: float) -> Answer | AminoError | None:
        try:
            return await self._ask(name, wait_s)
        except AminoError as error:
            if isinstance(error, NotExecuted) and error.reason == _NO_GROUP:
                self._target.location = None
                return None
            return error

    async def _ask(self, name: str, wait_s: float) -> Answer | None:
        """Ask the shard, or whoever has the events of one that has left; None if that was the wrong place."""
        shards = shards_of(await self._location())
        path, former = f"/{name}", ""
        if not shards:
            path, former = "/", "" if name == FIRST else name
        elif name not in shards:
            path, former = f"/{min(shards, key=int)}", name
        token = DEADLINE.set(WAIT_S + limits.HOLD_S * 2)
        try:
            arguments = (self.places.at[name], self._topic, BATCH, wait_s, *((former,) if former else ()))
            found = await self._runtime.invoke_at(path, self._target, EVENTS_CALL, READONLY, arguments)
        finally:
            DEADLINE.reset(token)
        if not isinstance(found, dict) or ("shards" in found) != bool(shards):
            self._target.location = None  # it has become sharded, or has not been any more
            return None
        return Answer(name, found)


def shards_of(location: Location) -> set[str]:
    """Return the names of the shards that exist, those included that are coming or leaving."""
    return {path[1:] for path in location.groups if path != "/"}
