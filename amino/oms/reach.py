"""Whether this server reaches enough of the others to lead: one that is cut off from them can command nobody.

Owns asking all other servers. Leaves giving slots up to the election, and when to ask to those who have met silence.
Invariants: nobody is asked unless a server did not answer; one round of questions is under way at a time; while too few answer,
it asks again every ``AGAIN_S``.
Failure behaviour: a server that does not answer in time is not reached; where nobody reaches the others, leaders go on as they can.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from amino.aio.tasks import TaskOwner
from amino.contracts.services import Empty
from amino.coordination.election_machine import ASIDE_S
from amino.errors import AminoError
from amino.oms.doubt import ASK_TIMEOUT_S

if TYPE_CHECKING:
    from amino.contracts.services import KernelCaller
    from amino.oms.directory import Directory

_log = logging.getLogger("amino.oms")
AGAIN_S = 1.0


class Reach:
    """What this server knows of its way to the others.

    Args:
        server: this server's name. kernels: the transport.

    Attributes:
        on_change: called with what was found when ``aside`` has changed.
    """

    def __init__(self, server: str, directory: Directory, kernels: KernelCaller) -> None:
        self._server = server
        self._directory = directory
        self._kernels = kernels
        self._tasks = TaskOwner("reach")
        self._asking = False
        self._round: asyncio.Future[None] | None = None
        self._since: float | None = None
        self._look_again = asyncio.Event()
        self.on_change: Callable[[str], None] | None = None
        directory.on_loss(self._lost)

    def __repr__(self) -> str:
        return f"Reach({'aside' if self.aside() else 'with the others'})"

    def aside(self) -> bool:
        """Return whether fewer than half of the servers, this one counted, could be reached when it asked last."""
        return self._since is not None

    def hands_over(self) -> bool:
        """Return whether others have still to be given the time to lead what this server leads."""
        return self._since is not None and asyncio.get_running_loop().time() - self._since < ASIDE_S

    def doubt(self) -> None:
        """A server that is said to live did not answer: ask all, unless that is under way. Never waits."""
        if not self._asking and not self._tasks.closed:
            self._asking = True
            self._tasks.start(self._ask(), "ask")  # the round has begun when this returns

    async def ask(self) -> None:
        """As ``doubt``, and wait until they have answered or had their time. Cancelling ends the wait only."""
        self.doubt()
        if self._round is not None:
            await asyncio.shield(self._round)

    async def aclose(self) -> None:
        """Ask no more. Idempotent."""
        await self._tasks.aclose()

    def _lost(self, *_: object) -> None:
        self._look_again.set()

    async def _ask(self) -> None:
        try:
            await self._ask_all()
            while self.aside():
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(AGAIN_S):
                        await self._look_again.wait()
                await self._ask_all()
        finally:
            self._asking = False

    async def _ask_all(self) -> None:
        self._look_again.clear()
        self._round = asyncio.get_running_loop().create_future()
        try:
            others = [one.record for one in self._directory.servers() if not one.record.device]
            others = [one for one in others if one.name != self._server]
            reached = 1 + sum(await asyncio.gather(*(self._answers(one.address) for one in others)))
            self._learn(2 * reached < 1 + len(others), f"{reached - 1} of {len(others)} other servers answer")
        finally:
            self._round.set_result(None)
            self._round = None

    def _learn(self, aside: bool, why: str) -> None:
        if aside == self.aside():
            return
        self._since = asyncio.get_running_loop().time() if aside else None
        _log.warning("server %s %s: %s", self._server, "stands aside" if aside else "leads again", why)
        if self.on_change is not None:
            self.on_change(why)

    async def _answers(self, address: str) -> bool:
        try:
            async with asyncio.timeout(ASK_TIMEOUT_S):
                await self._kernels.at(address).statistics(Empty())
        except (AminoError, TimeoutError):
            return False
        return True
