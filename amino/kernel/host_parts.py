"""What the composition root hands to the host of kernel objects.

Owns the Protocol. Leaves the parts to ``amino.node.parts``.
Invariant: the host imports none of its providers.
Failure behaviour: as each method says.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeVar

from amino.contracts.services import (
    ConvertRequest,
)
from amino.kernel.object import KernelObject
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.contracts.component import ServerChain
    from amino.contracts.context import Checkpoints, ServerContext
    from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec
    from amino.contracts.services import (
        Kernel,
    )
    from amino.coordination.store import Compare, Operation

T = TypeVar("T")


class Parts(Protocol):
    """What the composition root hands to the host."""

    async def load_class(self, spec: MicroserviceSpec) -> type:
        """Return the class of ``spec``. Raises ``CodeUnavailable``."""
        ...

    def find_class(self, spec: MicroserviceSpec) -> codec.FindClass | None:
        """Return how pickles name classes for the code of ``spec``, once its class is loaded; None as everywhere."""
        ...

    @property
    def inline(self) -> bool:
        """Whether there are no worker threads: one loop runs everything."""
        ...

    def server_chain(self, spec: MicroserviceSpec, context: Callable[[int], ServerContext]) -> ServerChain:
        """Return the server side of ``spec``'s chain. Raises ``CodeUnavailable`` for a manager not installed here."""
        ...

    def checkpoints(self, target: KernelObject) -> Checkpoints:
        """Return the checkpoints of a replica's group. Raises ``CodeUnavailable`` where there is no store."""
        ...

    async def arguments(self, record: MicroserviceRecord) -> bytes:
        """Return the encoded constructor arguments, wherever they are."""
        ...

    async def run(self, function: Callable[[], T]) -> T:
        """Run user code in a worker thread: it may block, and make calls that end in this server again."""
        ...

    def kernel_at(self, address: str) -> Kernel:
        """Return the Kernel service of another server."""
        ...

    def group_key(self, microservice: str, path: str) -> str:
        """Return the key of a group's document."""
        ...

    def change_of(self, request: ConvertRequest, goal: GroupDocument) -> tuple[Sequence[Compare], Sequence[Operation]]:
        """Return the transaction that changes a microservice's managers, with ``goal`` at the replica's new path."""
        ...

    async def changed(self, target: KernelObject, request: ConvertRequest) -> None:
        """A microservice's managers were changed; what failed is reported, and done with the next checkpoint."""
        ...

    def absent(self, microservice: str, path: str) -> None:
        """A replica was asked for that is not here: have it looked into if it should be. Never waits."""
        ...

    async def clear_deaths(self, microservice: str, path: str, replica: str, method: str) -> None:
        """Tell the slot leader that a suspected method has completed."""
        ...

    def event(self, kind: str, microservice: str, text: str) -> None:
        """Record an event for operators; from any thread."""
        ...

    def stop_now(self, why: str) -> None:
        """Stop this incarnation at once."""
        ...
