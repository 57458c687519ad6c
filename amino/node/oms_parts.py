"""The OMS of one kernel server, composed of its parts.

Owns which part gets which. Leaves what they do to ``amino.oms``.
Invariant: ``guard`` works only while the election says that a slot is led here.
Failure behaviour: ``start`` raises what prevents it; ``aclose`` ends everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.errors import Conflict
from amino.oms.commands import Commands
from amino.oms.directory import Directory
from amino.oms.events import EventLog
from amino.oms.finding import Finder
from amino.oms.leader import Leader
from amino.oms.locating import Locator
from amino.oms.operations import Operations
from amino.oms.reconciler import Reconciler
from amino.oms.records import Records
from amino.oms.registry import RegistryService
from amino.oms.writes import Writes

if TYPE_CHECKING:
    import random as random_module

    from amino.aio.clock import Clock
    from amino.contracts.services import KernelCaller, Membership, RegistryCaller
    from amino.coordination.election import SlotElection
    from amino.coordination.keys import Keys
    from amino.coordination.store import Compare, Store
    from amino.oms.ports import Blobs, Chains, Writer


class OmsParts:
    """What makes a kernel server an OMS."""

    def __init__(
        self,
        *,
        store: Store,
        keys: Keys,
        clock: Clock,
        writer: Writer,
        kernels: KernelCaller,
        peers: RegistryCaller,
        chains: Chains,
        blobs: Blobs,
        name: str,
        random: random_module.Random,
    ) -> None:
        self._election: SlotElection | None = None
        self.directory = Directory(store, keys, clock)
        self._records = Records(store, keys)
        self.events = EventLog(store, keys, clock)
        self._commands = Commands(store, keys, self.directory, kernels)
        writes = Writes(store, writer, keys, self.directory, self)
        self._leader = Leader(
            directory=self.directory,
            records=self._records,
            writes=writes,
            commands=self._commands,
            chains=chains,
            blobs=blobs,
            events=self.events,
            random=random,
        )
        self._finder = Finder(store, keys, self.directory, self._records)
        self._reconciler = Reconciler(self._leader, random)
        self.registry = RegistryService(
            server=name,
            leads=self._leads,
            store=store,
            keys=keys,
            clock=clock,
            directory=self.directory,
            records=self._records,
            operations=Operations(self._leader, clock),
            locator=Locator(self.directory, self._records, writes, clock),
            finder=self._finder,
            events=self.events,
            blobs=blobs,
            caller=peers,
        )

    def __repr__(self) -> str:
        return f"OmsParts({self.directory!r}, {self._reconciler!r})"

    def lead_with(self, election: SlotElection) -> None:
        """Take guards of slots from ``election``."""
        self._election = election

    def guard(self, slot: int) -> Compare:
        """See ``oms.ports.SlotGuards.guard``."""
        if self._election is None:
            raise Conflict(f"slot {slot} is not led here", reason="not-leader")
        return self._election.guard(slot)

    def _leads(self, slot: int) -> bool:
        return self._election is not None and self._election.leads(slot)

    def membership(self) -> Membership:
        """Return the live servers as known now."""
        return self._finder.members()

    async def slot_gained(self, slot: int) -> None:
        """Begin to act for ``slot``."""
        await self._reconciler.slot_gained(slot)

    async def slot_lost(self, slot: int) -> None:
        """Stop acting for ``slot``."""
        await self._reconciler.slot_lost(slot)

    async def start(self) -> None:
        """Begin to watch and to repair."""
        await self.directory.start()
        self._reconciler.start()

    async def aclose(self) -> None:
        """End everything. Idempotent."""
        await self._reconciler.aclose()
        await self._leader.aclose()
        await self._commands.aclose()
        await self.events.aclose()
        await self._records.aclose()
        await self.directory.aclose()
