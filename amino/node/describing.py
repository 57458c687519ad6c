"""What a kernel server knows of a group whose checkpoints it writes, for the description beside them.

Owns gathering it. Leaves when it is written to ``checkpoint.description``.
Invariant: it is as new as this server's caches, and never older than the shard itself.
Failure behaviour: ``CoordinationUnavailable`` when the record has to be read and etcd does not answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino.checkpoint.description import Description, sketch
from amino.ids import ROOT

if TYPE_CHECKING:
    from collections.abc import Hashable

    from amino.kernel.object import KernelObject
    from amino.oms.service import Oms


class AboutReplica:
    """Implements ``checkpoint.description.About`` for one replica."""

    def __init__(self, oms: Oms, target: KernelObject) -> None:
        self._oms = oms
        self._target = target

    def __repr__(self) -> str:
        return f"AboutReplica({self._target.microservice}{self._target.path})"

    def revision(self) -> Hashable:
        """Changes with the group's and the root's document and with the change of shards."""
        directory, target = self._oms.directory, self._target
        shards = target.chain.shards()
        return (
            directory.revision(target.microservice, target.path),
            directory.revision(target.microservice) if target.path != ROOT else 0,
            shards.version if shards is not None else 0,
        )

    async def describe(self) -> Description | None:
        """Return the record in force, the documents as this server has heard of them, and the change of shards."""
        directory, target = self._oms.directory, self._target
        root = directory.group(target.microservice)
        group = directory.group(target.microservice, target.path)
        generation = max(target.generation, root.document.generation if root is not None else 0)
        record = await self._oms.records.get(target.microservice, generation)
        if record is None:
            return None
        return Description(
            record,
            sketch(group.document) if group is not None else None,
            sketch(root.document) if root is not None and target.path != ROOT else None,
            target.chain.shards(),
        )
