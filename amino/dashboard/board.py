"""What watchers of the dashboard have yet to be told, and telling it: level by level, never a queue that grows.

Owns the rows as last sent out, the set of ids each watcher has yet to hear of, and the loops that look at events and figures while
somebody watches. Leaves the shape of the data to ``rows`` and bytes on a socket to ``http``.
Invariants: what a slow watcher waits for is a set of ids, so it gets the newest state and skips what lay between; the first picture
and every change after it travel the same way; while nobody watches nothing is kept and nothing is asked.
Failure behaviour: what cannot be read now (etcd away, a record of a later release) is tried again a moment later; the rest is shown.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import MicroserviceRecord
from amino.contracts.services import EventInfo
from amino.dashboard import rows
from amino.dashboard.ports import Source
from amino.errors import AminoError
from amino.ids import ROOT

_log = logging.getLogger("amino.dashboard")
TICK_S = 0.1
"""How long changes are gathered before they are told; with the browser's drawing well below the second that is promised."""
BEAT_S = 5.0
FIGURES_S = 2.0
EVENTS_WAIT_S = 20.0
RETRY_S = 2.0
CHUNK = 100
EVENTS_KEPT = 300
WATCHERS_MAX = 32


class Watcher:
    """One page that looks on: what it has yet to be told."""

    def __init__(self) -> None:
        self.dirty: dict[str, None] = {}
        self.members = True
        self.figures = b""
        self.events: deque[EventInfo] = deque(maxlen=EVENTS_KEPT)
        self.whole = False
        self.history = False
        self.wake = asyncio.Event()

    def __repr__(self) -> str:
        return f"Watcher({len(self.dirty)} rows to tell)"


class Board:
    """The live picture of one cluster, for as many watchers as there are.

    Args:
        actions: whether this dashboard can act at all (it has a token).
    """

    def __init__(self, source: Source, clock: Clock, *, actions: bool) -> None:
        self.source = source
        self._clock = clock
        self._actions = actions
        self._watchers: dict[Watcher, None] = {}
        self._rows: dict[str, bytes] = {}
        self._about: dict[str, tuple[int, MicroserviceRecord]] = {}
        self._recent: deque[EventInfo] = deque(maxlen=EVENTS_KEPT)
        self._figures = b""
        self._seen = 0
        self._known = False
        self._tasks: TaskOwner | None = None
        source.on_group(self._group_changed)
        source.on_members(self._members_changed)

    def __repr__(self) -> str:
        return f"Board({len(self._watchers)} watchers, {len(self._rows)} rows)"

    @property
    def full(self) -> bool:
        """Whether no further watcher is taken."""
        return len(self._watchers) >= WATCHERS_MAX

    async def stream(self) -> AsyncGenerator[bytes, None]:
        """Yield the picture, then what changes, as server-sent events; for ever."""
        watcher = Watcher()
        watcher.dirty = dict.fromkeys(self.source.ids())
        watcher.figures = self._figures
        self._watchers[watcher] = None
        self._begin()
        try:
            total = len(watcher.dirty)
            yield _message(
                "hello", rows.plain({"server": self.source.server, "actions": self._actions, "total": total})
            )
            while True:
                told = False
                async for message in self._news(watcher):
                    told = True
                    yield message
                if not told:
                    yield _message("beat", b"{}")
                await self._pause(watcher)
        finally:
            del self._watchers[watcher]
            if not self._watchers:
                await self.aclose()

    async def aclose(self) -> None:
        """Stop looking and forget. Idempotent."""
        tasks, self._tasks = self._tasks, None
        self._rows.clear()
        self._about.clear()
        self._recent.clear()
        self._figures, self._seen, self._known = b"", 0, False
        if tasks is not None:
            await tasks.aclose()

    # --- one watcher ------------------------------------------------------------------------------------------------

    async def _pause(self, watcher: Watcher) -> None:
        """Wait until there is news, and a moment longer for more of it."""
        try:
            async with asyncio.timeout(BEAT_S):
                await watcher.wake.wait()
        except TimeoutError:
            return
        await asyncio.sleep(TICK_S)
        watcher.wake.clear()

    async def _news(self, watcher: Watcher) -> AsyncIterator[bytes]:
        if watcher.members:
            watcher.members = False
            yield _message("members", rows.servers_of(self.source.membership()))
        if watcher.history and watcher.events:  # before rows, which take longer when there are many
            told = tuple(watcher.events)
            watcher.events.clear()
            yield _message("events", rows.events_of(told))
        dirty, watcher.dirty = watcher.dirty, {}  # what changes meanwhile is told next time
        while dirty:
            chunk = [dirty.popitem()[0] for _ in range(min(CHUNK, len(dirty)))]
            present = await self._present(chunk)
            gone = [ms_id for ms_id in chunk if ms_id not in present]
            if present:
                yield _message("rows", rows.joined(list(present.values())))
            if gone:
                yield _message("gone", rows.plain(gone))
            await asyncio.sleep(0)  # calls come first
        if not watcher.whole:
            watcher.whole = True
            yield _message("whole", b"{}")
        if self._known and not watcher.history:
            watcher.history = True
            watcher.events.clear()
            yield _message("history", rows.events_of(tuple(self._recent)))
        if watcher.figures:
            figures, watcher.figures = watcher.figures, b""
            yield _message("figures", figures)

    async def _present(self, ids: list[str]) -> dict[str, bytes]:
        """Return the rows of those that exist."""
        groups = {ms_id: found for ms_id in ids if ms_id not in self._rows and (found := self.source.groups(ms_id))}
        generations = {ms_id: found[ROOT].generation for ms_id, found in groups.items() if ROOT in found}
        wanted = {
            ms_id: generation
            for ms_id, generation in generations.items()
            if ms_id not in self._about or self._about[ms_id][0] < generation
        }
        if wanted:
            try:
                for ms_id, record in (await self.source.records(wanted)).items():
                    self._about[ms_id] = (wanted[ms_id], record)
            except AminoError as error:
                _log.debug("%d records are asked for again: %s", len(wanted), error)
                self._again(wanted)
        present = {ms_id: self._rows[ms_id] for ms_id in ids if ms_id in self._rows}
        for ms_id, found in groups.items():
            if ms_id in self._about:
                present[ms_id] = rows.row_of(ms_id, self._about[ms_id][1], found)
                if self.source.groups(ms_id) == found:  # else it changed during the wait, and is told of again
                    self._rows[ms_id] = present[ms_id]
        return present

    def _again(self, ids: dict[str, int]) -> None:
        """Have these looked at once more, a moment later."""

        def mark() -> None:
            for ms_id in ids:
                self._group_changed(ms_id)

        asyncio.get_running_loop().call_later(RETRY_S, mark)

    # --- what changes -----------------------------------------------------------------------------------------------

    def _group_changed(self, ms_id: str) -> None:
        if not self._watchers:
            return
        self._rows.pop(ms_id, None)
        if not self.source.groups(ms_id):
            self._about.pop(ms_id, None)
        for watcher in self._watchers:
            watcher.dirty[ms_id] = None
            watcher.wake.set()

    def _members_changed(self) -> None:
        for watcher in self._watchers:
            watcher.members = True
            watcher.wake.set()

    def _begin(self) -> None:
        if self._tasks is None:
            self._tasks = TaskOwner("dashboard")
            self._tasks.spawn(self._follow_events(), "events")
            self._tasks.spawn(self._follow_figures(), "figures")

    async def _follow_events(self) -> None:
        while True:
            try:
                events = await self.source.events(self._seen, EVENTS_WAIT_S if self._known else 0.0)
            except AminoError as error:
                _log.debug("events are asked for again: %s", error)
                await asyncio.sleep(RETRY_S)
                continue
            if not events and self._known:
                continue
            self._known = True
            self._seen = max((event.revision for event in events), default=0)
            self._recent.extend(events)
            for watcher in self._watchers:
                watcher.events.extend(events)
                watcher.wake.set()

    async def _follow_figures(self) -> None:
        while True:
            try:
                statistics = await self.source.statistics()
            except AminoError as error:
                _log.debug("figures are asked for again: %s", error)
            else:
                self._figures = rows.figures_of(statistics, self._clock.monotonic())
                for watcher in self._watchers:
                    watcher.figures = self._figures
                    watcher.wake.set()
            await asyncio.sleep(FIGURES_S)


def _message(kind: str, data: bytes) -> bytes:
    """Return one server-sent event; JSON has no line breaks in it."""
    return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"
