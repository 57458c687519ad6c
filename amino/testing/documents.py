"""What no change of a record in etcd may do, whoever makes it: the rules that watchers of commits share.

Owns the rules of group documents and manifests, change by change. Leaves reading changes, and who lives, to the watchers:
simulations see every commit as it happens, judges of real runs the events that a watch told.
Invariants: pure but for what it remembers of earlier changes; numbers are those of ``docs/invariants.md``.
Failure behaviour: what breaks a rule is returned; the next change is judged all the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from amino.contracts.documents import GroupDocument, Manifest, Phase, ReplicaDocument
from amino.oms.group_machine import REPLICATED

Broken = tuple[int, str]


class Rules:
    """Judges changes of documents, in the order of their revisions.

    Args:
        is_alive: whether that incarnation of a server holds its key at the moment of the change.

    Attributes:
        documents: every group document as it is now, by key.
    """

    def __init__(self, is_alive: Callable[[str, int], bool]) -> None:
        self.documents: dict[str, GroupDocument] = {}
        self._is_alive = is_alive
        self._epochs: dict[str, int] = {}
        self._checkpointed: dict[str, int] = {}

    def missed(self) -> None:
        """Changes were missed: what comes next follows on nothing that is known; epochs must not go back all the same."""
        self.documents.clear()

    def group(self, key: str, document: GroupDocument | None) -> Iterator[Broken]:
        """Take note of a group's new document, None if it was deleted; return what is broken: (invariant, text)."""
        if document is None:
            self.documents.pop(key, None)
            self._epochs.pop(key, None)
            return
        before = self.documents.get(key)
        if document.epoch < self._epochs.get(key, 0):
            yield 2, f"epoch of {key} went from {self._epochs[key]} to {document.epoch}"
        self._epochs[key] = document.epoch
        self.documents[key] = document
        if before is None:
            return
        if before.phase == Phase.DELETING != document.phase:
            yield 6, f"the deletion of {key} was taken back: {before} became {document}"
        if document.generation == before.generation:  # else managers were changed, and the groups with them
            yield from self._taken_from_the_living(key, before, document)
            other = before.primary and document.primary not in ("", before.primary)  # one that is lost has none
            if other and document.epoch == before.epoch:
                yield 2, f"the primary of {key} went from {before.primary} to {document.primary} within an epoch"
        if document.phase == Phase.LOST != before.phase:
            yield from self._given_up(key, before)

    def manifest(self, key: str, manifest: Manifest | None) -> Iterator[Broken]:
        """Take note of a group's new manifest, None if it was deleted; return what is broken."""
        if manifest is None:
            self._checkpointed.pop(key, None)
            return
        epochs = [entry.epoch for entry in manifest.entries]
        newest = max(epochs, default=0)
        if newest < self._checkpointed.get(key, 0) or epochs != sorted(epochs, reverse=True):
            yield 2, f"manifest {key} went back from epoch {self._checkpointed.get(key, 0)} to {epochs}"
        self._checkpointed[key] = newest

    def _taken_from_the_living(self, key: str, before: GroupDocument, document: GroupDocument) -> Iterator[Broken]:
        """Only a move, a deletion or the server's own word takes a confirmed replica from a server that lives."""
        kept = {replica.id for replica in (*document.replicas, *document.leftovers)}
        for replica in before.replicas:
            if replica.confirmed and replica.id not in kept and self._lives(replica):
                yield 1, f"{replica} of {key} was given up although its server lives"

    def _given_up(self, key: str, before: GroupDocument) -> Iterator[Broken]:
        """A group is lost only when its one replica is, a replicated one only when every in-sync replica is."""
        for replica in before.replicas:
            has_state = replica.id in before.in_sync if before.kind == REPLICATED else replica.confirmed
            if has_state and self._lives(replica):
                yield 3, f"{key} was given up although {replica} lives and has its state"

    def _lives(self, replica: ReplicaDocument) -> bool:
        return self._is_alive(replica.server, replica.incarnation)
