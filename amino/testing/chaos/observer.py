"""What goes on in a cluster while it is broken: changes of keys in etcd, and sizes, with their times.

Owns watching and sampling. Leaves judging to ``judges``.
Invariants: key events are in order and complete from the first, except after a note of a gap; beats are left out.
Failure behaviour: what cannot be read now is missing from a sample; a watch that lost its place lists again and notes the gap.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from amino.aio.tasks import TaskOwner
from amino.coordination.store import Compacted, EventKind, Record
from amino.errors import CoordinationUnavailable
from amino.testing.chaos.record import KeyEvent, Sample

if TYPE_CHECKING:
    from amino.testing.chaos.clusters.port import Cluster
    from amino.testing.chaos.clusters.view import ClusterView

SAMPLE_EVERY_S = 1.0


class Observer:
    """Watches one cluster; an async context manager within the view's.

    Args:
        now: seconds since the run's zero.

    Attributes:
        events, samples, notes: what was seen so far.
    """

    def __init__(
        self, cluster: Cluster, view: ClusterView, now: Callable[[], float], *, every_s: float = SAMPLE_EVERY_S
    ) -> None:
        self.events: list[KeyEvent] = []
        self.samples: list[Sample] = []
        self.notes: list[str] = []
        self._cluster = cluster
        self._view = view
        self._now = now
        self._every_s = every_s
        self._tasks = TaskOwner("chaos observer")
        self._known: dict[str, Record] = {}

    async def __aenter__(self) -> Self:
        revision = await self._list()
        self._tasks.spawn(self._watch(revision + 1), "watch")
        self._tasks.spawn(self._sample(), "sample")
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._tasks.aclose()

    async def _list(self) -> int:
        """Note what is there and was not known; returns the revision."""
        records, revision = await self._view.store.list(self._view.keys.root)
        there = {record.key: record for record in records}
        for key in [key for key in self._known if key not in there]:
            self._note("delete", self._known.pop(key), revision)
        for record in sorted(records, key=lambda one: one.mod_revision):
            known = self._known.get(record.key)
            if known is None or known.mod_revision < record.mod_revision:
                self._note("put", record, record.mod_revision)
        return revision

    async def _watch(self, revision: int) -> None:
        while True:
            try:
                async with contextlib.aclosing(self._view.store.watch(self._view.keys.root, revision)) as stream:  # type: ignore[type-var]
                    async for batch in stream:
                        for event in batch.events:
                            record = event.record
                            put = event.kind is EventKind.PUT
                            self._note("put" if put else "delete", record, record.mod_revision)
                        revision = batch.revision + 1
            except Compacted:
                self.notes.append(f"{self._now():.1f} s: the watch lost its place in a compaction and listed again")
                self.events.append(KeyEvent("", "gap", revision, at_s=self._now()))
                revision = await self._list() + 1
            except CoordinationUnavailable:
                await asyncio.sleep(self._every_s)

    def _note(self, kind: str, record: Record, revision: int) -> None:
        if record.key.startswith(self._view.keys.beats_prefix):
            return
        before = self._known.get(record.key)
        created = record.create_revision or (before.create_revision if before is not None else 0)
        if kind == "put":
            self._known[record.key] = record
        else:
            self._known.pop(record.key, None)
        key = record.key.removeprefix(self._view.keys.root)
        value = record.value if kind == "put" else b""
        self.events.append(KeyEvent(key, "put" if kind == "put" else "delete", revision, created, self._now(), value))

    async def _sample(self) -> None:
        while True:
            started = self._now()
            figures = await self._view.figures(self._cluster)
            self.samples.append(Sample(started, figures))
            await asyncio.sleep(max(0.0, started + self._every_s - self._now()))
