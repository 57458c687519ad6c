"""What a chain of managers promises to callers, as far as judges need to know.

Owns deriving that from the managers' declarations and options. Leaves judging to the judges.
Invariant: nothing is promised that a manager's page does not say.
Failure behaviour: none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from amino.dm.base import Manager, Trait
from amino.dm.checkpointing import PeriodicCheckpoint


@dataclass(frozen=True, slots=True)
class Promise:
    """A chain's promise.

    Args:
        lost_max: how many acknowledged changes the loss of a server may take; None: any number.
        serial: calls run one at a time.
        settled: who reads, is shown only what no loss can take back: the manager that orders calls stands no further in than the
            one that keeps them.
        staleness_s: how old an answer to a read may be; 0: it is current.
    """

    lost_max: int | None = None
    serial: bool = False
    settled: bool = False
    staleness_s: float = 0.0

    @property
    def keeps(self) -> bool:
        """Nothing that was acknowledged is lost."""
        return self.lost_max == 0

    @property
    def changes(self) -> bool:
        """Every change takes effect at one moment between its beginning and its end, and stays."""
        return self.keeps and self.serial

    @property
    def reads(self) -> bool:
        """Every read does, too."""
        return self.changes and self.settled and not self.staleness_s


def promise_of(dms: Sequence[Manager]) -> Promise:
    """Return what ``dms`` together promise."""
    lost_max: int | None = None
    staleness_s = 0.0
    for one in dms:
        if one.keeps_each_call():
            lost_max = 0
        elif isinstance(one, PeriodicCheckpoint) and one.every is not None and lost_max is None:
            lost_max = one.every - 1
        for option in ("staleness_s", "read_staleness_s"):
            staleness_s = max(staleness_s, float(getattr(one, option, 0.0)))
    orders = [place for place, one in enumerate(dms) if Trait.ORDER in one.provides]
    keeps = [place for place, one in enumerate(dms) if one.keeps_each_call()]
    settled = bool(orders and keeps) and orders[0] <= keeps[-1]
    return Promise(lost_max, bool(orders), settled, staleness_s)
