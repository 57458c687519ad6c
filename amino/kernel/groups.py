"""The groups of which this server has replicas: their documents, messages between replicas, heartbeats between servers.

Owns what a component sees of its group, and one heartbeat per pair of servers for all groups they share. Leaves what
documents and acknowledgements mean to the components, and deciding about groups to slot leaders.
Invariants: a group is never shown older than seen before; an acknowledgement names the incarnation that gave it, and the
time is that of sending.
Failure behaviour: a heartbeat that fails is a heartbeat that was not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Protocol

from amino.contracts.services import HeartbeatReply, HeartbeatRequest, NotifyRequest
from amino.errors import AminoError, NotExecuted

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.aio.clock import Clock
    from amino.aio.tasks import TaskOwner
    from amino.contracts.documents import GroupDocument, ReplicaDocument
    from amino.contracts.services import Kernel
    from amino.kernel.confirm import Confirmer
    from amino.kernel.object import KernelObject

_log = logging.getLogger("amino.kernel")
HEARTBEAT_S = 0.1
"""Seconds between heartbeats to a server; a read lease must be several times longer."""

Place = tuple[str, str]


class Members(Protocol):
    """What is known of the cluster's servers and groups; the OMS's directory."""

    def group_seen(self, microservice: str, path: str) -> tuple[GroupDocument, int] | None:
        """Return a group's document and revision."""
        ...

    def address_of(self, server: str, incarnation: int) -> str | None:
        """Return the peer link address of a live incarnation."""
        ...

    def lives(self, server: str, incarnation: int) -> bool:
        """Return whether that incarnation is the server's present one."""
        ...

    async def proven_dead(self, server: str, incarnation: int) -> bool:
        """Return whether that incarnation has a tombstone. Raises ``CoordinationUnavailable``."""
        ...


class Group:
    """One group, as the components of its replica here see it."""

    def __init__(self, owner: Groups, target: KernelObject, seen: tuple[GroupDocument, int]) -> None:
        self._owner = owner
        self.target = target
        self.seen = seen
        self.epoch: int | None = None
        self.heard_ns = 0

    def lives(self, server: str, incarnation: int) -> bool:
        """Return whether that incarnation lives."""
        return self._owner.members.lives(server, incarnation)

    async def proven_dead(self, server: str, incarnation: int) -> bool:
        """Return whether that incarnation has a tombstone."""
        return await self._owner.members.proven_dead(server, incarnation)

    def session_valid(self) -> bool:
        """Return whether this server may act."""
        return self._owner.valid()

    async def edit(self, document: GroupDocument, revision: int) -> tuple[bool, GroupDocument | None, int]:
        """Write the document; see ``ServerContext.edit_group``."""
        key = self._owner.group_key(self.target.microservice, self.target.path)
        done, found, at = await self._owner.confirmer.edit(key, document, revision)
        if found is not None and at > self.seen[1]:
            self.seen = found, at
            self._owner.tell(self)  # the watch brings nothing newer, and others may have changed it before
        return done, found, at

    async def notify(
        self, manager: str, replica: ReplicaDocument, topic: str, payload: bytes, timeout_s: float
    ) -> bytes:
        """Have a component at another replica handle a message."""
        target = self.target
        address = self._owner.members.address_of(replica.server, replica.incarnation)
        if address is None:
            raise NotExecuted(f"server {replica.server}@{replica.incarnation} is gone", reason="unreachable")
        request = NotifyRequest(target.microservice, target.path, replica.id, manager, topic)
        async with asyncio.timeout(timeout_s):
            reply = await self._owner.kernel_at(address).notify(request, memoryview(payload))
        return reply.payload

    def post(
        self,
        manager: str,
        replica: ReplicaDocument,
        topic: str,
        payload: bytes,
        timeout_s: float,
        on_answer: Callable[[bytes], None],
    ) -> bool:
        """As ``notify``, but never waits: ``on_answer`` gets the answer if there is one. Returns whether it was sent."""
        address = self._owner.members.address_of(replica.server, replica.incarnation)
        if address is None:
            return False
        target = self.target
        request = NotifyRequest(target.microservice, target.path, replica.id, manager, topic)
        return self._owner.post(address, request, payload, on_answer, timeout_s)

    def beat(self, epoch: int | None) -> None:
        """Send heartbeats as the primary at ``epoch``."""
        self.epoch = epoch
        if epoch is not None:
            self._owner.hurry()

    def peers(self) -> list[tuple[str, int]]:
        """Return the servers of the other replicas, in the document's order: a simulation has one history."""
        return [(one.server, one.incarnation) for one in self.seen[0].replicas if one.id != self.target.replica]


class Groups:
    """All groups of which this server has replicas whose components want to know.

    Args:
        me: this server's name and incarnation.
        post: sends a notification to the kernel at an address without waiting, with who gets the answer and a time-out in
            seconds; returns whether it was sent.
        valid: whether the session is valid.
    """

    def __init__(
        self,
        *,
        me: tuple[str, int],
        members: Members,
        confirmer: Confirmer,
        kernel_at: Callable[[str], Kernel],
        post: Callable[[str, NotifyRequest, bytes, Callable[[bytes], None], float], bool],
        group_key: Callable[[str, str], str],
        valid: Callable[[], bool],
        clock: Clock,
        tasks: TaskOwner,
    ) -> None:
        self._me = me
        self.members = members
        self.confirmer = confirmer
        self.kernel_at = kernel_at
        self.post = post
        self.group_key = group_key
        self.valid = valid
        self._clock = clock
        self._tasks = tasks
        self._groups: dict[Place, Group] = {}
        self._beating: asyncio.Task[None] | None = None
        self._soon = asyncio.Event()
        self._busy: set[tuple[str, int]] = set()

    def __repr__(self) -> str:
        return f"Groups({len(self._groups)})"

    def open(self, target: KernelObject, document: GroupDocument, revision: int) -> Group:
        """Return the group of a replica that is being made here."""
        seen = self.members.group_seen(target.microservice, target.path)
        newest = seen if seen is not None and seen[1] > revision else (document, revision)
        return Group(self, target, newest)

    def add(self, group: Group) -> None:
        """Tell the group's components what happens from now on; they see what has happened up to now."""
        target = group.target
        self._groups[(target.microservice, target.path)] = group
        seen = self.members.group_seen(target.microservice, target.path)
        if seen is not None and seen[1] > group.seen[1]:
            group.seen = seen

    def remove(self, target: KernelObject) -> None:
        """Tell them no more. Idempotent."""
        place = (target.microservice, target.path)
        found = self._groups.get(place)
        if found is not None and found.target is target:
            del self._groups[place]

    def changed(self, microservice: str, path: str) -> None:
        """A group's document changed, as far as this server has heard."""
        group = self._groups.get((microservice, path))
        seen = self.members.group_seen(microservice, path) if group is not None else None
        if group is None or seen is None or seen[1] <= group.seen[1]:
            return
        if seen[0].epoch > group.seen[0].epoch:
            group.heard_ns = int(self._clock.wall() * 1e9)
        group.seen = seen
        self.tell(group)

    def tell(self, group: Group) -> None:
        """Have the group's components obey the document that is seen now."""
        self._tasks.spawn(self._tell(group), "group changed")

    async def _tell(self, group: Group) -> None:
        try:
            await group.target.chain.on_member_change()
        except AminoError as error:
            _log.warning("a component of %s did not take a change of its group: %s", group.target.microservice, error)

    def lost(self, server: str, incarnation: int) -> None:
        """An incarnation is gone, as far as this server has heard."""
        for group in list(self._groups.values()):
            group.target.chain.on_server_lost(server, incarnation)

    # --- heartbeats -------------------------------------------------------------------------------------------------

    def answer(self, request: HeartbeatRequest) -> HeartbeatReply:
        """Acknowledge another server's heartbeat; see ``contracts.services.Kernel.heartbeat``."""
        uncovered = []
        for place, (microservice, path, epoch) in enumerate(request.groups):
            group = self._groups.get((microservice, path))
            if group is None or not group.target.chain.on_heartbeat(request.server, request.incarnation, epoch):
                uncovered.append(place)
        return HeartbeatReply(*self._me, tuple(uncovered))

    def hurry(self) -> None:
        """Begin to send, or send at once."""
        self._soon.set()
        if self._beating is None or self._beating.done():
            self._beating = self._tasks.spawn(self._beat(), "heartbeats")

    async def _beat(self) -> None:
        while any(group.epoch is not None for group in self._groups.values()):
            self._soon.clear()
            for peer, groups in self._shared().items():
                if peer not in self._busy:
                    self._tasks.spawn(self._ask(peer, groups), f"heartbeat to {peer[0]}")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._soon.wait()

    def _shared(self) -> dict[tuple[str, int], list[Group]]:
        shared: dict[tuple[str, int], list[Group]] = {}
        for group in self._groups.values():
            if group.epoch is not None:
                for peer in dict.fromkeys(group.peers()):
                    shared.setdefault(peer, []).append(group)
        return shared

    async def _ask(self, peer: tuple[str, int], groups: list[Group]) -> None:
        address = self.members.address_of(*peer)
        if address is None or not self.valid():
            return
        named = [(each.target.microservice, each.target.path, each.epoch or 0) for each in groups]
        self._busy.add(peer)
        sent_at = self._clock.boottime()
        try:
            async with asyncio.timeout(HEARTBEAT_S * 4):
                reply = await self.kernel_at(address).heartbeat(HeartbeatRequest(*self._me, tuple(named)))
        except (AminoError, TimeoutError):
            return
        finally:
            self._busy.discard(peer)
        missed = set(reply.uncovered)
        for place, group in enumerate(groups):
            if place not in missed and group.epoch == named[place][2]:
                group.target.chain.on_acknowledged(reply.server, reply.incarnation, sent_at)
