"""A watch that survives its streams: opened again from the next revision on whichever member answers.

Owns resumption, the dropping of duplicates and the noticing of silence. Leaves re-listing to ``watch.WatchedCache``.
Invariants: an event is delivered once and in order; the revision to resume from advances only with what was delivered
(or with a progress report of a version that gets it right), never on a time-out.
Failure behaviour: ``Compacted`` when history is gone; refused access is raised; all else leads to a new stream.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Self

import grpc
from aetcd import rpc

from amino.coordination.etcd import messages
from amino.coordination.etcd.connection import Connection
from amino.coordination.etcd.translate import Next
from amino.coordination.store import Compacted, WatchBatch
from amino.errors import Invalid

if TYPE_CHECKING:
    from amino.coordination.etcd.store import EtcdStore

PROGRESS_EVERY_S = 1.0
SILENCE_S = 2.5  # no answer to two progress requests: the member is gone or frozen
BACKOFF_S_MAX = 0.5
QUEUE_MAX = 64
_LEFT = object()
# etcd reports progress correctly only since these versions: before, a report may overtake events (etcd issue 15220).
_PROGRESS_CORRECT = {(3, 4): 25, (3, 5): 8}


async def watch_prefix(store: EtcdStore, prefix: str, start_revision: int) -> AsyncIterator[WatchBatch]:
    """Stream the changes of ``prefix`` from ``start_revision``; see ``Store.watch``."""
    following = start_revision
    failures = 0
    refusals = 0
    while not store.closed:
        connection = store._connection  # noqa: SLF001 - the store's other half; known even if authentication fails
        try:
            connection = await store.connection()
            stream = _Stream(store, connection, prefix, following)
            async with stream:
                while (batch := await stream.next_batch()) is not None:
                    following = max(following, batch.revision + 1)
                    failures = refusals = 0
                    yield batch
        except (grpc.RpcError, OSError) as error:
            verdict = store.note_failure(connection, error)
            if verdict.then is Next.NEW_TOKEN:
                refusals += 1
            if verdict.then is Next.NOWHERE or refusals > 1:
                raise verdict.error from error
            if verdict.then is Next.SAME_MEMBER and failures:
                store.rotate(connection)
        failures += 1
        await asyncio.sleep(min(BACKOFF_S_MAX, 0.02 * 2**failures) * random.random())


class _Stream:
    """One gRPC stream with one watch on it; ends without an error when its connection is retired."""

    def __init__(self, store: EtcdStore, connection: Connection, prefix: str, start_revision: int) -> None:
        self._store = store
        self._connection = connection
        self._prefix = prefix
        self._following = start_revision
        self._answers: asyncio.Queue[Any] = asyncio.Queue(QUEUE_MAX)
        self._left = False
        self._use = connection.use(self._leave)
        self._call: Any = None
        self._pump: asyncio.Task[None] | None = None

    def _leave(self) -> None:
        self._left = True
        if self._call is not None:
            self._call.cancel()

    async def __aenter__(self) -> Self:
        self._use.__enter__()
        try:
            if self._connection.progress_trusted is None:
                self._connection.progress_trusted = await self._progress_correct()
            self._call = self._connection.watch.Watch(metadata=self._connection.metadata)
            self._pump = self._store.tasks.spawn(self._receive(), f"watch {self._prefix}")
            await self._send(messages.watch_request(self._prefix, self._following))
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            if self._call is not None:
                self._call.cancel()
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.wait([self._pump])
        finally:
            self._use.__exit__(None, None, None)

    async def _send(self, request: Any) -> None:
        try:
            async with asyncio.timeout(SILENCE_S):
                await self._call.write(request)
        except asyncio.InvalidStateError:
            return  # the stream has ended; the pump says how
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if not self._left or (task is not None and task.cancelling() > 0):
                raise

    async def _progress_correct(self) -> bool:
        answer = await self._connection.maintenance.Status(
            rpc.StatusRequest(), timeout=SILENCE_S, metadata=self._connection.metadata
        )
        return progress_correct(answer.version)

    async def _receive(self) -> None:
        try:
            while True:
                answer = await self._call.read()
                await self._answers.put(answer)
                if not isinstance(answer, rpc.WatchResponse):
                    return
        except grpc.RpcError as error:
            await self._answers.put(error)
        except asyncio.CancelledError:
            if self._left and not self._pump_cancelled():
                await self._answers.put(_LEFT)
                return
            raise

    def _pump_cancelled(self) -> bool:
        return self._pump is not None and self._pump.cancelling() > 0

    async def next_batch(self) -> WatchBatch | None:
        """Wait for the next batch; None when the connection was retired."""
        while True:
            answer = await self._next_answer()
            if answer is _LEFT:
                return None
            if isinstance(answer, BaseException):
                raise answer
            if not isinstance(answer, rpc.WatchResponse):
                raise ConnectionResetError("the watch stream ended")
            if answer.canceled:
                self._raise_cancelled(answer)
            batch = self._batch(answer)
            if batch is not None:
                return batch

    async def _next_answer(self) -> Any:
        clock = self._store.clock
        silent_since = clock.monotonic()
        while True:
            if self._left and self._answers.empty():
                return _LEFT
            try:
                async with asyncio.timeout(PROGRESS_EVERY_S):
                    return await self._answers.get()
            except TimeoutError:
                if clock.monotonic() - silent_since >= SILENCE_S:
                    raise TimeoutError(f"watch of {self._prefix!r}: silence for {SILENCE_S} s") from None
            await self._send(messages.progress_request())

    def _raise_cancelled(self, answer: Any) -> None:
        if answer.compact_revision > 0:
            raise Compacted(answer.compact_revision)
        if "permission denied" in answer.cancel_reason and self._connection.authenticated:
            raise Invalid(
                f"etcd refuses the watch of {self._prefix!r}: {answer.cancel_reason}; grant our user read on it",
                reason="permission",
            )
        raise ConnectionResetError(f"etcd ended the watch: {answer.cancel_reason or 'no reason given'}")

    def _batch(self, answer: Any) -> WatchBatch | None:
        fresh = [one for one in answer.events if one.kv.mod_revision >= self._following]
        if fresh:
            revision = fresh[-1].kv.mod_revision
            self._following = revision + 1
            return WatchBatch(tuple(messages.event(one) for one in fresh), revision)
        if answer.events or answer.created:
            return None
        if self._connection.progress_trusted and answer.header.revision >= self._following:
            self._following = answer.header.revision + 1
        return WatchBatch((), self._following - 1)


def progress_correct(version: str) -> bool:
    """Return whether etcd of ``version`` reports a watch's progress never ahead of its events."""
    try:
        major, minor, patch = (int(part) for part in version.partition("-")[0].split("."))
    except ValueError:
        return False
    if (major, minor) in _PROGRESS_CORRECT:
        return patch >= _PROGRESS_CORRECT[major, minor]
    return (major, minor) > max(_PROGRESS_CORRECT)
