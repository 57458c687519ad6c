"""``LoadBalancedMasterSlave``: writes at one replica, reads spread over the others.

Owns the manager and its options. Leaves the protocol to ``machine``, which it shares with ``ConsensusRSM``.
Invariants: as ``machine``; an answer to a read is at most ``staleness_s`` old.
Failure behaviour: as ``ConsensusRSM`` with ``min_in_sync=1``: a replica that is lost never stops writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from amino.contracts.levels import Level
from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.replication.nearby import Reader
from amino.dm.replication.replica import Replica
from amino.dm.replication.view import Options

if TYPE_CHECKING:
    from amino.contracts.context import ClientContext, ServerContext


class LoadBalancedMasterSlave(Manager, frozen=True, kw_only=True):
    """Runs writes at a master, copies them to slaves, and spreads reads over the slaves.

    Guarantee: writes are serial, each caller gets its own result, and a repeated request runs once. Reads are at most
    ``staleness_s`` old. A master that is lost is replaced by a slave that has everything acknowledged; never two answer. With
    ``sync=True`` a write is acknowledged once every slave that is in step has it; a slave that does not answer leaves the
    group within half a second and resynchronises when it returns. With ``sync=False`` it is acknowledged at once and copied
    right after, and the slave that has most follows a lost master: what no slave had yet is missing.

    Args:
        replicas: how many are wanted, the master included (1 to 9).
        sync: whether slaves have a write before it is acknowledged.
        staleness_s: how old an answer to a read may be (0 to 3600).
    """

    replicas: Annotated[int, msgspec.Meta(ge=1, le=9)] = 2
    sync: bool = True
    staleness_s: Annotated[float, msgspec.Meta(ge=0, le=3600)] = 1.0

    provides = frozenset({Trait.ORDER, Trait.RESTORES_STATE, Trait.REPLICATES})

    def keeps_each_call(self) -> bool:
        """With ``sync``."""
        return self.sync

    def level(self, place: int) -> Level:
        """Return the group of master and slaves."""
        return Level(type(self).__name__, place, "replicated", self.replicas, 1, early=not self.sync)

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that spreads reads."""
        return Reader(context, nearest=False)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component of one replica."""
        return Replica(
            Options(min_in_sync=1), context, ship_state=False, staleness_s=self.staleness_s, answers_early=not self.sync
        )
