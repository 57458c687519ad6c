"""What the OMS needs from layers above and beside it, injected.

Owns these Protocols. Leaves them to ``amino.dm`` (chains), ``amino.checkpoint`` (blobs) and ``amino.coordination``
(slot guards, transactions), and ``amino.kernel`` (making here).
Invariant: the OMS imports none of its providers.
Failure behaviour: as each method says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from amino.contracts.documents import GroupDocument, Manifest, MicroserviceRecord, MicroserviceSpec
from amino.contracts.levels import Level
from amino.contracts.services import Fence
from amino.coordination.store import Compare, Operation, Put, TxnResult


class Chains(Protocol):
    """What a chain of deployment managers means for placement and recovery."""

    def validate(self, spec: MicroserviceSpec) -> None:
        """Raise ``Invalid`` if the chain is unknown, misconfigured or cannot work."""
        ...

    def levels(self, spec: MicroserviceSpec) -> tuple[Level, ...]:
        """Return the groups that the chain forms, outermost first."""
        ...

    def recovers_from_checkpoint(self, spec: MicroserviceSpec) -> bool:
        """Return whether a lost replica is restored from its newest checkpoint."""
        ...

    def needs_store(self, spec: MicroserviceSpec) -> bool:
        """Return whether its servers must see a checkpoint store."""
        ...

    def keeps_in_place(self, spec: MicroserviceSpec) -> str | None:
        """Return why it must not be moved, None if it may."""
        ...


class Blobs(Protocol):
    """Where large arguments and bundles go, and where checkpoints are removed."""

    async def put(self, kind: str, name: str, content: bytes) -> str:
        """Store ``content`` durably and return its URL. ``kind``: ``arguments`` or ``code``. Idempotent.

        Raises:
            StoreFailed: the store refused, or there is none.
        """
        ...

    async def collect(self, manifests: Mapping[str, tuple[Manifest, ...]], mine: Callable[[str], bool]) -> int:
        """Remove files that crashes left behind and that nothing names; returns how many.

        Args:
            manifests: of every existing microservice, by id, read before this call.
            mine: whether to look at the files of that microservice.

        Raises:
            StoreFailed: something is left; try again.
        """
        ...

    async def take(self, url: str) -> bytes | None:
        """Remove what ``put`` stored, and return it; None if it is not there.

        Raises:
            StoreFailed: it cannot be read or removed.
        """
        ...

    async def delete_checkpoints(self, ms_id: str) -> None:
        """Remove every checkpoint and stored argument of a microservice. Idempotent.

        Raises:
            StoreFailed: something is left; try again.
        """
        ...


class SlotGuards(Protocol):
    """Proof that this server leads a slot."""

    def guard(self, slot: int) -> Compare:
        """Return the compare that holds while this server leads the slot; raises ``Conflict`` if it does not."""
        ...


class Election(SlotGuards, Protocol):
    """The election, as the OMS sees it."""

    def notice(self) -> None:
        """Look again at who may lead. Never waits."""
        ...


class Writer(Protocol):
    """What runs guarded transactions: ``coordination.guarded.GuardedWriter``, which combines small ones."""

    async def write(self, compares: Sequence[Compare], then: Sequence[Operation]) -> TxnResult:
        """Do ``then`` if all compares hold; raises as ``Store.txn`` does, and ``Overloaded`` when nothing was done."""
        ...


class Maker(Protocol):
    """The kernel of this very server, for microservices whose making runs nobody's code.

    Such a making cannot fail half-way, hang or end the process, so its intent need not be written before it: one
    transaction says that the microservice exists and serves.
    """

    def methods_of(self, record: MicroserviceRecord) -> dict[str, int] | None:
        """Return the methods of such a microservice, None if it is not one (or not known to be). Never waits."""
        ...

    async def make(
        self,
        microservice: str,
        record: MicroserviceRecord,
        document: GroupDocument,
        fence: Fence,
        compares: Sequence[Compare],
        puts: Sequence[Put],
    ) -> int | None:
        """Make the replica of ``document``, which confirms it, and let it serve once ``puts`` are written.

        An unknown outcome is settled before this returns; cancelling abandons only the wait.

        Returns:
            The revision of the write; None if a compare did not hold: then nothing is left of it.

        Raises:
            NotExecuted: this server's session is over (reason ``fenced``).
        """
        ...
