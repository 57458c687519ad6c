"""``TwoPhaseCommit``: calls on several microservices as one.

Owns the manager and its options. Leaves blocks to ``distributed``, cohorts to ``cohort``, the order of steps to ``machine``.
Invariants: as ``machine``.
Failure behaviour: ``TransactionAborted`` says that nothing was published anywhere; ``OutcomeUnknown`` that the decision's own
answer was lost: cohorts learn it, all the same outcome.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec

from amino.dm.base import ClientBase, Manager, ServerBase, Trait
from amino.dm.transactions.block import EVERYWHERE, Joining
from amino.dm.transactions.cohort import CohortComponent

if TYPE_CHECKING:
    from amino.contracts.context import ClientContext, ServerContext


class TwoPhaseCommit(Manager, frozen=True, kw_only=True):
    """Lets the microservice take part in transactions over several: ``with cluster.transaction(): ...``.

    Guarantee: all calls of the block on all microservices take effect, or none does; serializable among transactions and plain
    calls. Once prepared, a microservice keeps its promise through the loss of its server, and learns the outcome.

    Args:
        timeout_s: seconds that a transaction may take to its end, and after which a microservice that is prepared and hears
            nothing asks for the outcome (more than 0).
    """

    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=3600)] = 10.0

    provides = frozenset({Trait.TRANSACTIONS, Trait.PROMISES})

    def client(self, context: ClientContext) -> ClientBase:
        """Return the component that marks the calls of a block."""
        return Joining(EVERYWHERE, context)

    def server(self, context: ServerContext) -> ServerBase:
        """Return the cohort."""
        return CohortComponent(type(self).__name__, self.timeout_s, context)
