"""``ConsensusRSM``: a linearizable object on several servers; loses no acknowledged write while one in-sync replica lives.

Owns the manager and its options. Leaves the protocol to ``machine`` and driving it to ``replica``.
Invariants: as ``machine``.
Failure behaviour: a primary without its in-sync set or its session answers ``NotExecuted`` or ``OutcomeUnknown`` within
bounds; when every in-sync replica is lost, calls raise ``StateLost`` (unless a manager further in keeps checkpoints).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

import msgspec

from amino.contracts.levels import Level
from amino.dm.base import Manager, ServerBase, Trait
from amino.dm.replication.replica import Replica
from amino.dm.replication.view import Options
from amino.errors import Invalid

if TYPE_CHECKING:
    from amino.contracts.context import ServerContext

Seconds = Annotated[float, msgspec.Meta(ge=0.05, le=60)]


class ConsensusRSM(Manager, frozen=True, kw_only=True):
    """Keeps alike replicas of the object on distinct servers; one of them, the primary, orders all calls.

    Guarantee: linearizable. A write is acknowledged once every in-sync replica has it; each caller gets its own result; with
    ``min_in_sync=k`` any k - 1 losses at once lose nothing acknowledged; a lost primary is replaced by an in-sync replica, and
    a lost replica by a new one on another server. Methods run at the primary, and again at the others from what they took
    from outside (nested calls, ``amino.now``, ``amino.random``): a class that asks the world directly (``time.time()``) is
    noticed by its results, and its replicas are copied afresh.

    Args:
        replicas: how many are wanted (1 to 9).
        min_in_sync: fewest in-sync replicas with which writes are accepted (1 to ``replicas``).
        append_timeout_s: after which a write that is not acknowledged ends as unknown (0.05 to 60).
        read_lease_s: how long the replicas' acknowledged heartbeats let the primary answer reads, and so how long a new
            primary waits when the old one is not proven dead (0.3 to 60).
        snapshot_every: log entries kept for replicas that return after a while (1 to 10,000,000).
        replicate: ``operations`` (methods run at each replica) or ``state`` (the whole state is shipped after each call, for
            classes that are not deterministic).
    """

    replicas: Annotated[int, msgspec.Meta(ge=1, le=9)] = 3
    min_in_sync: Annotated[int, msgspec.Meta(ge=1, le=9)] = 2
    append_timeout_s: Seconds = 0.5
    read_lease_s: Annotated[float, msgspec.Meta(ge=0.3, le=60)] = 0.5
    snapshot_every: Annotated[int, msgspec.Meta(ge=1, le=10_000_000)] = 10_000
    replicate: Literal["operations", "state"] = "operations"

    provides = frozenset({Trait.ORDER, Trait.RESTORES_STATE, Trait.REPLICATES})

    def check(self) -> None:
        """Check that enough replicas can be in sync."""
        if self.min_in_sync > self.replicas:
            raise Invalid(
                f"{type(self).__name__}: min_in_sync={self.min_in_sync} is more than replicas={self.replicas}; "
                "writes would never be accepted"
            )

    def level(self, place: int) -> Level:
        """Return the group of replicas."""
        return Level(type(self).__name__, place, "replicated", self.replicas, self.min_in_sync)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component of one replica."""
        return Replica(self._options(), context, ship_state=self.replicate == "state")

    def _options(self) -> Options:
        return Options(self.min_in_sync, self.append_timeout_s, self.read_lease_s, self.snapshot_every)
