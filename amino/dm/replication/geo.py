"""``ConsensusRSMGeo``: ``ConsensusRSM`` over regions, the primary where it is wanted, reads nearby if they may be a little old.

Owns the manager and its options. Leaves the protocol to ``machine``, placement by region to the OMS.
Invariants: as ``machine``; an answer of another replica than the primary is at most ``read_staleness_s`` old.
Failure behaviour: as ``ConsensusRSM``; a region that is lost is replaced by another one of ``regions`` if there is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from amino.contracts.levels import Level
from amino.dm.base import ClientBase, ServerBase
from amino.dm.replication.consensus import ConsensusRSM
from amino.dm.replication.nearby import Reader
from amino.dm.replication.replica import Replica
from amino.errors import Invalid

if TYPE_CHECKING:
    from amino.contracts.context import ClientContext, ServerContext


class ConsensusRSMGeo(ConsensusRSM, frozen=True, kw_only=True):
    """Keeps alike replicas in distinct regions; the primary is in the preferred one while that is up.

    Guarantee: as ``ConsensusRSM`` (linearizable) while ``read_staleness_s`` is 0. Else reads are answered by the replica that
    answers the caller fastest, from a state at most that old; writes stay linearizable.

    Args:
        regions: values of servers' ``region`` label that replicas may be in, one each where possible; empty for any.
        preferred_region: where the primary is while a server there is up; it is handed back. Empty for anywhere.
        read_staleness_s: how old an answer to a read may be (0 to 3600); 0: reads go to the primary.
    """

    regions: tuple[str, ...] = ()
    preferred_region: str = ""
    read_staleness_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0

    def check(self) -> None:
        """Check that the preferred region is one of the regions."""
        super().check()
        if self.preferred_region and self.regions and self.preferred_region not in self.regions:
            raise Invalid(
                f"ConsensusRSMGeo: preferred_region={self.preferred_region!r} is none of regions={self.regions!r}; add it"
            )

    def level(self, place: int) -> Level:
        """Return the group of replicas."""
        level = super().level(place)
        return msgspec.structs.replace(level, regions=self.regions, preferred_region=self.preferred_region)

    def client(self, context: ClientContext) -> ClientBase | None:
        """Return the component that reads nearby, if reads may be old at all."""
        return Reader(context, nearest=True) if self.read_staleness_s else None

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component of one replica."""
        return Replica(
            self._options(), context, ship_state=self.replicate == "state", staleness_s=self.read_staleness_s or None
        )
