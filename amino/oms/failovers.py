"""A failover is a trace: lost, detected, elected, placed, restored.

Owns following each lost incarnation until all it held is settled, and telling telemetry. Leaves recovery itself to
``leader``.
Invariants: the trace's id is derived from the lost incarnation, so that all servers add to the same one; the root span
and the metric are recorded by the leader of the slot that the lost server's name falls in, once: a claim in etcd outlives
its leadership.
Failure behaviour: never in the way of recovery; a reporter that dies takes the root span with it; while etcd does not say who
has claimed it, it is told, perhaps twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import GroupDocument, ReplicaDocument, Tombstone
from amino.coordination.keys import Keys
from amino.coordination.store import Put, Store, absent
from amino.errors import AminoError
from amino.ids import slot_of
from amino.oms.directory import Directory, Host
from amino.oms.group_machine import state_of
from amino.telemetry import names
from amino.telemetry.trace import NO_SPAN, Attributes, Span, Telemetry, failover_traceparent

FOLLOWED_MAX = 64
CLAIMED_FOR_S = 300
"""How long a claim stays; by then nobody would tell of that loss any more."""
TOLD_WITHIN_S = 60
"""Who comes to lead the slot later than this after all was settled leaves it untold, or to him who has told it."""
SETTLED = frozenset({"active", "lost", "quarantined"})


@dataclass(slots=True)
class _Followed:
    detected_ns: int
    waiting: set[str]
    reported: bool
    settled_ns: int = 0


class Failovers:
    """Follows the losses that this server hears of.

    Args:
        store: for claims. keys: the cluster's; its name is part of the traces' ids.
        leads: whether this server leads a slot now.
        proof: finds the tombstone of a lost incarnation, None if it has none.
    """

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        directory: Directory,
        clock: Clock,
        telemetry: Telemetry,
        leads: Callable[[int], bool],
        proof: Callable[[str, int], Awaitable[Tombstone | None]],
    ) -> None:
        self._store = store
        self._keys = keys
        self._cluster = keys.cluster_name
        self._directory = directory
        self._clock = clock
        self._telemetry = telemetry
        self._leads = leads
        self._proof = proof
        self._tasks = TaskOwner("failovers")
        self._followed: OrderedDict[Host, _Followed] = OrderedDict()
        if telemetry.tracing or telemetry.metering:
            directory.on_loss(self._lost)
            directory.on_group(self._changed)

    async def aclose(self) -> None:
        """Give up what is not told yet. Idempotent."""
        await self._tasks.aclose()

    def __repr__(self) -> str:
        return f"Failovers({len(self._followed)} followed)"

    def now_ns(self) -> int:
        """Return the wall clock in nanoseconds, as spans want it."""
        return int(self._clock.wall() * 1e9)

    def trace_of(self, name: str, incarnation: int) -> str:
        """Return the traceparent for documents that are placed anew because of this loss; empty while tracing is off."""
        return failover_traceparent(self._cluster, name, incarnation) if self._telemetry.tracing else ""

    def placed(self, ms_id: str, host: Host, document: GroupDocument) -> None:
        """The new placement of an object of ``host`` has been written."""
        followed = self._followed.get(host)
        if followed is not None and self._telemetry.tracing:
            self._telemetry.emit(
                names.FAILOVER_PLACED,
                start_ns=followed.detected_ns,
                end_ns=self.now_ns(),
                parent=document.trace,
                attributes=_attributes(ms_id, document),
            )

    def restored(self, ms_id: str, began_ns: int, document: GroupDocument) -> None:
        """An object that was placed anew serves again; its command was sent at ``began_ns``."""
        if document.trace and self._telemetry.tracing:
            self._telemetry.emit(
                names.FAILOVER_RESTORED,
                start_ns=began_ns,
                end_ns=self.now_ns(),
                parent=document.trace,
                attributes=_attributes(ms_id, document),
            )

    def placing(self, ms_id: str, document: GroupDocument, replica: ReplicaDocument, source: str) -> Span:
        """Return the span of one replica's placing: of the failover that it is part of, else of whatever runs now."""
        if not self._telemetry.tracing:
            return NO_SPAN
        recovers = document.trace and source != "join" and (document.constructed or source != "construct")
        attributes: Attributes = {
            names.MICROSERVICE: ms_id,
            names.SERVER: replica.server,
            names.REPLICA: replica.id,
            names.EPOCH: document.epoch,
            names.OPERATION: source,
        }
        return self._telemetry.span(names.PLACE, parent=document.trace if recovers else None, attributes=attributes)

    def electing(self, server: str, slot: int) -> Span:
        """Return the span of an election: a trace of its own, linked to the failover that it is part of."""
        if not self._telemetry.tracing:
            return NO_SPAN
        span = self._telemetry.span(names.ELECTION, parent="", attributes={names.SLOT: slot, names.SERVER: server})
        host = self._directory.led_before.get(slot)
        if host is not None and host in self._followed:
            span.link(self.trace_of(*host))
        return span

    def elected(self, slot: int) -> None:
        """This server leads ``slot`` from now on; if that is because of a loss, its trace shows it."""
        host = self._directory.led_before.get(slot)
        followed = self._followed.get(host) if host is not None else None
        if host is not None and followed is not None and self._telemetry.tracing:
            self._telemetry.emit(
                names.FAILOVER_ELECTED,
                start_ns=followed.detected_ns,
                end_ns=self.now_ns(),
                parent=self.trace_of(*host),
                attributes={names.SLOT: slot},
            )
        for lost, one in list(self._followed.items()):
            recent = self.now_ns() - one.settled_ns <= TOLD_WITHIN_S * 1e9
            if slot_of(lost[0]) == slot and not one.waiting and recent:
                self._finish(lost, one)

    def _lost(self, name: str, incarnation: int) -> None:
        host = (name, incarnation)
        held = set(self._directory.hosted(*host))
        self._followed[host] = _Followed(self.now_ns(), held, reported=not held)
        while len(self._followed) > FOLLOWED_MAX:
            self._followed.popitem(last=False)

    def _changed(self, ms_id: str, _path: str) -> None:
        for host, followed in list(self._followed.items()):
            if ms_id not in followed.waiting:
                continue
            found = self._directory.group(ms_id)
            if found is not None:
                there = any((one.server, one.incarnation) == host for one in found.document.replicas)
                if there or state_of(found.document) not in SETTLED:
                    continue
            followed.waiting.discard(ms_id)
            if not followed.waiting:
                followed.settled_ns = self.now_ns()
                self._finish(host, followed)

    def _finish(self, host: Host, followed: _Followed) -> None:
        """Everything the incarnation held is settled: tell of it, if that is ours to do."""
        name = host[0]
        if followed.reported or not self._leads(slot_of(name)):
            return
        followed.reported = True
        self._tasks.spawn(self._tell(host, followed, self.now_ns()), f"tell of {name}")

    async def _tell(self, host: Host, followed: _Followed, end_ns: int) -> None:
        name, incarnation = host
        if not await self._claim(name, incarnation):
            return
        try:
            tombstone = await self._proof(name, incarnation)
        except AminoError:  # etcd does not say now; that it was lost is known all the same
            tombstone = None
        kind = _kind_of(tombstone)
        lost_ns = followed.detected_ns
        if tombstone is not None and tombstone.detected_at > 0:
            lost_ns = min(lost_ns, int(tombstone.detected_at * 1e9))
        self._telemetry.metrics.failover(kind, (end_ns - lost_ns) / 1e9)
        if self._telemetry.tracing:
            parent = self.trace_of(name, incarnation)
            attributes: dict[str, str | bool | int | float] = {names.SERVER: name, names.INCARNATION: incarnation}
            self._telemetry.emit(
                names.FAILOVER_LOST, start_ns=lost_ns, end_ns=lost_ns, parent=parent, attributes=attributes
            )
            self._telemetry.emit(
                names.FAILOVER_DETECTED,
                start_ns=lost_ns,
                end_ns=followed.detected_ns,
                parent=parent,
                attributes=attributes,
            )
            self._telemetry.emit_failover(self._cluster, name, incarnation, kind=kind, start_ns=lost_ns, end_ns=end_ns)

    async def _claim(self, name: str, incarnation: int) -> bool:
        """Return whether nobody else has told of this loss; on doubt nobody has."""
        key = self._keys.told(name, incarnation)
        try:
            lease = await self._store.grant(CLAIMED_FOR_S)
            return (await self._store.txn([absent(key)], [Put(key, b"", lease)])).succeeded
        except AminoError:
            return True


def _attributes(ms_id: str, document: GroupDocument) -> Attributes:
    return {
        names.MICROSERVICE: ms_id,
        names.SERVER: document.replicas[0].server if document.replicas else "",
        names.EPOCH: document.epoch,
    }


def _kind_of(tombstone: Tombstone | None) -> str:
    if tombstone is None or "lease" in tombstone.cause:
        return "expiry"
    return "hang" if "hung" in tombstone.cause else "crash"
