"""Which kernel servers there are, as this process knows.

Owns the address book: seeds, members as last announced, incarnations known to be lost, and which address to ask first.
Leaves fetching to ``membership``.
Invariant: an older membership never replaces a newer one.
Failure behaviour: with no member known, the seeds are tried.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from amino.contracts.services import Membership

_LOST_KEPT = 1024


class AddressBook:
    """Addresses of a cluster's kernel servers. Safe to use from several threads.

    Args:
        seeds: addresses given by the user.
        on_lost: called with the address of a member that is gone, once, outside any lock.

    Attributes:
        lost: what ``is_lost``, as (server, incarnation).
    """

    def __init__(self, seeds: Sequence[str], on_lost: Callable[[str], None]) -> None:
        self._seeds = tuple(seeds)
        self._on_lost = on_lost
        self._lock = threading.Lock()
        self._membership: Membership | None = None
        self._members: dict[tuple[str, int], str] = {}
        self._devices: set[str] = set()
        self.lost: dict[tuple[str, int], None] = {}
        self._preferred = ""

    def __repr__(self) -> str:
        return f"AddressBook({len(self._members)} members, {len(self._seeds)} seeds)"

    @property
    def membership(self) -> Membership | None:
        """The newest membership seen."""
        return self._membership

    def update(self, membership: Membership) -> None:
        """Take over a newer membership."""
        with self._lock:
            if self._membership is not None and membership.revision < self._membership.revision:
                return
            self._membership = membership
            members = {(s.record.name, s.incarnation): s.record.address for s in membership.servers}
            gone = {key: address for key, address in self._members.items() if key not in members}
            self._members = members
            self._devices = {s.record.address for s in membership.servers if s.record.device}
            for key in members:
                self.lost.pop(key, None)  # who told us so had a stale list
            for key in gone:
                self.lost[key] = None
            while len(self.lost) > _LOST_KEPT:
                del self.lost[next(iter(self.lost))]
            alive = set(members.values())
        for address in gone.values():
            if address not in alive:
                self._on_lost(address)

    def is_lost(self, server: str, incarnation: int) -> bool:
        """Whether this incarnation was a member and is not, as far as this process was told last."""
        return (server, incarnation) in self.lost

    def prefer(self, address: str) -> None:
        """Ask ``address`` first from now on: it answered."""
        self._preferred = address

    def leader_of(self, slot: int) -> str:
        """Return the address of the slot's leader as last announced, empty if not known."""
        membership = self._membership
        if membership is None or slot >= len(membership.leaders):
            return ""
        place = membership.leaders[slot]
        return membership.servers[place].record.address if 0 <= place < len(membership.servers) else ""

    def candidates(self, avoid: str = "") -> list[str]:
        """Return the addresses to ask, best first; devices come late, ``avoid`` comes last."""
        with self._lock:
            known = list(dict.fromkeys([*self._members.values()]))
            devices = self._devices
        if not known:
            known = list(self._seeds)
        else:
            known.extend(seed for seed in self._seeds if seed not in known)
        known.sort(key=lambda address: (address == avoid, address in devices, address != self._preferred))
        return known
