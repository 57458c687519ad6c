"""``Oms``: the object management service of one kernel server, put together.

Owns wiring its parts and their order of start and stop. Leaves the election, the session and the transports to whoever
composes the server.
Invariants: everything started is stopped by ``aclose``; nothing here is shared by two servers of a process.
Failure behaviour: as its parts.
"""

from __future__ import annotations

import asyncio
import random as random_module
from collections.abc import Callable, Sequence

from amino.aio.clock import Clock
from amino.contracts.documents import ServerRecord, decode
from amino.contracts.services import KernelCaller, Membership, RegistryCaller
from amino.coordination.keys import Keys
from amino.coordination.store import Compare, Record, Store
from amino.errors import Conflict, Invalid
from amino.oms.changing import Changes
from amino.oms.commands import Commands
from amino.oms.directory import Directory
from amino.oms.events import EventLog
from amino.oms.failovers import Failovers
from amino.oms.finding import Finder
from amino.oms.housekeeping import Housekeeping
from amino.oms.leader import Leader
from amino.oms.locating import Locator
from amino.oms.lock_service import LockService
from amino.oms.operations import Operations
from amino.oms.ports import Blobs, Chains, Election, Maker, SlotGuards, Writer
from amino.oms.reach import Reach
from amino.oms.reconciler import Reconciler
from amino.oms.records import Records
from amino.oms.registry import RegistryService
from amino.oms.writes import Writes
from amino.telemetry.trace import Telemetry

ELECTED_S = 1.0
"""How long elections are gathered before they are told: at a start, or after a loss, a server is elected for many slots."""


def ranges(numbers: Sequence[int]) -> str:
    """Return ascending numbers in few words: ``0-7, 9``. Pure."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


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
        valid: whether this server's session is valid; what is answered from memory alone depends on it.

    Attributes:
        registry: what this server offers to clients and other servers.
        reach: whether this server reaches the others; the election's ``aside``.
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
        valid: Callable[[], bool] = lambda: True,
    ) -> None:
        self._name = name
        self._guards = _Bound()
        self.directory = Directory(store, keys, clock, random)
        self._records = Records(store, keys)
        self.events = EventLog(store, keys, clock)
        self._commands = Commands(store, keys, self.directory, kernels)
        self.reach = Reach(name, self.directory, kernels)
        self._commands.on_silence = self.reach.doubt
        writes = Writes(store, writer, keys, self.directory, self._guards)
        self._led: set[int] = set()
        self._gained: list[int] = []
        self._gains_told: asyncio.TimerHandle | None = None
        self._failovers = Failovers(
            store=store,
            keys=keys,
            directory=self.directory,
            clock=clock,
            telemetry=telemetry or Telemetry.disabled(),
            leads=self._led.__contains__,
            proof=self._commands.proof,
        )
        self.leader = Leader(
            server=name,
            directory=self.directory,
            records=self._records,
            writes=writes,
            commands=self._commands,
            reach=self.reach,
            chains=chains,
            blobs=blobs,
            events=self.events,
            failovers=self._failovers,
            random=random,
        )
        self.reconciler = Reconciler(self.leader, random, self._led)
        self._housekeeping = Housekeeping(
            store=store, keys=keys, leader=self.leader, kernels=kernels, led=self._led, wall=clock.wall
        )
        self._finder = Finder(store, keys, self.directory, self._records)
        locator = Locator(self.directory, self._records, writes, clock)
        self._locks = LockService(
            store=store, writer=writer, keys=keys, guards=self._guards, clock=clock, valid=valid,
            counts_from=lambda: self.directory.cluster.counts_from,
        )  # fmt: skip
        operations = Operations(self.leader, clock)
        self.registry = RegistryService(
            server=name,
            leads=self._led.__contains__,
            store=store,
            keys=keys,
            clock=clock,
            directory=self.directory,
            records=self._records,
            operations=operations,
            changes=Changes(self.leader, operations, clock),
            locator=locator,
            finder=self._finder,
            events=self.events,
            blobs=blobs,
            caller=peers,
            locks=self._locks,
            telemetry=telemetry or Telemetry.disabled(),
        )

    def __repr__(self) -> str:
        return f"Oms({self._name}, {self.reconciler!r})"

    @property
    def records(self) -> Records:
        """The records of microservices, read when needed."""
        return self._records

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
        self.reach.on_change = lambda found: self._reach_changed(found, election)

    def _reach_changed(self, found: str, election: Election) -> None:
        self.events.add("stands-aside" if self.reach.aside() else "reaches-others", server=self._name, text=found)
        election.notice()

    def make_with(self, maker: Maker) -> None:
        """Have ``maker`` make here, from now on, what needs one write only."""
        self.leader.maker = maker

    def membership(self) -> Membership:
        """Return the live servers as known now."""
        return self._finder.members()

    def may_lead(self, record: Record) -> bool:
        """Return whether the server of a ``servers/`` record may lead slots: the election's ``eligible``.

        Devices never do; servers whose release knows less than another's, and cordoned ones, while no other may.
        """
        try:
            server = decode(record.value, ServerRecord, record.key)
        except Invalid:
            return False
        cordoned = self.directory.cluster.cordoned

        def rank(one: ServerRecord) -> tuple[int, bool]:
            return one.format_read, one.name not in cordoned

        others = [other.record for other in self.directory.servers() if not other.record.device]
        return not server.device and all(rank(server) >= rank(other) for other in others)

    async def slot_gained(self, slot: int) -> None:
        """The election's ``on_gained``."""
        self._tell_elected(slot)
        with self._failovers.electing(self._name, slot):
            await self.reconciler.slot_gained(slot)
        self._failovers.elected(slot)
        self._housekeeping.slot_gained(slot)
        self._locks.slot_gained(slot)

    def _tell_elected(self, slot: int) -> None:
        """Note the election, of many slots at once as one event."""
        self._gained.append(slot)
        if self._gains_told is None:
            self._gains_told = asyncio.get_running_loop().call_later(ELECTED_S, self._elected)

    def _elected(self) -> None:
        self._gains_told = None
        gained, self._gained = sorted(set(self._gained)), []
        slots = "slot" if len(gained) == 1 else "slots"
        self.events.add("elected", server=self._name, text=f"leads {slots} {ranges(gained)} now")

    async def slot_lost(self, slot: int) -> None:
        """The election's ``on_lost``."""
        self._locks.slot_lost(slot)
        await self.reconciler.slot_lost(slot)

    async def aclose(self) -> None:
        """Stop everything; nothing is undone, a successor goes on. Idempotent."""
        if self._gains_told is not None:
            self._gains_told.cancel()
        await self._housekeeping.aclose()
        await self._locks.aclose()
        await self.reconciler.aclose()
        await self.leader.aclose()
        await self._failovers.aclose()
        await self.reach.aclose()
        await self._commands.aclose()
        await self._records.aclose()
        await self.events.aclose()
        await self.directory.aclose()
