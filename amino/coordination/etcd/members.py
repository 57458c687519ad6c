"""Which members of etcd answer right now: asked for when one is slow, so that no try goes to one that is frozen.

Owns the look at all members, the choice of the next, and the end of tries whose leader was replaced: what a follower had
passed on to it is lost, unless it reached the others before, and then its answer comes at once. Leaves leaving a member to
``store``.
Invariants: a choice never rests on a look older than ``GOOD_S``; looking changes nothing, and needs no majority.
Failure behaviour: who does not answer a look within ``LOOK_S`` counts as gone until the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from math import inf

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner

SLOW_S = 0.4
"""A request that takes longer makes us look; far above what etcd takes, far below what a try may take."""
LOOK_S = 0.25
GOOD_S = 2.0
GRACE_S = 0.2
"""How long an answer may still take once a new leader is there; far above what it takes to commit what the old one left."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a member says of itself: its id, that of the member it takes for the leader (0: of none), and raft's term."""

    member: int
    leader: int
    term: int = 0


def next_turn(endpoints: Sequence[str], turn: int, answers: Mapping[str, Answer]) -> int:
    """Return the turn after ``turn``: endpoint number ``turn % len(endpoints)`` is asked in it.

    Members whose leader answers come first, then those that answer at all, then the others, each in their order.
    """
    alive = {answer.member for answer in answers.values()}

    def rank(candidate: int) -> int:
        answer = answers.get(endpoints[candidate % len(endpoints)])
        if answer is None:
            return 2
        return 0 if answer.leader and answer.leader in alive else 1

    return min(range(turn + 1, turn + 1 + len(endpoints)), key=rank)


def elected_in(answers: Mapping[str, Answer]) -> int:
    """Return the newest term in which a member that answers is the leader of one that answers; 0 if there is none."""
    alive = {answer.member for answer in answers.values()}
    return max((answer.term for answer in answers.values() if answer.leader and answer.leader in alive), default=0)


class Members:
    """Looks at all members when asked to, one look at a time.

    Args:
        ask: returns what the member at an endpoint says, None if it says nothing.
        tasks: owns the look.
    """

    def __init__(
        self, endpoints: Sequence[str], ask: Callable[[str], Awaitable[Answer | None]], clock: Clock, tasks: TaskOwner
    ) -> None:
        self._endpoints = endpoints
        self._ask = ask
        self._clock = clock
        self._tasks = tasks
        self._looking = False
        self._answers: dict[str, Answer] = {}
        self._looked_at = -inf
        self._slow: dict[asyncio.Timeout, int] = {}

    def __repr__(self) -> str:
        return f"Members({len(self._answers)} of {len(self._endpoints)} answered)"

    def look_soon(self) -> None:
        """Begin a look, unless one is under way."""
        if not self._looking and not self._tasks.closed:
            self._looking = True
            self._tasks.spawn(self._look(), "look at members")

    @asynccontextmanager
    async def trying(self, term: int) -> AsyncIterator[None]:
        """Look again and again while what runs inside is slow, and end it if its leader is replaced meanwhile.

        Args:
            term: the newest term heard of before it was sent; 0: of none, and nothing ends it.

        Raises:
            TimeoutError: a leader of a newer term is there, and no answer came within ``GRACE_S`` since that was seen.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                slow = asyncio.get_running_loop().call_later(SLOW_S, self._is_slow, scope, term)
                try:
                    yield
                finally:
                    slow.cancel()
                    self._slow.pop(scope, None)
        except TimeoutError as error:
            if not scope.expired():
                raise
            raise TimeoutError("no answer, and another leader was elected meanwhile") from error

    def _is_slow(self, scope: asyncio.Timeout, term: int) -> None:
        self._slow[scope] = term
        self.look_soon()

    async def _look(self) -> None:
        try:
            await self._look_once()
            while self._slow:
                await asyncio.sleep(LOOK_S)
                await self._look_once()
        finally:
            self._looking = False

    async def _look_once(self) -> None:
        found = await asyncio.gather(*map(self._ask, self._endpoints))
        pairs = zip(self._endpoints, found, strict=True)
        self._answers = {endpoint: answer for endpoint, answer in pairs if answer is not None}
        self._looked_at = self._clock.monotonic()
        elected = elected_in(self._answers)
        ends_at = asyncio.get_running_loop().time() + GRACE_S
        for scope, term in self._slow.items():
            if 0 < term < elected and scope.when() is None:
                scope.reschedule(ends_at)

    def next_turn(self, turn: int) -> int:
        """Return the turn after ``turn``, by the last look if that is recent."""
        recent = self._clock.monotonic() - self._looked_at <= GOOD_S
        return next_turn(self._endpoints, turn, self._answers if recent else {})
