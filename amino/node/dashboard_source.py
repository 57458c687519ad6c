"""What a dashboard shows of the kernel server that serves it.

Owns the adapter of the dashboard's port. Leaves what is shown to ``amino.dashboard``.
Invariant: it keeps nothing but what it was given.
Failure behaviour: as what it adapts; a server that does not tell its figures in time is left out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from amino.contracts.services import (
    ByName,
    Empty,
    EventsRequest,
    KernelStatistics,
    LocateRequest,
    ObserveReply,
    ObserveRequest,
)
from amino.dm.checkpointing.explicit import CheckpointControl, ExplicitCheckpoint
from amino.dm.control import ControlContext
from amino.errors import AminoError, Invalid
from amino.node.adapters import Kernels

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

    from amino.contracts.documents import GroupDocument, MicroserviceRecord
    from amino.contracts.services import Description, EventInfo, Membership, Registry
    from amino.node.kernel_server import KernelServer

FIGURES_S = 1.0
_CHECKPOINTS = ExplicitCheckpoint.__name__


class DashboardSource:
    """Implements ``dashboard.ports.Source``."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._oms = owner.oms
        self._kernels = Kernels(owner)

    @property
    def server(self) -> str:
        return self._owner.name

    @property
    def registry(self) -> Registry:
        return self._owner.registry

    def on_group(self, callback: Callable[[str], None]) -> None:
        self._oms.directory.on_group(lambda ms_id, _path: callback(ms_id))

    def on_members(self, callback: Callable[[], None]) -> None:
        self._oms.directory.on_members(callback)
        self._oms.directory.slots_cache.listen(lambda *_: callback())

    def ids(self) -> list[str]:
        return self._oms.directory.ids()

    def groups(self, microservice: str) -> dict[str, GroupDocument]:
        return {path: found.document for path, found in self._oms.directory.groups(microservice).items()}

    def membership(self) -> Membership:
        return self._oms.membership()

    async def records(self, generations: Mapping[str, int]) -> dict[str, MicroserviceRecord]:
        return await self._oms.records.get_many(generations)

    async def events(self, after: int, wait_s: float) -> tuple[EventInfo, ...]:
        return (await self.registry.events(EventsRequest(after, wait_s))).events

    async def statistics(self) -> tuple[KernelStatistics, ...]:
        asked = [self._kernels.at(each.record.address).statistics(Empty()) for each in self.membership().servers]
        return tuple(each for each in await _answered(asked) if isinstance(each, KernelStatistics))

    async def describe(self, microservice: str) -> Description:
        return await self.registry.describe(ByName(microservice=microservice))

    async def observe(self, microservice: str) -> dict[str, ObserveReply]:
        asked: list[Awaitable[ObserveReply]] = []
        places: list[str] = []
        for path, document in self.groups(microservice).items():
            for replica in document.replicas:
                server = self._oms.directory.server(replica.server)
                if server is not None and server.incarnation == replica.incarnation:
                    asked.append(self._kernels.at(server.record.address).observe(ObserveRequest(microservice, path)))
                    places.append(f"{path} {replica.id}")
        answers = zip(places, await _answered(asked), strict=True)
        return {
            place: one for place, one in answers if isinstance(one, ObserveReply) and place.endswith(f" {one.replica}")
        }

    async def checkpoint(self, microservice: str) -> int:
        location = await self.registry.locate(LocateRequest(microservice=microservice))
        chain: dict[str, dict[str, Any]] = {dm.name: dm.options for dm in location.spec.dms}
        if _CHECKPOINTS not in chain:
            raise Invalid(f"its chain is {list(chain) or 'empty'}; only {_CHECKPOINTS} takes a checkpoint when told")
        options = ExplicitCheckpoint.from_options(chain[_CHECKPOINTS])
        control = CheckpointControl(ControlContext(self._owner.runtime, microservice, options))
        return await control._checkpoint()  # noqa: SLF001 - the operation itself, which the public one waits for in a thread


async def _answered(asked: Sequence[Awaitable[Any]]) -> list[Any]:
    """Return each answer, or None of those that fail or take too long."""

    async def one(question: Awaitable[Any]) -> Any:
        try:
            async with asyncio.timeout(FIGURES_S):
                return await question
        except (AminoError, TimeoutError):
            return None

    return list(await asyncio.gather(*(one(question) for question in asked)))
