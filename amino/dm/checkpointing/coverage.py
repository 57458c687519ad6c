"""What published checkpoints hold of an object, and the one checkpoint that is on its way.

Owns who takes the next checkpoint and who shares it. Leaves when one is needed, and what is said when it fails, to ``periodic``.
Invariants: one checkpoint is on its way at a time; whoever is served by it shares its success and its failure alike.
Failure behaviour: a checkpoint that fails fails everybody it would have served, at once: nobody tries again in a queue of
those who wait. Whoever comes later tries anew.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from amino.aio.mode import sleep, surface
from amino.aio.signal import Signal
from amino.errors import AminoError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from amino.contracts.calls import Call
    from amino.contracts.context import ServerContext

_PAUSE_S = 0.001  # in which those who waited for a snapshot that was not to be had go on


class _Attempt:
    """A checkpoint on its way, and how many mutations it holds once that is known."""

    __slots__ = ("ended", "holds")

    def __init__(self) -> None:
        self.holds = -1
        self.ended: Signal[AminoError | None] = Signal()


class Coverage:
    """How many of the object's mutations checkpoints hold; brings that number up.

    Args:
        snapshot: returns the number of mutations and the state, within so many seconds (None: as long as it takes), or
            raises ``TimeoutError``.
        keep: checkpoints kept.

    Attributes:
        mutations: as many does the newest checkpoint hold.
    """

    def __init__(
        self, context: ServerContext, snapshot: Callable[[float | None], Awaitable[tuple[int, bytes]]], keep: int
    ) -> None:
        self.mutations = 0
        self._context = context
        self._snapshot = snapshot
        self._keep = keep
        self._attempt: _Attempt | None = None
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"Coverage({self.mutations}{', one more on its way' if self._attempt is not None else ''})"

    async def reach(self, goal: int, call: Call | None = None) -> None:
        """Return once a checkpoint holds ``goal`` mutations, which the object has had.

        Args:
            call: what waits for it, at most until its deadline.

        Raises:
            TimeoutError: no state could be had, or no checkpoint was written, before the deadline.
            AminoError: the checkpoint that would have held them failed.
        """
        while self.mutations < goal:
            mine = _Attempt()
            with self._mutex:
                attempt = self._attempt = self._attempt or mine
            if attempt is mine:
                await self._carry_out(mine, call)
                return
            if call is not None and call.surfaces:
                await surface()
            failure = await attempt.ended.wait(self._left(call))
            if failure is not None and attempt.holds >= goal:
                raise failure

    async def take(self) -> None:
        """Take a checkpoint before anybody calls. Raises as ``reach``."""
        await self._carry_out(_Attempt(), None)

    async def _carry_out(self, attempt: _Attempt, call: Call | None) -> None:
        failure: AminoError | None = None
        try:
            attempt.holds, state = await self._state(call)
            await self._context.checkpoints.write(state, self._keep)
            self.mutations = max(self.mutations, attempt.holds)
        except AminoError as error:
            failure = error
            raise
        finally:
            self._attempt = None
            attempt.ended.set(failure)

    async def _state(self, call: Call | None) -> tuple[int, bytes]:
        while True:
            try:
                return await self._snapshot(self._left(call))
            except TimeoutError:  # a changing call keeps running; let those that wait for us go on meanwhile
                if call is None or not self._left(call):
                    raise
            await sleep(_PAUSE_S)

    def _left(self, call: Call | None) -> float | None:
        return None if call is None else max(call.deadline - self._context.clock.monotonic(), 0.0)
