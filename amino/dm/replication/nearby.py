"""The client component that reads at replicas other than the primary.

Owns the choice of a replica for each read. Leaves sending to the stubs, and freshness to ``fresh``.
Invariant: only reads go elsewhere than to the primary; a read that was refused elsewhere goes to the primary.
Failure behaviour: as a call to the primary, after one attempt elsewhere.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from amino.dm.base import ClientBase
from amino.dm.replication.fresh import ANYWHERE
from amino.errors import NotExecuted

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext

_RETEST_EVERY = 50
_REPLICAS_MAX = 9
_SMOOTH = 0.2


class Reader(ClientBase):
    """Reads at followers.

    Args:
        nearest: at the one that answers fastest (the primary too), tested again now and then; else at one after the other.
    """

    def __init__(self, context: ClientContext, *, nearest: bool) -> None:
        self._context = context
        self._nearest = nearest
        self._count = itertools.count(context.random.randrange(_RETEST_EVERY))
        self._took: dict[int, float] = {}

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Send a read to some replica, anything else to the primary."""
        if not call.readonly:
            return await forward(call)
        place = self._choose()
        call.headers = {**(call.headers or {}), ANYWHERE: True}
        call.spread = place - 1 if self._nearest else place  # -1 is the primary
        began = self._context.clock.monotonic()
        try:
            result = await forward(call)
        except NotExecuted:
            self._took[place] = self._took.get(place, 0.0) + 1.0  # as if it had been slow
            raise
        took = self._context.clock.monotonic() - began
        before = self._took.get(place)
        self._took[place] = took if before is None else before + _SMOOTH * (took - before)
        return result

    def _choose(self) -> int:
        number = next(self._count)
        if not self._nearest:
            return number
        if number % _RETEST_EVERY < _REPLICAS_MAX or not self._took:
            return number % _REPLICAS_MAX
        return min(self._took, key=lambda place: self._took[place])
