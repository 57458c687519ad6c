"""``DurableTransactions``: optimistic transactions whose commit is durable before it is acknowledged.

Owns putting the two together: the log stands further out than the private copies. Leaves these to ``optimistic`` and the
log to ``dm.durable_log``.
Invariants: as there: a commit is one record of the log, with its verdict and its operations.
Failure behaviour: as there. A transaction that had not committed is gone with its server, and nothing of it is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from amino.dm.base import ServerBase, Trait
from amino.dm.durable_log import DurableLog, LogOptions
from amino.dm.transactions.optimistic import OptimisticTransactions

if TYPE_CHECKING:
    from amino.contracts.context import ServerContext


class DurableTransactions(OptimisticTransactions, frozen=True, kw_only=True):
    """Runs the calls of a block on a private copy, and publishes them all at its end, durably.

    Guarantee: that of ``OptimisticTransactions``; and neither kill -9 of every process nor power loss after a commit, or
    after a plain call, was acknowledged loses anything of it. Plain calls run one at a time; one that raises leaves the
    state before it. Classes must be deterministic, as for ``DurableSerializableRPC``.

    Args:
        group_commit_s: how long a finished call waits at most for others that are under way, to share one sync (0 to 1
            second); 0 gives each call a sync of its own. A commit runs alone and is synced by itself.
        snapshot_every: calls and commits after which a checkpoint is taken and a new segment of the log begins (1 to
            1,000,000).
        segment_bytes: the same by the size of the log (1 KiB to 1 GiB).
        keep: checkpoints kept, with the segments between them (1 to 100).
        queue_max: most calls that wait for their turn (1 to 1,000,000); beyond it ``Overloaded``, at once.
    """

    group_commit_s: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.002
    snapshot_every: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 10_000
    segment_bytes: Annotated[int, msgspec.Meta(ge=1024, le=1 << 30)] = 8 << 20
    keep: Annotated[int, msgspec.Meta(ge=1, le=100)] = 2
    queue_max: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000

    provides = OptimisticTransactions.provides | {
        Trait.ORDER,
        Trait.CHECKPOINTS,
        Trait.RESTORES_STATE,
        Trait.DURABLE,
    }
    requires = OptimisticTransactions.requires | {Trait.STORE}

    def brings_back(self) -> bool:
        """It does: calls that raise are undone."""
        return True

    def outer_server(self, context: ServerContext) -> ServerBase:
        """Return the component that logs."""
        options = LogOptions(self.group_commit_s, self.snapshot_every, self.segment_bytes, self.keep, self.queue_max)
        return DurableLog(options, context)
