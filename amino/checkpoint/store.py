"""The checkpoint store port, and the choice of its adapter by URL.

Owns the promises that all stores keep (``file_store``, ``object_store``, ``memory_store``). Leaves what is stored to
its callers, and waiting without holding up a loop to ``access``.
Invariants: what ``write`` returned from survives kill -9 and power loss; a name is written once and never changes.
Failure behaviour: ``StoreFailed``, with ``details['kind']`` one of ``full``, ``denied``, ``gone``, ``unreachable``,
``timeout``, ``broken``; a write that failed leaves nothing under its name, or nothing is known (``unreachable``,
``timeout``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from amino.errors import Invalid

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file of a listing.

    Args:
        key: its name below the store's root.
        size: in bytes.
        modified_at: seconds since 1970 on the store's own clock.
    """

    key: str
    size: int
    modified_at: float


class Segment(Protocol):
    """A file that grows at its end, written by one. Its functions block, and one thread at a time may use it."""

    def append(self, data: Buffer) -> None:
        """Add ``data``; it is synced when this returns.

        Raises:
            StoreFailed: whether it, or a part, is there is unknown; nothing more can be appended.
        """
        ...

    def note(self, data: Buffer) -> bool:
        """Add ``data`` unless that costs a request; it need not survive. Returns whether; raises as ``append``."""
        ...

    def close(self) -> None:
        """Give it up. Idempotent."""
        ...


class CheckpointStore(Protocol):
    """The port. All functions block, may be called from any thread at once, and must not be called on a loop."""

    @property
    def url(self) -> str:
        """Where it is, without secrets; for messages and manifests."""
        ...

    @property
    def blocks(self) -> bool:
        """Whether calls wait for anything; False only for memory."""
        ...

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store the joined ``parts`` under ``key``, synced, all or nothing.

        Raises:
            AlreadyExists: the name was written before; its content is unchanged.
            StoreFailed: see the module.
            Invalid: the name is not portable.
        """
        ...

    def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is no such file."""
        ...

    def exists(self, key: str) -> bool:
        """Return whether ``key`` has been written."""
        ...

    def delete(self, key: str) -> None:
        """Remove ``key``. Removing what does not exist is no error."""
        ...

    def list(self, prefix: str) -> list[StoredFile]:
        """Return all files below ``prefix`` (empty, or a folder's name with ``/``), in order of their names."""
        ...

    def open_segment(self, key: str) -> Segment:
        """Create the segment ``key``, empty; that it exists is synced when this returns.

        Raises:
            AlreadyExists: the name is taken.
            Invalid: this store can neither append with sync nor create objects atomically.
        """
        ...

    def read_segment(self, key: str) -> tuple[bytes, bool] | None:
        """Return what was appended to ``key`` and whether each append is all or nothing; None if there is no such file."""
        ...

    def delete_segment(self, key: str) -> None:
        """Remove the segment ``key``. Removing what does not exist is no error."""
        ...

    def sweep(self, older_than_s: float) -> int:
        """Remove what interrupted writes left behind so long ago; returns how many."""
        ...

    def close(self) -> None:
        """Give up connections. Idempotent."""
        ...


def open_store(
    url: str, *, cluster: str = "", options: Mapping[str, Any] | None = None, timeout_s: float = 10.0
) -> CheckpointStore:
    r"""Open the store at ``url``; creates its root folder where stores have folders.

    Args:
        url: ``file:///shared/amino``, a path (``/shared/amino``, ``C:\amino``), ``s3://bucket/prefix``, or whatever
            fsspec knows.
        cluster: kept in a folder of its own below ``url``, so that clusters can share a store.
        options: fsspec storage options (endpoint, credentials). Those not given come from fsspec's configuration
            (``FSSPEC_S3_ENDPOINT_URL``, ...) and from the usual environment variables of the store (``AWS_...``).
        timeout_s: seconds that one request to an object store may take.

    Raises:
        Invalid: no adapter for that URL is installed, or an option is unknown.
        StoreFailed: it cannot be opened.
    """
    scheme = urlsplit(url).scheme if "://" in url else "file"
    if not url or url.endswith("://"):
        raise Invalid(f"checkpoint store {url!r} names no place; give a folder, file:///folder or s3://bucket/prefix")
    if scheme in {"file", "local"}:
        from amino.checkpoint.file_store import FileStore, folder_of

        return FileStore(folder_of(url), cluster)
    from amino.checkpoint.object_store import ObjectStore

    return ObjectStore.open(url, cluster=cluster, options=options or {}, timeout_s=timeout_s)
