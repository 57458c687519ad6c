"""``DurableSerializableRPC``: calls run one at a time, and each is durable before it is acknowledged.

Owns the options and the declaration. Leaves the behaviour to ``dm.durable_log``.
Invariants: as there. Failure behaviour: as there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from amino.dm.base import Manager, ServerBase, Trait
from amino.dm.durable_log import DurableLog, LogOptions

if TYPE_CHECKING:
    from amino.contracts.context import ServerContext


class DurableSerializableRPC(Manager, frozen=True, kw_only=True):
    """Runs calls one at a time; each is synced to the checkpoint store before it is acknowledged.

    Guarantee: neither kill -9 of every process nor power loss after an acknowledgement loses anything; after a loss the
    object comes back with all acknowledged calls, and a repeated request gets its saved answer. A call that raises leaves
    the state before it. Classes must be deterministic: a call is logged with what it took from outside (nested calls,
    ``amino.now``, ``amino.random``) and run again on recovery.

    Args:
        group_commit_s: how long a finished call waits at most for others that are under way, to share one sync (0 to 1
            second); 0 gives each call a sync of its own.
        snapshot_every: calls after which a checkpoint is taken and a new segment of the log begins (1 to 1,000,000).
        segment_bytes: the same by the size of the log (1 KiB to 1 GiB).
        keep: checkpoints kept, with the segments between them (1 to 100).
        queue_max: most calls that wait for their turn (1 to 1,000,000); beyond it ``Overloaded``, at once.
    """

    group_commit_s: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.002
    snapshot_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    segment_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 8 << 20
    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000

    provides = frozenset({Trait.ORDER, Trait.CHECKPOINTS, Trait.RESTORES_STATE, Trait.DURABLE})
    requires = frozenset({Trait.STORE})

    def brings_back(self) -> bool:
        """It does: calls that raise are undone."""
        return True

    def server(self, context: ServerContext) -> ServerBase:
        """Return the component that logs."""
        options = LogOptions(self.group_commit_s, self.snapshot_every, self.segment_bytes, self.keep, self.queue_max)
        return DurableLog(options, context)
