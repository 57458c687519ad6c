"""Microservice records, read when needed.

Owns a bounded cache of records and the look-up of names. Leaves writing them to ``writes``.
Invariants: reads asked for at the same moment travel in one transaction; the cache holds ``RECORDS_MAX`` at most.
Failure behaviour: ``CoordinationUnavailable`` passes through; a record that cannot be read raises ``Invalid``.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping

from amino.aio.tasks import TaskOwner
from amino.contracts.documents import MicroserviceRecord, decode
from amino.coordination.keys import Keys
from amino.coordination.store import Get, Store
from amino.errors import CoordinationUnavailable, Invalid
from amino.ids import slot_of
from amino.oms.writes import of_later_release

RECORDS_MAX = 4096
BATCH_MAX = 100


class Records:
    """The records of microservices that this server had to do with lately."""

    def __init__(self, store: Store, keys: Keys) -> None:
        self._store = store
        self._keys = keys
        self._known: OrderedDict[str, MicroserviceRecord] = OrderedDict()
        self._asked: dict[str, asyncio.Future[MicroserviceRecord | None]] = {}
        self._tasks = TaskOwner("records")

    def __repr__(self) -> str:
        return f"Records({len(self._known)} known)"

    async def aclose(self) -> None:
        """Stop reading. Idempotent."""
        await self._tasks.aclose()

    def learn(self, ms_id: str, record: MicroserviceRecord) -> None:
        """Remember a record that was just written."""
        self._known[ms_id] = record
        self._known.move_to_end(ms_id)
        while len(self._known) > RECORDS_MAX:
            self._known.popitem(last=False)

    def forget(self, ms_id: str) -> None:
        """Drop what is remembered of a microservice."""
        self._known.pop(ms_id, None)

    async def get(self, ms_id: str, generation: int = 0) -> MicroserviceRecord | None:
        """Return a record, None if there is none (any more; one deleted a moment ago may still be remembered).

        Args:
            generation: of the spec that is in force at least, as the group's document says; what is older is read again.
        """
        known = self._known.get(ms_id)
        if known is not None and known.generation >= generation:
            self._known.move_to_end(ms_id)
            return known
        future = self._asked.get(ms_id)
        if future is None:
            future = self._asked[ms_id] = asyncio.get_running_loop().create_future()
            if len(self._asked) == 1:
                self._tasks.spawn(self._read_asked(), "read")
        return await asyncio.shield(future)

    async def get_many(self, ids: Mapping[str, int]) -> dict[str, MicroserviceRecord]:
        """Return those records of ``ids`` (id -> generation) that exist."""
        found = await asyncio.gather(*(self.get(ms_id, generation) for ms_id, generation in ids.items()))
        return {ms_id: record for ms_id, record in zip(ids, found, strict=True) if record is not None}

    async def id_of(self, name: str) -> str | None:
        """Return the id that has ``name``, read from etcd."""
        record = await self._store.get(self._keys.name(name))
        return record.value.decode() if record is not None else None

    async def _read_asked(self) -> None:
        await asyncio.sleep(0)  # let everyone who asks now travel along
        while self._asked:
            batch = dict(list(self._asked.items())[:BATCH_MAX])
            try:
                await self._read(batch)
            except BaseException as error:
                for future in batch.values():
                    if not future.done():
                        _fail(future, error)
                if not isinstance(error, Exception):
                    raise
            finally:
                for ms_id in batch:
                    del self._asked[ms_id]

    async def _read(self, batch: dict[str, asyncio.Future[MicroserviceRecord | None]]) -> None:
        result = await self._store.txn([], [Get(self._keys.microservice(slot_of(ms_id), ms_id)) for ms_id in batch])
        for (ms_id, future), found in zip(batch.items(), result.reads, strict=True):
            if not found:
                future.set_result(None)
                continue
            try:
                record = decode(found[0].value, MicroserviceRecord, found[0].key)
            except Invalid as error:
                _fail(future, of_later_release(error))
            except Exception as error:  # noqa: BLE001 - handed to who asked
                _fail(future, error)
            else:
                self.learn(ms_id, record)
                future.set_result(record)


def _fail(future: asyncio.Future[MicroserviceRecord | None], error: BaseException) -> None:
    if isinstance(error, asyncio.CancelledError):
        error = CoordinationUnavailable("this server is closing")
    future.set_exception(error)
    future.exception()  # who asked may have gone
