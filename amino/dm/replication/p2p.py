"""``ConsensusRSMP2P``: ``ConsensusRSM`` across client devices, servers standing in while there are too few of them.

Owns the manager and its options. Leaves the protocol to ``machine``, placement on devices to the OMS.
Invariants: as ``machine``; an answer of another replica than the primary is at most ``read_staleness_s`` old.
Failure behaviour: as ``ConsensusRSM``; a device that leaves hands its replica over first, one that is killed is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from amino.dm.replication.consensus import ConsensusRSM
from amino.dm.replication.nearby import Reader
from amino.dm.replication.replica import Replica

if TYPE_CHECKING:
    from amino.contracts.context import ClientContext, ServerContext
    from amino.contracts.levels import Level
    from amino.dm.base import ClientBase, ServerBase


class ConsensusRSMP2P(ConsensusRSM, frozen=True, kw_only=True):
    """Keeps alike replicas on devices: the kernel servers that client processes embed (``amino.Device``).

    Guarantee: as ``ConsensusRSM`` (linearizable, ``min_in_sync - 1`` losses at once lose nothing acknowledged) while
    ``read_staleness_s`` is 0. Replicas are on as many devices as there are, up to ``replicas``; with fewer devices than
    ``min_in_sync`` servers stand in, and make room when devices join. A device that leaves in order hands its replica over
    first: to another device, or as the last one to servers.

    Args:
        replicas: how many are wanted on devices (1 to 9).
        replicate: ``state`` (the whole state is shipped after each call: devices need not agree on hash seeds or versions of
            Python) or ``operations``.
        read_staleness_s: how old an answer to a read may be (0 to 3600): reads go to the replica that answers fastest, so on a
            device that has one to its own; 0: reads go to the primary.
    """

    replicate: Literal["operations", "state"] = "state"
    read_staleness_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 0.0

    def level(self, place: int) -> Level:
        """Return the group of replicas."""
        return msgspec.structs.replace(super().level(place), devices=True)

    def client(self, context: ClientContext) -> ClientBase | None:
        """Return the component that reads nearby, if reads may be old at all."""
        return Reader(context, nearest=True) if self.read_staleness_s else None

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component of one replica."""
        return Replica(
            self._options(), context, ship_state=self.replicate == "state", staleness_s=self.read_staleness_s or None
        )
