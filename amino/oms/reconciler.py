"""The reconciler: compares what is stored with what is real, for the slots led here, and has the difference repaired.

Owns when to look at which microservice: slot gained, document changed, server lost, now and then. Leaves repairing to
``leader`` and rubbish to ``housekeeping``.
Invariants: level-triggered, a look at any time is harmless; nothing is looked at for a slot that is not led here.
Failure behaviour: what cannot be repaired now is looked at again with back-off, and at once when the world changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random as random_module

from amino.aio.overdue import OVERDUE_S
from amino.aio.tasks import TaskOwner
from amino.errors import AminoError, NotExecuted
from amino.ids import slot_of
from amino.oms.leader import Leader
from amino.oms.worklist import Worklist

_log = logging.getLogger("amino.oms")
TICK_S = 1.0
BUSY_S = 0.5
HANDOVER_S = 1.0


class Reconciler:
    """Keeps the microservices of the slots led here true to their documents.

    Args:
        leader: does the work.
        random: for jitter.
        led: the slots led here; kept up to date by this object, read by others.
    """

    def __init__(self, leader: Leader, random: random_module.Random, led: set[int]) -> None:
        self._leader = leader
        self._directory = leader.directory
        self.led = led
        self._paused = False
        self._members: dict[str, int] = {}
        self._untold: dict[int, tuple[str, int]] = {}
        self.work = Worklist(self._look, self._wanted, random=random)
        self._tasks = TaskOwner("reconciler")
        self._turn = 0
        self._waiting: dict[str, tuple[float, str]] = {}  # since when, and the last reason that was told
        leader.on_wait = self._waits
        self._directory.on_group(self._group_changed)
        self._directory.on_loss(self._server_lost)
        self._directory.on_members(self._members_changed)

    def __repr__(self) -> str:
        return f"Reconciler({len(self.led)} slots, {self.work!r})"

    def start(self) -> None:
        """Begin the periodic pass."""
        self._members = dict(self._directory.live)
        self._tasks.spawn(self._tick(), "tick")

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        self.led.clear()
        await self._tasks.aclose()
        await self.work.aclose()

    async def slot_gained(self, slot: int) -> None:
        """We lead ``slot`` from now on: look at all its microservices."""
        self.led.add(slot)
        for ms_id in self._directory.ids(slot):
            self.work.add(ms_id)
        lost = self._untold.pop(slot, None)
        if lost is not None and self._directory.led_before.get(slot) == lost:
            self._tell_lost(*lost)

    async def slot_lost(self, slot: int) -> None:
        """We do not lead ``slot`` any more, or will not in a moment: stop acting for it."""
        self.led.discard(slot)
        self.work.drop(lambda ms_id: slot_of(ms_id) == slot)
        self._waiting = {ms_id: since for ms_id, since in self._waiting.items() if slot_of(ms_id) != slot}
        self._leader.commands.interrupt(lambda ms_id: slot_of(ms_id) == slot)
        with contextlib.suppress(TimeoutError):  # what is left fails at its guard
            async with asyncio.timeout(HANDOVER_S):
                while any(slot_of(ms_id) == slot for ms_id in self._leader.locks):
                    await self._leader.locks.released.wait()

    def look_at_all(self) -> None:
        """Look at every microservice of the slots led here that is not settled."""
        for slot in sorted(self.led):
            for ms_id in self._directory.ids(slot):
                self.work.add(ms_id)

    # --- what happens ---------------------------------------------------------------------------------------------

    def _group_changed(self, ms_id: str, _path: str) -> None:
        if slot_of(ms_id) in self.led and not self._leader.idle(ms_id):
            self.work.add(ms_id, BUSY_S if ms_id in self._leader.locks else 0.0)

    def _server_lost(self, name: str, incarnation: int) -> None:
        for ms_id in self._directory.hosted(name, incarnation):
            if slot_of(ms_id) in self.led:
                self.work.add(ms_id)
        if slot_of(name) in self.led:
            self._tell_lost(name, incarnation)
        else:  # who leads that slot tells; if that was the lost one itself, whoever comes after it
            self._untold[slot_of(name)] = name, incarnation

    def _tell_lost(self, name: str, incarnation: int) -> None:
        self._leader.events.add("server-lost", server=name, text=f"incarnation {incarnation}")
        self._tasks.spawn(self._tell_how_lost(name, incarnation), f"how {name} was lost")

    async def _tell_how_lost(self, name: str, incarnation: int) -> None:
        """Note it if a server was fenced: its session ended, and nothing proves that its process did."""
        with contextlib.suppress(AminoError):
            if await self._leader.commands.proof(name, incarnation) is None:
                self._leader.events.add(
                    "fenced",
                    server=name,
                    text=f"incarnation {incarnation} was silent; if it still runs, it may not answer",
                )

    def _members_changed(self) -> None:
        live = self._directory.live
        for name, incarnation in live.items():
            if self._members.get(name) != incarnation and slot_of(name) in self.led:
                self._leader.events.add("server-joined", server=name, text=f"incarnation {incarnation}")
        self._members = dict(live)
        self.work.hurry()
        for ms_id in self._directory.choosy():  # content as it was, it may be better placed now
            if self._wanted(ms_id):
                self.work.add(ms_id)
        paused, self._paused = self._paused, self._directory.cluster.paused
        if paused and not self._paused:
            self.look_at_all()

    def _waits(self, ms_id: str, why: str) -> None:
        if slot_of(ms_id) not in self.led:
            return
        self.work.add_failed(ms_id)
        now = asyncio.get_running_loop().time()
        since, told = self._waiting.setdefault(ms_id, (now, ""))
        if now - since >= OVERDUE_S and why != told:
            self._waiting[ms_id] = since, why
            _log.warning("%s has waited for %.0f s: %s", ms_id, now - since, why)

    # --- looking --------------------------------------------------------------------------------------------------

    def _wanted(self, ms_id: str) -> bool:
        wanted = slot_of(ms_id) in self.led and not self._leader.idle(ms_id)
        if not wanted:
            self._waiting.pop(ms_id, None)
        return wanted

    async def _look(self, ms_id: str) -> bool:
        try:
            progress = await self._leader.advance(ms_id)
        except NotExecuted:  # another server leads the slot; the election tells us in a moment
            return slot_of(ms_id) not in self.led
        if not progress.wait:
            self._waiting.pop(ms_id, None)
        return True  # if it has to wait, ``_waits`` has put it on the list

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            led = sorted(self.led)
            if led:
                self._turn = (self._turn + 1) % len(led)
                for ms_id in self._directory.ids(led[self._turn]):
                    if not self._leader.idle(ms_id):
                        self.work.add(ms_id)
