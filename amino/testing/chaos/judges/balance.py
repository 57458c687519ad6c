"""The judge of money: transfers neither make nor lose any, and nobody ever sees that they do.

Owns comparing sums. Leaves which transfers were done to ``once``.
Invariants: pure. Failure behaviour: without one sum nothing is proved, which is a failure.
"""

from __future__ import annotations

from collections.abc import Iterable

from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import Verdict

NAME = "conservation"


def conserved(looks: Iterable[Operation], total: int) -> Verdict:
    """Judge reads of all balances at one moment: ``value`` is the list of them; none is below 0, their sum is ``total``."""
    seen = 0
    for one in looks:
        if one.outcome != "ok":
            continue
        seen += 1
        if sum(one.value) != total:
            text = f"the accounts hold {sum(one.value)} instead of {total}"
            return Verdict(NAME, False, text, smallest=[one])
        if min(one.value, default=0) < 0:
            return Verdict(NAME, False, f"an account holds {min(one.value)}", smallest=[one])
    if not seen:
        return Verdict(NAME, False, "could not judge: the balances were never read")
    return Verdict(NAME, True, f"{seen} looks at all accounts found {total}", figures={"looks": float(seen)})
