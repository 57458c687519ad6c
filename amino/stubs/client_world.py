"""The world of client components: ``contracts.component.ClientContext`` on a runtime.

Owns what one chain's components see. Leaves everything to the runtime and its targets.
Invariant: what it tells of the microservice is of the chain that it was made for.
Failure behaviour: ``ChainChanged`` once the microservice has another chain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.aio.mode import sleep
from amino.stubs.sender import ChainChanged

if TYPE_CHECKING:
    from amino.contracts.documents import DmSpec
    from amino.stubs.runtime import Runtime
    from amino.stubs.target import Target


class ClientWorld:
    """What a client component sees of the world (``contracts.component.ClientContext``)."""

    def __init__(self, runtime: Runtime, target: Target, chain: tuple[DmSpec, ...]) -> None:
        self._runtime = runtime
        self._target = target
        self._chain = chain
        self.microservice = target.microservice
        self.clock = runtime.clock
        self.random = runtime.random
        self.telemetry = runtime.telemetry

    async def shards(self, deadline: float) -> tuple[str, ...]:
        """Return the names of the microservice's shards."""
        location = self._target.location
        if location is None:
            location = await self._runtime.look_up(self._target, deadline)
        if location.spec.dms is not self._chain and location.spec.dms != self._chain:
            raise ChainChanged
        return location.groups["/"].children

    def shards_changed(self) -> None:
        """Look the shards up anew for the next call."""
        self._target.location = None

    async def sleep(self, seconds: float) -> None:
        """Wait in the way that fits the caller."""
        await sleep(seconds)
