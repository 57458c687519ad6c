"""``Oms``: the object management service of one kernel server, put together.

Owns wiring its parts and their order of start and stop. Leaves the election, the session and the transports to whoever
composes the server.
Invariants: everything started is stopped by ``aclose``; nothing here is shared by two servers of a process.
Failure behaviour: as its parts.
"""

from __future__ import annotations

import random as random_module

from amino.aio.clock import Clock
from amino.contracts.documents import ServerRecord, decode
from amino.contracts.services import KernelCaller, Membership, RegistryCaller
from amino.coordination.keys import Keys
from amino.coordination.store import Compare, Record, Store
from amino.errors import Conflict, Invalid
from amino.oms.commands import Commands
from amino.oms.directory import Directory
from amino.oms.events import EventLog
from amino.oms.failovers import Failovers
from amino.oms.finding import Finder
from amino.oms.housekeeping import Housekeeping
from amino.oms.leader import Leader
from amino.oms.locating import Locator
from amino.oms.operations import Operations
from amino.oms.ports import Blobs, Chains, Election, SlotGuards, Writer
from amino.oms.reconciler import Reconciler
from amino.oms.records import Records
from amino.oms.registry import RegistryService
from amino.oms.writes import Writes
from amino.telemetry.trace import Telemetry


class _Bound:
    """Slot guards that are bound after construction: the election needs the OMS's callbacks first."""

    def __init__(self) -> None:
        self.guards: SlotGuards | None = None

    def guard(self, slot: int) -> Compare:
        if self.guards is None:
            raise Conflict(f"slot {slot} is not led: the election has not begun", reason="not-leader")
        return self.guards.guard(slot)


class Oms:
    """One server's OMS.

    Make the ``SlotElection`` with ``slot_gained`` and ``slot_lost``, call ``lead_with`` with it; start this, then that.

    Args:
        name: this server's name.
        store: for reads and watches. writer: for guarded writes.
        kernels, peers: how other servers are reached (this one too).
        chains, blobs: what the layers above know.
        random: for ids and jitter.
        telemetry: off by default.

    Attributes:
        registry: what this server offers to clients and other servers.
        directory: the caches, for the election and for dropping links to lost servers (``on_loss``).
    """

    def __init__(
        self,
        *,
        name: str,
        store: Store,
        writer: Writer,
        keys: Keys,
        clock: Clock,
        random: random_module.Random,
        kernels: KernelCaller,
        peers: RegistryCaller,
        chains: Chains,
        blobs: Blobs,
        telemetry: Telemetry | None = None,
    ) -> None:
        self._name = name
        self._guards = _Bound()
        self.directory = Directory(store, keys, clock, random)
        self._records = Records(store, keys)
        self.events = EventLog(store, keys, clock)
        self._commands = Commands(store, keys, self.directory, kernels)
        writes = Writes(store, writer, keys, self.directory, self._guards)
        self._led: set[int] = set()
        self._failovers = Failovers(
            cluster=keys.cluster_name,
            directory=self.directory,
            clock=clock,
            telemetry=telemetry or Telemetry.disabled(),
            leads=self._led.__contains__,
            proof=self._commands.proof,
        )
        self.leader = Leader(
            directory=self.directory,
            records=self._records,
            writes=writes,
            commands=self._commands,
            chains=chains,
            blobs=blobs,
            events=self.events,
            failovers=self._failovers,
            random=random,
        )
        self.reconciler = Reconciler(self.leader, random, self._led)
        self._housekeeping = Housekeeping(store=store, keys=keys, leader=self.leader, kernels=kernels, led=self._led)
        self._finder = Finder(store, keys, self.directory, self._records)
        locator = Locator(self.directory, self._records, writes, clock)
        self.registry = RegistryService(
            server=name,
            leads=self._led.__contains__,
            store=store,
            keys=keys,
            clock=clock,
            directory=self.directory,
            records=self._records,
            operations=Operations(self.leader, clock),
            locator=locator,
            finder=self._finder,
            events=self.events,
            blobs=blobs,
            caller=peers,
            telemetry=telemetry or Telemetry.disabled(),
        )

    def __repr__(self) -> str:
        return f"Oms({self._name}, {self.reconciler!r})"

    async def start(self) -> None:
        """Fill the caches and begin to look after what is led here.

        Raises:
            CoordinationUnavailable: etcd did not answer; close this one and try again with a new one.
        """
        await self.directory.start()
        self.reconciler.start()
        self._housekeeping.start()

    def lead_with(self, election: Election) -> None:
        """Take the proofs of leadership from ``election`` from now on, and have it look at cordons."""
        self._guards.guards = election
        self.directory.on_members(election.notice)

    def membership(self) -> Membership:
        """Return the live servers as known now."""
        return self._finder.members()

    def may_lead(self, record: Record) -> bool:
        """Return whether the server of a ``servers/`` record may lead slots: the election's ``eligible``.

        Devices never do; a cordoned server only while every other is cordoned too.
        """
        try:
            server = decode(record.value, ServerRecord, record.key)
        except Invalid:
            return False
        cordoned = self.directory.cluster.cordoned
        if server.device or server.name not in cordoned:
            return not server.device
        live = self.directory.servers()
        return all(other.record.device or other.record.name in cordoned for other in live)

    async def slot_gained(self, slot: int) -> None:
        """The election's ``on_gained``."""
        await self.reconciler.slot_gained(slot)
        self._failovers.elected(slot)
        self._housekeeping.slot_gained(slot)

    async def slot_lost(self, slot: int) -> None:
        """The election's ``on_lost``."""
        await self.reconciler.slot_lost(slot)

    async def aclose(self) -> None:
        """Stop everything; nothing is undone, a successor goes on. Idempotent."""
        await self._housekeeping.aclose()
        await self.reconciler.aclose()
        await self.leader.aclose()
        await self._failovers.aclose()
        await self._commands.aclose()
        await self._records.aclose()
        await self.events.aclose()
        await self.directory.aclose()
