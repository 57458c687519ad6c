"""Reads at replicas that are not the primary, at most so old.

Owns how a follower knows how fresh its state is, and running reads there. Leaves replaying to ``replaying``.
Invariant: a read is answered only from a state that holds every write acknowledged more than ``staleness_s`` before the
read began: the primary, asked after that moment, named the last committed entry, and that has been replayed here. No clocks
of two machines are compared.
Failure behaviour: a follower that cannot know that in time answers ``NotExecuted``; the caller asks the primary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from amino.aio.mode import on
from amino.aio.signal import Signal
from amino.dm.replication.driver import address_of
from amino.dm.replication.machine import Role
from amino.errors import AminoError, NotExecuted

if TYPE_CHECKING:
    import asyncio

    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ServerContext
    from amino.dm.replication.driver import Driver
    from amino.kernel.gate import Gate

FRESH = "fresh"
ANYWHERE = "amino-read-anywhere"
"""Header of a read that may be answered by a follower."""

_ASK_TIMEOUT_S = 0.5
_index = msgspec.msgpack.Decoder(int)
_pack = msgspec.msgpack.Encoder().encode


class FreshReads:
    """Reads at one follower.

    Args:
        gate: shut while entries are replayed.
        staleness_s: how old an answer may be.
    """

    def __init__(
        self, driver: Driver, context: ServerContext, gate: Gate, loop: asyncio.AbstractEventLoop, staleness_s: float
    ) -> None:
        self._driver = driver
        self._context = context
        self._gate = gate
        self._loop = loop
        self._staleness_s = staleness_s
        self._known: tuple[int, float, int] = (
            0,
            float("-inf"),
            0,
        )  # epoch, when the primary was asked, its commit index
        self._asking: Signal[bool] | None = None

    def __repr__(self) -> str:
        return f"FreshReads(asked at {self._known})"

    def may_answer(self, call: Call) -> bool:
        """Return whether this replica may answer ``call`` without being the primary."""
        return (
            call.readonly
            and bool(call.headers and call.headers.get(ANYWHERE))
            and (self._driver.machine.role is Role.FOLLOWER)
        )

    def answer(self) -> bytes:
        """Return, at the primary, the commit index; every write acknowledged up to now is within it.

        Raises:
            NotExecuted: it cannot prove that it still is the primary.
        """
        machine = self._driver.machine
        why = machine.may_read(machine.commit_index, self._driver.now())
        if why is not None or self._driver.broken:
            raise NotExecuted(f"the primary cannot say how far it is: {why or self._driver.broken}", reason="not-ready")
        return _pack(machine.commit_index)

    async def read(self, call: Call, forward: Forward) -> Any:
        """Run a read here."""
        clock, driver = self._context.clock, self._driver
        until = min(call.deadline, clock.monotonic() + _ASK_TIMEOUT_S)
        oldest = driver.now() - self._staleness_s
        while True:
            changed = driver.watch()
            epoch, asked_at, index = self._known
            if asked_at < oldest or epoch != driver.machine.epoch:
                await on(self._loop, self._ask())
                if self._known[1] < oldest:
                    raise self._stale(call, "the primary does not say how far it is")
                continue
            if (driver.machine.applied_index or 0) >= index and not driver.machine.distrusted:
                break
            left_s = until - clock.monotonic()
            if left_s <= 0:
                raise self._stale(call, "it has not caught up")
            try:
                await changed.wait(left_s)
            except TimeoutError:
                continue
        try:
            token = await self._gate.enter(call.request, max(until - clock.monotonic(), 0.001), clock)
        except TimeoutError:
            raise self._stale(call, "it is replaying") from None
        try:
            if driver.machine.role is not Role.FOLLOWER or driver.machine.distrusted:
                raise self._stale(call, "its role has changed")
            return await forward(call)
        finally:
            self._gate.leave(token)

    def _stale(self, call: Call, why: str) -> NotExecuted:
        return NotExecuted(
            f"{call.method} at {self._context.server} could be older than {self._staleness_s:g} s: {why}",
            reason="not-ready",
        )

    async def _ask(self) -> None:
        """Ask the primary how far it is; those who come meanwhile share a later question. On the loop."""
        if self._asking is not None:
            await self._asking.wait(_ASK_TIMEOUT_S * 2)
            return
        asking = self._asking = Signal()
        try:
            view = self._driver.machine.view
            primary = view.member(view.primary) if view is not None else None
            if view is None or primary is None:
                return
            asked_at = self._driver.now()
            try:
                answer = await self._context.notify(address_of(primary), FRESH, b"", _ASK_TIMEOUT_S)
                index = _index.decode(answer)
            except (AminoError, TimeoutError, msgspec.MsgspecError):
                return
            self._known = (view.epoch, asked_at, index)
        finally:
            self._asking = None
            asking.set(True)
