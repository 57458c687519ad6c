"""How long a slot leader insists on the server that it chose for a replica.

Owns the clock of each replica that is being made. Leaves choosing another server to ``leader``.
Invariant: at most ``WAITED_MAX`` replicas are remembered, those that were waited for last.
Failure behaviour: a replica that was forgotten is waited for once more.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

PATIENCE_S = 1.0
"""A server that has its session and does not serve yet needs less; one that cannot be reached, or is overloaded, is not worth more.

That it has not begun is certain (``NotExecuted``): what takes long after it has begun, such as a large checkpoint, is waited for.
"""
WAITED_MAX = 1024


class Patience:
    """Since when each replica, by its id, is being made. Needs a running loop."""

    def __init__(self) -> None:
        self._since: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"Patience({len(self._since)} waited for)"

    def begin(self, replica: str) -> None:
        """Its server is about to be told; only the first time counts."""
        self._since.setdefault(replica, asyncio.get_running_loop().time())
        while len(self._since) > WAITED_MAX:
            self._since.popitem(last=False)

    def is_over(self, replica: str) -> bool:
        """Return whether it has been waited for long enough."""
        now = asyncio.get_running_loop().time()
        return now - self._since.get(replica, now) >= PATIENCE_S

    def end(self, replica: str) -> None:
        """It is made, or given up."""
        self._since.pop(replica, None)
