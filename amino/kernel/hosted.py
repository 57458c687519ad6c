"""The table of kernel objects of one process: commands in order, fences, and how a replica begins and ends here.

Owns the table. Leaves what commands do to ``host``.
Invariants: commands for one group run one at a time; a command with an older fence than one already seen is refused.
Failure behaviour: a component that fails to start or stop is reported; the table stays right.
"""

from __future__ import annotations

import itertools
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.aio.keyed import KeyedLocks
from amino.aio.overdue import told_if_overdue
from amino.aio.tasks import TaskOwner
from amino.errors import (
    NotExecuted,
)
from amino.kernel.context import ReplicaContext
from amino.kernel.host_parts import Parts
from amino.kernel.object import KernelObject
from amino.kernel.running import Running
from amino.kernel.wheel import TimerWheel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from amino.contracts.services import (
        Fence,
    )
    from amino.kernel.confirm import Confirmer
    from amino.kernel.dispatcher import Dispatcher
    from amino.kernel.groups import Groups
    from amino.kernel.surroundings import Surroundings, Validity
    from amino.rpc.port import Inbound

_log = logging.getLogger("amino.kernel")
FENCES_MAX = 16_384


class Hosted:
    """The kernel objects here."""

    if TYPE_CHECKING:  # of the class that this is a part of

        def _handle_own(self, inbound: Inbound) -> None: ...

    def __init__(
        self, *, parts: Parts, surroundings: Surroundings, confirmer: Confirmer, validity: Validity, groups: Groups
    ) -> None:
        self._parts = parts
        self.groups = groups
        self._around = surroundings
        self._confirmer = confirmer
        self._validity = validity
        self._objects: dict[tuple[str, str], KernelObject] = {}
        self._contexts: dict[tuple[str, str], ReplicaContext] = {}
        self._revisions: dict[tuple[str, str], int] = {}
        self._fences: dict[tuple[str, str], tuple[int, int]] = {}
        self._locks: KeyedLocks[tuple[str, str]] = KeyedLocks()
        self._stages: dict[tuple[str, str], str] = {}  # how far the command that holds a lock got
        self.dispatcher: Dispatcher | None = None
        self.wheel = TimerWheel(self.find, self._handle_own, surroundings.clock)
        self.commands = TaskOwner(f"commands to {surroundings.server}")

    def __len__(self) -> int:
        return len(self._objects)

    def objects(self) -> list[KernelObject]:
        """Return all kernel objects here."""
        return list(self._objects.values())

    def with_contexts(self) -> list[tuple[KernelObject, ReplicaContext]]:
        """Return all kernel objects here with their contexts; from any thread."""
        return [
            (target, context)
            for place, target in list(self._objects.items())
            if (context := self._contexts.get(place)) is not None
        ]

    def find(self, microservice: str, path: str) -> KernelObject | None:
        """Return the kernel object of a group's replica here, if any."""
        return self._objects.get((microservice, path))

    @asynccontextmanager
    async def _in_turn(self, place: tuple[str, str], command: str) -> AsyncIterator[None]:
        """Hold the lock of a group for a command; one that takes long says so, with the stage that it got to."""

        def doing() -> str:
            return f"{command} {place[0]}{place[1]}: {self._stages.get(place, 'begun')}" if mine else waiting

        mine, waiting = False, f"{command} {place[0]}{place[1]}: waiting for the command before it"
        with told_if_overdue(_log, doing):
            async with self._locks.hold(place):
                mine = True
                try:
                    yield
                finally:
                    self._stages.pop(place, None)

    def _check(self, place: tuple[str, str], fence: Fence) -> None:
        self._check_session()
        seen = self._fences.get(place, (0, 0))
        given = (fence.leader_revision, fence.document_revision)
        if given < seen:
            raise NotExecuted(
                f"a command with fence {given} for {place[0]}{place[1]} is older than {seen}; a newer leader decides",
                reason="fenced",
            )
        self._note_fence(place, given)

    def _check_session(self) -> None:
        if not self._validity.valid():
            raise NotExecuted(f"{self._around.server} cannot prove its session and takes no commands", reason="fenced")

    def _note_fence(self, place: tuple[str, str], given: tuple[int, int]) -> None:
        self._fences[place] = given
        if len(self._fences) > FENCES_MAX + len(self._objects):
            for old in itertools.islice((each for each in self._fences if each not in self._objects), 1):
                del self._fences[old]

    def _invocation(self, target: KernelObject, method: str) -> Running:
        return Running(self._around, target, method)

    async def _drop(self, place: tuple[str, str], *, destroy: bool) -> None:
        """End a replica: briefly wait for running calls, then let none of the rest answer."""
        target = self._objects.get(place)
        if target is None:
            return
        if target.state == "serving":
            self._stages[place] = "waiting for calls to end"
            try:
                await target.seal(limits.QUIESCE_TIMEOUT_S)
            except TimeoutError:
                target.revoked = True
                target.leave({})
        if destroy:
            await target.chain.on_destroy()
        await self._forget(place, {})

    async def _forget(self, place: tuple[str, str], moved_to: dict[str, Any]) -> None:
        target = self._objects.pop(place, None)
        self._revisions.pop(place, None)
        if target is None:
            return
        self.groups.remove(target)
        idle = not target.in_flight
        if target.state != "gone":
            target.leave(moved_to)
        self._stages[place] = "stopping its managers"
        await target.chain.on_stop()
        context = self._contexts.pop(place, None)
        if context is not None:
            await context.aclose()
        if idle:  # else calls that can answer no more still run in it
            target.release_instance()

    async def _begin(self, target: KernelObject) -> None:
        """Start the components of a replica that is confirmed, and so serves whatever they say."""
        if target.chain.watches_group:
            self.groups.add(self._contexts[target.microservice, target.path].of_group)
        self._stages[target.microservice, target.path] = "starting its managers"
        try:
            await target.chain.on_start()
        except Exception as error:  # noqa: BLE001 - a manager's fault, which its owner must hear of
            _log.exception("a component of %s failed to start", target.microservice)
            self._parts.event("component-failed", target.microservice, f"on_start: {type(error).__name__}: {error}")

    async def _discard(self, place: tuple[str, str]) -> None:
        try:
            await self._forget(place, {})
        except Exception:  # noqa: BLE001 - the error that led here is the one to report
            _log.exception("dropping a replica of %s that did not come to be failed", place[0])
