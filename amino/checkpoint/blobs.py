"""Large arguments and bundles in the checkpoint store, as the OMS sees it.

Owns their names. Leaves what they hold to the OMS (this implements ``oms.ports.Blobs``).
Invariants: a blob is durable once ``put`` returned; its content never changes.
Failure behaviour: ``StoreFailed``; every operation can be repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from amino.checkpoint import names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.collector import collect, delete_all
from amino.contracts.documents import Manifest
from amino.errors import AlreadyExists, Invalid, StoreFailed


class StoredBlobs:
    """Blobs in one checkpoint store; None stands for a server that has none, which refuses every ``put``."""

    def __init__(self, access: StoreAccess | None) -> None:
        self._access = access

    def __repr__(self) -> str:
        return f"StoredBlobs({self._access!r})"

    async def put(self, kind: str, name: str, content: bytes) -> str:
        """Store ``content`` and return its url, to be given to ``get``. Idempotent.

        Args:
            kind: ``arguments`` (``name`` is the microservice's id) or ``code`` (``name`` is the sha256).

        Raises:
            StoreFailed: the store refused, or there is none.
            Invalid: unknown kind.
        """
        if kind not in ("arguments", "code"):
            raise Invalid(f"blob kind {kind!r} is unknown; it is 'arguments' or 'code'")
        if self._access is None:
            raise StoreFailed(
                f"{kind} of {len(content)} bytes need a checkpoint store, which this server lacks; start servers with --store",
                kind="none",
            )
        url = names.code(name) if kind == "code" else names.arguments(name)
        try:
            await self._access.write(url, content)
        except AlreadyExists:
            if await self._access.read(url) != content:
                raise StoreFailed(
                    f"{url} in {self._access.store.url} holds something else; remove it", kind="broken"
                ) from None
        return url

    async def get(self, url: str) -> bytes:
        """Return the content of a blob.

        Raises:
            StoreFailed: it cannot be read, or is not there.
        """
        content = None if self._access is None else await self._access.read(url)
        if content is None:
            raise StoreFailed(
                f"{url} is not in this server's checkpoint store; give all servers the same one", kind="gone"
            )
        return content

    async def take(self, url: str) -> bytes | None:
        """Remove a blob and return its content; None if it is not there.

        Raises:
            StoreFailed: it cannot be read or removed.
        """
        content = None if self._access is None else await self._access.read(url)
        if self._access is not None and content is not None:
            await self._access.delete(url)
        return content

    async def collect(self, manifests: Mapping[str, tuple[Manifest, ...]], mine: Callable[[str], bool]) -> int:
        """Remove files that crashes left behind and that nothing names; returns how many. See ``collector.collect``.

        Raises:
            StoreFailed: something is left; try again.
        """
        return 0 if self._access is None else await collect(self._access, manifests, mine=mine)

    async def delete_checkpoints(self, ms_id: str) -> None:
        """Remove every checkpoint and stored argument of a microservice. Idempotent.

        Raises:
            StoreFailed: something is left; try again.
        """
        if self._access is not None:
            await delete_all(self._access, ms_id)
