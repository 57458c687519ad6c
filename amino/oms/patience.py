"""For how long a slot leader waits for a replica: insists on its server, or leaves one that has just joined as it is.

Owns the clocks of those replicas. Leaves what is done afterwards to ``leader``.
Invariant: a bounded number of replicas is remembered, those that were waited for last.
Failure behaviour: a replica that was forgotten is waited for once more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

PATIENCE_S = 1.0
"""A server that has its session and does not serve yet needs less; one that cannot be reached, or is overloaded, is not worth more.

That it has not begun is certain (``NotExecuted``): what takes long after it has begun, such as a large checkpoint, is waited for.
"""
SETTLED_S = 0.75
"""A replica that joined so long ago, in seconds, has waited out what its server may have promised to primaries before (``read_lease_s``,
0.5 by default), and takes over at once. Where that is set higher, it takes over later: nothing else depends on it."""
WAITED_MAX = 100_000


class Patience:
    """Since when each replica, by its id, is waited for. Needs a running loop.

    Args:
        enough_s: for how long one is, in seconds.
    """

    def __init__(self, enough_s: float = PATIENCE_S) -> None:
        self._enough_s = enough_s
        self._since: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"Patience({len(self._since)} waited for)"

    def begin(self, replica: str) -> None:
        """It is waited for from now on; only the first time counts."""
        self._since.setdefault(replica, asyncio.get_running_loop().time())
        while len(self._since) > WAITED_MAX:
            self._since.popitem(last=False)

    def is_over(self, replica: str) -> bool:
        """Return whether it has been waited for long enough."""
        now = asyncio.get_running_loop().time()
        return now - self._since.get(replica, now) >= self._enough_s

    def end(self, replica: str) -> None:
        """It is made, or given up."""
        self._since.pop(replica, None)
