"""Writing what a user asks for into a group's document, and waiting until the leader has carried it out.

Owns both. Leaves what is asked to ``operations`` and ``moves``.
Invariant: an edit is repeated until it has landed, or been seen to be unnecessary, whatever became of earlier tries.
Failure behaviour: when time runs out the work goes on, and ``OutcomeUnknown`` says so.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from amino.aio.clock import Clock
from amino.contracts.documents import (
    GroupDocument,
    Phase,
    ReplicaDocument,
)
from amino.errors import (
    Conflict,
    CoordinationUnavailable,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
)
from amino.ids import ROOT
from amino.oms import group_machine as machine
from amino.oms import replica_machine, shard_machine
from amino.oms.directory import Found
from amino.oms.leader import Leader

PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 1.0


class Editing:
    """Edits documents of the slots this server leads, and waits for what follows."""

    def __init__(self, leader: Leader, clock: Clock) -> None:
        self._leader = leader
        self._clock = clock

    async def _write(
        self, ms_id: str, found: Found, document: GroupDocument, placing: ReplicaDocument | None, path: str = ROOT
    ) -> Found:
        leader = self._leader
        try:
            return await leader.writes.replace(ms_id, path, found, document, placing=placing)
        except Conflict as error:
            await leader.writes.read(ms_id, path)
            await leader.writes.hear_of_cordons()
            raise NotExecuted(f"microservice {ms_id} changed meanwhile; ask again", reason="not-ready") from error

    async def _edit(
        self,
        ms_id: str,
        until: float,
        change: Callable[[GroupDocument], GroupDocument],
        *,
        unless: Callable[[GroupDocument], bool] | None = None,
        only: str = "",
    ) -> Found:
        """As ``_edit_locked``, under the lock."""
        async with self._leader.locks.hold(ms_id):
            return await self._edit_locked(ms_id, until, change, unless=unless, only=only)

    async def _edit_locked(
        self,
        ms_id: str,
        until: float,
        change: Callable[[GroupDocument], GroupDocument],
        *,
        unless: Callable[[GroupDocument], bool] | None = None,
        only: str = "",
        path: str = ROOT,
    ) -> Found:
        """Write ``change`` of the document as it is, however often it takes.

        Args:
            unless: leave the document as it is if this holds.
            only: the phase it must be in, else ``Conflict``.
        """
        leader = self._leader
        uncertain = False
        found = leader.directory.group(ms_id, path) or await leader.writes.read(ms_id, path)
        while True:
            if found is None:
                raise NotFound(f"there is no microservice {ms_id}", microservice=ms_id)
            if unless is not None and unless(found.document):
                return found
            if only and found.document.phase != only:
                if uncertain:  # our write had landed
                    return found
                state = machine.state_of(found.document)
                raise Conflict(f"microservice {ms_id} is {state}, not {only}; nothing was done")
            try:
                return await leader.writes.replace(ms_id, path, found, change(found.document))
            except Conflict:
                await leader.writes.check_leadership(ms_id)
                found = await leader.writes.read(ms_id, path)
            except CoordinationUnavailable:
                if self._clock.monotonic() >= until:
                    raise
                uncertain = True
                found = await leader.writes.settle(ms_id, path)

    def _good_enough(self, ms_id: str, document: GroupDocument) -> bool:
        """Return whether a user need not wait for what is still to be done: it serves, and who should drop it does not answer."""
        if document.kind == machine.SHARDS:
            groups = self._leader.directory.groups(ms_id)
            return (
                document.phase == Phase.ACTIVE
                and shard_machine.settled(document)
                and not shard_machine.leaving(document, self._leader.shards.children(ms_id))
                and all(
                    one.document.kind == machine.REPLICATED and self._good_enough(ms_id, one.document)
                    for path, one in groups.items()
                    if path != ROOT
                )
            )
        if document.kind == machine.REPLICATED:
            return replica_machine.serves(document) and document.move is None
        return machine.state_of(document) == "active"

    async def until_done(self, ms_id: str, until: float, what: str) -> Found | None:
        """Let the leader go on until nothing is left to do; returns the document, None when it is gone.

        Raises:
            OutcomeUnknown: not by ``until``; the leader goes on by itself.
        """
        leader = self._leader
        pause_s = PAUSE_S_MIN
        while True:
            with leader.directory.pulse(ms_id, "members") as changed:
                remaining_s = max(0.0, until - self._clock.monotonic())
                progress = await leader.advance_within(ms_id, remaining_s)
                if progress.found is None:
                    return None
                if not progress.wait or self._good_enough(ms_id, progress.found.document):
                    return progress.found
                if self._clock.monotonic() >= until:
                    raise OutcomeUnknown(
                        f"{what} of {ms_id} goes on, but was not done in time: {progress.wait}; repeat it to wait longer",
                        microservice=ms_id,
                    )
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, remaining_s)):
                        await changed.wait()
            pause_s = min(PAUSE_S_MAX, pause_s * 2)
