"""Bundles in the cluster: small ones in etcd (and in the checkpoint store), larger ones in the store with a pointer in etcd.

Owns the record of a bundle. Leaves loading to ``loader`` and files to the store it is given.
Invariants: a record exists only once its content can be read; the same bundle pushed again changes nothing.
Failure behaviour: ``Invalid`` for content that is not what its name says; ``CoordinationUnavailable`` and ``StoreFailed``
pass through, and pushing again is safe.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

from amino.aio.clock import Clock
from amino.code.bundle import BUNDLE_BYTES_MAX
from amino.code.loader import BundleContent
from amino.contracts.documents import CodeRecord, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Put, Store, absent
from amino.errors import AlreadyExists, CodeUnavailable, Invalid, NotFound

INLINE_BYTES_MAX = 256 * 1024


class Files(Protocol):
    """Where large bundles are (``checkpoint.access.StoreAccess``)."""

    async def write(self, key: str, content: bytes) -> None:
        """Store ``content`` under a fresh name; raises ``AlreadyExists`` if it was written before."""
        ...

    async def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is none."""
        ...


class CodeStorage:
    """The bundles of one cluster; on the loop of its coordination store.

    Args:
        files: for bundles over 256 KiB; None refuses those.
    """

    def __init__(self, store: Store, keys: Keys, files: Files | None, clock: Clock) -> None:
        self._store = store
        self._keys = keys
        self._files = files
        self._clock = clock

    def __repr__(self) -> str:
        return f"CodeStorage({self._keys.code_prefix})"

    async def push(self, sha256: str, kind: str, content: bytes) -> None:
        """Store a bundle. Idempotent.

        Raises:
            Invalid: unknown kind, too large, or the content has another sha256.
        """
        if kind not in ("pickle", "zip"):
            raise Invalid(f"bundle kind {kind!r} is unknown; it is 'pickle' or 'zip'")
        if len(content) > BUNDLE_BYTES_MAX:
            raise Invalid(
                f"a bundle of {len(content)} bytes is larger than {BUNDLE_BYTES_MAX}; keep data files elsewhere"
            )
        if hashlib.sha256(content).hexdigest() != sha256:
            raise Invalid(f"the content is not that of bundle {sha256!r}; name it by its own sha256")
        key = self._keys.code(sha256)
        if await self._store.get(key) is not None:
            return
        record = CodeRecord(kind=kind, size=len(content), uploaded_at=self._clock.wall())  # type: ignore[arg-type]
        if len(content) <= INLINE_BYTES_MAX:
            record = CodeRecord(record.kind, inline=content, size=record.size, uploaded_at=record.uploaded_at)
        else:
            url = await self._write(sha256, content)
            record = CodeRecord(record.kind, url=url, size=record.size, uploaded_at=record.uploaded_at)
        await self._store.txn([absent(key)], [Put(key, encode(record))])

    async def fetch(self, sha256: str) -> BundleContent:
        """Return a bundle's content; it is not checked here.

        Raises:
            NotFound: there is no such bundle.
            CodeUnavailable: its record is here but its content is not.
        """
        key = self._keys.code(sha256)
        found = await self._store.get(key)
        if found is None:
            raise NotFound(f"bundle {sha256} is not in the cluster; push the code")
        record = decode(found.value, CodeRecord, key)
        if record.inline or not record.url:
            return BundleContent(record.kind, record.inline)
        content = await self._files.read(record.url) if self._files is not None else None
        if content is None:
            raise CodeUnavailable(
                f"bundle {sha256} is not in this server's checkpoint store; give all servers the same --store",
                sha256=sha256,
            )
        return BundleContent(record.kind, content)

    async def _write(self, sha256: str, content: bytes) -> str:
        if self._files is None:
            raise Invalid(
                f"a bundle of {len(content)} bytes needs a checkpoint store, which this server lacks (over "
                f"{INLINE_BYTES_MAX} it does not fit into etcd); start servers with --store"
            )
        url = f"code/{sha256}"
        try:
            await self._files.write(url, content)
        except AlreadyExists:
            if await self._files.read(url) != content:
                raise
        return url
