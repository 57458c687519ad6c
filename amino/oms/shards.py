"""Carries out the steps of a group of shards: makes and removes the groups below, and has the shards move keys.

Owns those steps and the messages of a change of shards, which run beside everything else: a shard that fails meanwhile is
recovered, and the messages to it repeated. Leaves deciding to ``shard_machine`` and what shards do to their manager.
Invariants: every write compares the root group's document; messages may be repeated at any point, by any leader.
Failure behaviour: what does not succeed is tried again with the next look at the microservice.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from amino.aio.tasks import TaskOwner
from amino.contracts.documents import GroupDocument
from amino.contracts.levels import leaf, sharding
from amino.errors import AminoError, NoEligibleServer
from amino.oms import group_machine as machine
from amino.oms import shard_machine
from amino.oms.shard_machine import CreateChild, RemoveChild, Reshard, path_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.sharding import Transition
    from amino.oms.directory import Found
    from amino.oms.hand import Work
    from amino.oms.leader import Leader

_log = logging.getLogger("amino.oms")
MESSAGE_TIMEOUT_S = 20.0
RETRY_S = 0.1


class Messenger(Protocol):
    """Sends messages to the components of a microservice's managers, as calls."""

    async def message(
        self, microservice: str, path: str, manager: str, topic: str, payload: Any, timeout_s: float
    ) -> Any:
        """Return what the component at ``path`` answers; repeats what was not executed. Raises ``AminoError``."""
        ...


class Shards:
    """The groups of shards whose slots this server leads.

    Args:
        leader: whose hand this is. messenger: reaches the shards; set before anything is sharded.
    """

    def __init__(self, leader: Leader) -> None:
        self._leader = leader
        self.messenger: Messenger | None = None
        self._moving: dict[str, tuple[int, asyncio.Task[None]]] = {}
        self._moved: dict[str, int] = {}
        self._tasks = TaskOwner("shards")

    def __repr__(self) -> str:
        return f"Shards({len(self._moving)} changing)"

    async def aclose(self) -> None:
        """End what is under way; a successor goes on. Idempotent."""
        await self._tasks.aclose()

    def children(self, ms_id: str) -> dict[str, Found]:
        """Return the groups below the root that exist, by name."""
        directory = self._leader.directory
        found = ((path, directory.group(ms_id, path)) for path in directory.paths(ms_id))
        return {path[1:]: one for path, one in found if one is not None}

    def next_step(self, ms_id: str, document: GroupDocument) -> shard_machine.ShardStep:
        """Return what is to be done next."""
        children = {name: one.document for name, one in self.children(ms_id).items()}
        return shard_machine.next_step(document, children, paused=self._leader.directory.cluster.paused)

    async def step(self, work: Work, found: Found) -> str | None:
        """Do the next step; as ``Leader._step``."""
        step = self.next_step(work.ms_id, found.document)
        match step:
            case machine.Done():
                return ""
            case machine.Wait(why):
                return why
            case CreateChild(name):
                return await self._create(work, found, name)
            case RemoveChild(name):
                return await self._remove(work, found, name)
            case machine.Write(document, _, why):
                work.found = await self._leader.writes.replace(work.ms_id, work.path, found, document)
                self._leader.events.add("shards", work.ms_id, text=why)
                return None
            case Reshard(transition, document):
                return await self._reshard(work, found, transition, document)
        raise AssertionError(step)

    async def _create(self, work: Work, found: Found, name: str) -> str | None:
        leader, record = self._leader, work.record
        assert record is not None, "the machine deletes what has no record"
        path = path_of(name)
        needs_store = leader.chains.needs_store(record.spec)
        level = leaf(leader.chains.levels(record.spec))
        document = GroupDocument(
            kind=level.kind if level is not None else "",
            wanted=level.members if level is not None else 1,
            min_in_sync=level.min_in_sync if level is not None else 1,
            regions=level.regions if level is not None else (),
            preferred_region=level.preferred_region if level is not None else "",
            devices=level is not None and level.devices,
            store_id=found.document.store_id,
        )
        try:
            choice = leader.choose(
                work.ms_id, record, leader.demand(work.ms_id, record, document, work.avoid, path=path)
            )
        except NoEligibleServer as error:
            if not found.document.constructed:
                return await leader.undo(work, found, error)
            return str(error)
        document = leader.with_store(document, choice.server.store_id if needs_store else "")
        replica = leader.replica_at(choice.server, document.epoch, "construct")
        document = machine.placed(document, replica, choice.explanation, first=True)
        with leader.directory.reserve(replica.server):
            await leader.writes.begin_child(work.ms_id, found, path, document)
        return None

    async def _remove(self, work: Work, found: Found, name: str) -> str | None:
        leader, path = self._leader, path_of(name)
        child = await leader.writes.read(work.ms_id, path)
        if child is None:
            return None
        for replica in machine.everywhere(child.document):
            if leader.directory.lives(replica.server, replica.incarnation):
                problem = await leader.retire(work.ms_id, path, child, replica, destroy=True)
                if problem:
                    return problem
        await leader.writes.remove_child(work.ms_id, found, path, child)
        return None

    # --- moving keys ------------------------------------------------------------------------------------------------

    async def _reshard(self, work: Work, found: Found, transition: Transition, document: GroupDocument) -> str | None:
        ms_id = work.ms_id
        if self._moved.get(ms_id) == transition.version:
            work.found = await self._leader.writes.replace(ms_id, work.path, found, document)
            del self._moved[ms_id]
            self._leader.events.add("resharded", ms_id, text=f"shards {', '.join(transition.after)}")
            self._tasks.spawn(self._tell_end(work, transition), "end")
            return None
        version, task = self._moving.get(ms_id, (0, None))
        if task is None or task.done() or version != transition.version:
            level = sharding(self._leader.chains.levels(work.record.spec)) if work.record is not None else None
            assert level is not None, "only a chain with a manager of shards has shards"
            task = self._tasks.spawn(self._move(ms_id, level.manager, transition), f"reshard {ms_id}")
            self._moving[ms_id] = transition.version, task
            task.add_done_callback(lambda _: self._moving.pop(ms_id, None))
        return f"keys move from shards {', '.join(transition.before)} to {', '.join(transition.after)}"

    async def _move(self, ms_id: str, manager: str, transition: Transition) -> None:
        """Have the shards move their keys, however often it takes; ends when it is done."""
        send = self._sender(ms_id, manager)
        while True:
            try:
                await move_keys(send, transition)
            except (AminoError, TimeoutError) as error:
                _log.info("moving keys of %s goes on: %s", ms_id, error)
                await asyncio.sleep(RETRY_S)
                continue
            self._moved[ms_id] = transition.version
            if self._leader.on_wait is not None:
                self._leader.on_wait(ms_id, "its keys have moved")
            return

    async def _tell_end(self, work: Work, transition: Transition) -> None:
        level = sharding(self._leader.chains.levels(work.record.spec)) if work.record is not None else None
        if level is None:
            return
        send = self._sender(work.ms_id, level.manager)
        for name in transition.after:
            try:
                await send(name, "end", transition.version)
            except (AminoError, TimeoutError) as error:  # it only holds memory; the next change ends this one
                _log.info("shard %s of %s was not told that its keys have moved: %s", name, work.ms_id, error)

    def _sender(self, ms_id: str, manager: str) -> Callable[[str, str, Any], Any]:
        messenger = self.messenger
        assert messenger is not None, "set before anything is sharded"

        async def send(name: str, topic: str, payload: Any) -> Any:
            return await messenger.message(ms_id, path_of(name), manager, topic, payload, MESSAGE_TIMEOUT_S)

        return send


async def move_keys(send: Callable[[str, str, Any], Any], transition: Transition) -> None:
    """Send the messages of one change of shards; each may be repeated.

    ``begin`` tells every shard of the change; ``hand_over`` makes a shard give up what is no longer its own and tells how
    many parts there are for whom; ``part`` reads one, ``take`` gives it to its new owner.
    """
    every = sorted({*transition.before, *transition.after}, key=int)
    change = (transition.before, transition.after, transition.version)
    await asyncio.gather(*(send(name, "begin", change) for name in every))
    for source in transition.before:
        handed: dict[str, int] = await send(source, "hand_over", transition.version)
        for target, parts in handed.items():
            for number in range(parts):
                content = await send(source, "part", (transition.version, target, number))
                await send(target, "take", (transition.version, source, number, parts, content))
