"""An operation log that is being written: records gathered, written as one frame, synced, acknowledged.

Owns gathering (group commit) and the order write, sync, look for the seal, acknowledge. Leaves frames to ``log_format``,
the file to the store, and what a record is to whoever appends it.
Invariants: frames are written one after the other, each after the sync of the one before; nothing is acknowledged whose
sync did not return, or after whose sync the log was found sealed.
Failure behaviour: the first failure is the end of the log: all that waits, and all that is appended later, ends with it
(``StoreFailed``; ``NotExecuted``, reason ``fenced``: sealed by who took over, or the session is not valid).
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Awaitable, Callable

from amino.aio.mode import on
from amino.aio.signal import Signal
from amino.aio.tasks import TaskOwner
from amino.checkpoint import log_format, names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.store import Segment
from amino.errors import AminoError, NotExecuted, OutcomeUnknown

Synced = Signal[AminoError | None]
"""Set once a record is durable, with None, or certainly not acknowledged, with the reason."""


class _Batch:
    __slots__ = ("hurry", "records", "synced")

    def __init__(self) -> None:
        self.records: list[bytes] = []
        self.synced: Synced = Signal()
        self.hurry: Signal[None] = Signal()


class OperationLog:
    """Implements ``contracts.component.OperationLog``; made by ``ReplicaCheckpoints.begin_log``.

    Args:
        loop: where it is flushed.
        url: of the checkpoint that it goes on from.
        may_append: raises ``NotExecuted`` if this server may not act.
        window_s: see ``begin_log``; 0 gives each record a sync of its own.
    """

    def __init__(
        self,
        *,
        access: StoreAccess,
        loop: asyncio.AbstractEventLoop,
        url: str,
        segment: Segment,
        may_append: Callable[[], Awaitable[None]],
        window_s: float,
    ) -> None:
        self.url = url
        self.synced = 0
        self.records = 0
        self.size = 0
        self.failed: AminoError | None = None
        self._access = access
        self._loop = loop
        self._segment = segment
        self._seed = log_format.seed_of(url)
        self._seal = names.seal_of(url)
        self._may_append = may_append
        self._window_s = window_s
        self._frames = 0
        self._expected = 1  # callers that come again and again: those answered last, and those who came meanwhile
        self._gathering = True
        self._lock = threading.Lock()
        self._batches: deque[_Batch] = deque()  # beside the one being written; several only if none is shared
        self._flushing = False
        self._closed = False
        self._tasks = TaskOwner(f"log {url}")

    def __repr__(self) -> str:
        return f"OperationLog({self.url}, {self.records} records, {self.size} bytes)"

    def append(self, record: bytes) -> Synced:
        """Add a record after all before it; returns what is set when it is durable. From any thread; never waits."""
        with self._lock:
            if self.failed is not None:
                refused: Synced = Signal()
                refused.set(self.failed)
                return refused
            if self._window_s <= 0 or not self._batches:
                self._batches.append(_Batch())
            batch = self._batches[-1]
            batch.records.append(record)
            enough = self._gathering and len(batch.records) >= self._expected
            self.records += 1
            self.size += len(record)
            start = not self._flushing
            self._flushing = True
        if enough:
            batch.hurry.set(None)
        if start:
            if asyncio._get_running_loop() is self._loop:  # noqa: SLF001 - as in aio.mode
                self._start()
            else:
                self._loop.call_soon_threadsafe(self._start)
        return batch.synced

    def hurry(self) -> None:
        """Somebody waits for what was appended: do not wait for the window to pass. From any thread; never waits."""
        with self._lock:
            batch = self._batches[-1] if self._batches else None
        if batch is not None:
            batch.hurry.set(None)

    async def aclose(self) -> None:
        """Let go of the file; what was not synced by now ends as unknown. Idempotent."""
        await on(self._loop, self._close())

    async def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        await self._tasks.aclose()
        self._fail(OutcomeUnknown("its replica left before it was synced"))
        self._access.run_later(self._segment.close)

    def _start(self) -> None:
        if self._closed:
            self._fail(OutcomeUnknown("its replica left before it was synced"))
        else:
            self._tasks.spawn(self._flush(), "flush")

    async def _flush(self) -> None:
        """Write batch after batch until there is none left."""
        batch = self._batches[0]
        try:
            while True:
                if self._window_s > 0 and len(batch.records) < self._expected:
                    with contextlib.suppress(TimeoutError):
                        await batch.hurry.wait(self._window_s)
                with self._lock:
                    self._batches.popleft()
                    self._gathering = False
                await self._may_append()
                self._frames += 1
                self.synced += await self._access.run(self._write, self._frames, batch.records)
                with self._lock:
                    self._expected = len(batch.records) + sum(len(each.records) for each in self._batches)
                    self._gathering = True
                batch.synced.set(None)
                with self._lock:
                    if not self._batches:
                        self._flushing = False
                        return
                    batch = self._batches[0]
        except AminoError as error:
            self._fail(error, batch)
        except asyncio.CancelledError:
            self._fail(OutcomeUnknown("its replica left before it was synced"), batch)
            raise

    def _fail(self, error: AminoError, batch: _Batch | None = None) -> None:
        with self._lock:
            if self.failed is None:
                self.failed = error
            self._flushing = False
            waiting = [*([batch] if batch is not None else []), *self._batches]
            self._batches.clear()
        for each in waiting:
            each.synced.set(error)

    def _write(self, number: int, records: list[bytes]) -> int:
        """Write and sync one frame, see whether the log may still be written, and note that; returns its bytes."""
        data = log_format.frame(self._seed, number, records)
        self._segment.append(data)
        if self._access.store.exists(self._seal):
            raise NotExecuted("another server took over and sealed this log", reason="fenced")
        mark = log_format.frame(self._seed, number, ())
        return len(data) + (len(mark) if self._segment.note(mark) else 0)
