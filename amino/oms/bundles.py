"""Removing bundles of code that no microservice and no application uses any more.

Owns the rounds and what counts as used. Leaves when a round is due to ``housekeeping`` and files to the blobs.
Invariants: a bundle goes only after it was unused, and not pushed again, for ``ROUNDS`` rounds in a row; the record goes before
the file, by a write that compares that nobody pushed it meanwhile.
Failure behaviour: a round that is cut short counts for nothing; a file that stays behind is overwritten by the next push.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from amino.contracts.documents import ApplicationRecord, CodeRecord, MicroserviceRecord, decode
from amino.coordination.store import unchanged
from amino.errors import StoreFailed
from amino.ids import SLOT_COUNT

if TYPE_CHECKING:
    from amino.coordination.keys import Keys
    from amino.coordination.store import Record, Store
    from amino.oms.ports import Blobs
    from amino.oms.writes import Writes

_log = logging.getLogger("amino.oms")
ROUNDS = 4
"""A client pushes again what it pushed more than ten minutes ago; so many rounds are an hour."""


class Bundles:
    """The bundles of a cluster, as the leader of slot 0 looks at them."""

    def __init__(self, store: Store, keys: Keys, writes: Writes, blobs: Blobs) -> None:
        self._store = store
        self._keys = keys
        self._writes = writes
        self._blobs = blobs
        self._unused: dict[tuple[str, int], int] = {}

    def __repr__(self) -> str:
        return f"Bundles({len(self._unused)} unused)"

    def forget(self) -> None:
        """Another server looks after them now."""
        self._unused = {}

    async def collect(self) -> int:
        """Do one round; returns how many bundles were removed. Raises ``CoordinationUnavailable``, ``StoreFailed``."""
        records, _ = await self._store.list(self._keys.code_prefix)
        seen, self._unused = self._unused, {}
        if not records:
            return 0
        used = await self._used()
        removed = 0
        for record in records:
            if self._keys.parse_code(record.key) in used:
                continue
            mark = record.key, record.mod_revision
            rounds = seen.get(mark, 0) + 1
            if rounds > ROUNDS:
                removed += await self._remove(record)
            else:
                self._unused[mark] = rounds
        if removed:
            _log.info("%d bundles of code that nothing uses were removed", removed)
        return removed

    async def _used(self) -> set[str]:
        found: set[str] = set()
        for slot in range(SLOT_COUNT):
            records, _ = await self._store.list(self._keys.microservices_of(slot))
            found |= {decode(one.value, MicroserviceRecord, one.key).spec.code for one in records}
        records, _ = await self._store.list(self._keys.applications_prefix)
        return found | {decode(one.value, ApplicationRecord, one.key).entry.code for one in records}

    async def _remove(self, record: Record) -> bool:
        """Remove one, unless it was pushed again meanwhile."""
        bundle = decode(record.value, CodeRecord, record.key)
        if not await self._writes.delete_if([unchanged(record.key, record.mod_revision)], [record.key]):
            return False
        if bundle.url:
            content = await self._blobs.take(bundle.url)
            if content is not None and await self._store.get(record.key) is not None:  # pushed in this very moment
                try:
                    await self._blobs.put("code", self._keys.parse_code(record.key), content)
                except StoreFailed as error:
                    _log.error("bundle %s was pushed while it was removed, and is not there: %s", record.key, error)
        return True
