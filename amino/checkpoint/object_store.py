"""Checkpoints as objects of S3, or of whatever else fsspec can write.

Owns the translation of fsspec's calls and errors. Leaves credentials and endpoints to fsspec's options.
Invariants: an object appears whole or not at all, which is S3's own promise; listings are never cached.
Failure behaviour: see ``store``. Where the protocol cannot create without overwriting (``mode='create'``), a name is
looked for before it is written, which is enough for names that are random.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from amino.checkpoint.names import check_prefix, parts_of
from amino.checkpoint.store import Buffer, StoredFile
from amino.errors import AlreadyExists, CorruptCheckpoint, Invalid, StoreFailed

_CONNECT_TIMEOUT_S_MAX = 5.0


class ObjectStore:
    """A store on an fsspec file system.

    Args:
        filesystem: made for this store alone; closed with it.
        root: bucket and prefix.
    """

    blocks = True

    def __init__(self, filesystem: Any, root: str, url: str) -> None:
        self._filesystem = filesystem
        self._root = root.rstrip("/")
        self.url = url
        self._lock = threading.Lock()
        self._creates = "s3" in _protocols(filesystem)

    def __repr__(self) -> str:
        return f"ObjectStore({self.url})"

    @classmethod
    def open(cls, url: str, *, cluster: str, options: Mapping[str, Any], timeout_s: float) -> ObjectStore:
        """Open the store at ``url``; see ``store.open_store``."""
        import fsspec

        split = urlsplit(url)
        shown = f"{split.scheme}://{split.hostname or ''}{split.path}".rstrip("/") + (f"/{cluster}" if cluster else "")
        settings: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False, **options}
        if split.scheme in {"s3", "s3a"}:
            settings["config_kwargs"] = {
                "connect_timeout": min(timeout_s, _CONNECT_TIMEOUT_S_MAX),
                "read_timeout": timeout_s,
                "retries": {"max_attempts": 2, "mode": "standard"},
                **settings.get("config_kwargs", {}),
            }
        try:
            filesystem, root = fsspec.core.url_to_fs(url, **settings)
        except (ImportError, ValueError, TypeError) as error:
            raise Invalid(
                f"checkpoint store {shown} cannot be opened: {error}; install the adapter (for s3://: "
                "pip install 'amino-run[s3]') and check its options"
            ) from error
        store = cls(filesystem, f"{root}/{cluster}" if cluster else root, shown)
        with store._translated("open", ""):
            filesystem.exists(store._root)
        return store

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store ``parts`` under ``key``, all or nothing."""
        path = self._path(key)
        data = b"".join(parts)
        with self._translated("write", key):
            try:
                if self._creates:
                    self._filesystem.pipe_file(path, data, mode="create")
                    return
                if self._filesystem.exists(path):
                    raise FileExistsError(path)
                with contextlib.suppress(NotImplementedError):
                    self._filesystem.makedirs(path.rpartition("/")[0], exist_ok=True)
                self._filesystem.pipe_file(path, data)
            except FileExistsError:
                raise AlreadyExists(
                    f"{key!r} is already in {self.url}; names are written once: choose a fresh one", name=key
                ) from None

    def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is no such object."""
        path = self._path(key)
        with self._translated("read", key):
            try:
                return bytes(self._filesystem.cat_file(path))
            except FileNotFoundError:
                self._check_bucket()
                return None

    def exists(self, key: str) -> bool:
        """Return whether ``key`` has been written."""
        path = self._path(key)
        with self._translated("read", key):
            if self._filesystem.exists(path):
                return True
            self._check_bucket()
            return False

    def delete(self, key: str) -> None:
        """Remove ``key``."""
        path = self._path(key)
        with self._translated("delete", key), contextlib.suppress(FileNotFoundError):
            self._filesystem.rm_file(path)

    def list(self, prefix: str) -> list[StoredFile]:
        """Return all objects below ``prefix``, in order of their names."""
        check_prefix(prefix)
        start = f"{self._root}/{prefix}".rstrip("/")
        with self._translated("list", prefix):
            try:
                found = self._filesystem.find(start, detail=True)
            except FileNotFoundError:
                return []
        return sorted(
            (
                StoredFile(path.removeprefix(f"{self._root}/"), int(info["size"]), _modified_at(info))
                for path, info in found.items()
                if path.startswith(f"{self._root}/")
            ),
            key=lambda file: file.key,
        )

    def open_segment(self, key: str) -> ObjectSegment:
        """Return the segment ``key``: a numbered object per append, each created atomically."""
        if not self._creates:
            raise Invalid(
                f"{self.url} can neither append with sync nor create objects atomically (only file:// and s3:// can), "
                "so nothing can be made durable call by call there; use PeriodicCheckpoint, or another store"
            )
        parts_of(key)
        return ObjectSegment(self, key)

    def read_segment(self, key: str) -> tuple[bytes, bool] | None:
        """Return what was appended to ``key``, up to a gap; an empty segment cannot be told from a missing one."""
        found = {file.key: None for file in self.list(f"{key}/")}
        parts: list[bytes] = []
        while (name := ObjectSegment.name(key, len(parts) + 1)) in found:
            parts.append(self.read(name) or b"")
        if len(parts) != len(found):
            raise CorruptCheckpoint(
                f"{ObjectSegment.name(key, len(parts) + 1)!r} is missing from {self.url}, though later ones are there; "
                "bring it back from a backup",
                kind="gaps",
            )
        return b"".join(parts), True

    def delete_segment(self, key: str) -> None:
        """Remove all its objects, the last ones first."""
        for file in reversed(self.list(f"{key}/")):
            self.delete(file.key)

    def sweep(self, older_than_s: float) -> int:
        """Do nothing: interrupted writes leave no object; unfinished uploads are the bucket's lifecycle rule's."""
        del older_than_s
        return 0

    def close(self) -> None:
        """Close connections."""
        with self._lock:
            filesystem, self._filesystem = self._filesystem, _Closed()
        if "s3" in _protocols(filesystem):
            _close_s3(filesystem)

    def _path(self, key: str) -> str:
        return "/".join([self._root, *parts_of(key)])

    def _check_bucket(self) -> None:
        bucket = self._root.partition("/")[0]
        if "s3" in _protocols(self._filesystem) and not self._filesystem.exists(bucket):
            raise StoreFailed(f"bucket {bucket!r} of {self.url} does not exist; create it", kind="gone")

    @contextlib.contextmanager
    def _translated(self, action: str, key: str) -> Iterator[None]:
        """Translate foreign errors; the one place where that is done."""
        try:
            yield
        except (AlreadyExists, StoreFailed):
            raise
        except PermissionError as error:
            raise self._failure("denied", "check its credentials and policy", action, key, error) from error
        except FileNotFoundError as error:
            raise self._failure("gone", "create the bucket or folder", action, key, error) from error
        except TimeoutError as error:
            raise self._failure("timeout", "check that it is reachable", action, key, error) from error
        except Exception as error:  # adapters raise their libraries' own errors, which nothing here imports
            text = f"{type(error).__module__}.{type(error).__name__} {error}"
            if "Credentials" in text or "AccessDenied" in text or "InvalidAccessKeyId" in text:
                raise self._failure("denied", "check its credentials and policy", action, key, error) from error
            if "timeout" in text.lower():
                raise self._failure("timeout", "check that it is reachable", action, key, error) from error
            kind = "unreachable" if "connect" in text.lower() else "broken"
            raise self._failure(kind, "check endpoint and network", action, key, error) from error

    def _failure(self, kind: str, remedy: str, action: str, key: str, error: Exception) -> StoreFailed:
        return StoreFailed(
            f"cannot {action} {key!r} in {self.url}: {type(error).__name__}: {error}; {remedy}",
            kind=kind,
            store=self.url,
        )


class ObjectSegment:
    """Implements ``store.Segment``: each append is one object, which appears whole or not at all."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._count = 0

    @staticmethod
    def name(key: str, number: int) -> str:
        """Return the name of the object of one append."""
        return f"{key}/{number:010d}"

    def append(self, data: Buffer) -> None:
        """Create the next object."""
        self._count += 1
        self._store.write(self.name(self._key, self._count), [data])

    def note(self, data: Buffer) -> bool:  # noqa: ARG002 - the port's form
        """Do nothing: it would cost a request, and no object is ever torn."""
        return False

    def close(self) -> None:
        """Do nothing."""


class _Closed:
    """Stands where the file system was; using it is a bug of the store's owner."""

    protocol = "closed"

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(f"the checkpoint store is closed; {name} came after close()")


def _protocols(filesystem: Any) -> tuple[str, ...]:
    protocol = filesystem.protocol
    return (protocol,) if isinstance(protocol, str) else tuple(protocol)


def _modified_at(info: Mapping[str, Any]) -> float:
    for field in ("LastModified", "mtime", "created", "last_modified"):
        value = info.get(field)
        if value is not None:
            return float(value.timestamp() if hasattr(value, "timestamp") else value)
    return 0.0


def _close_s3(filesystem: Any) -> None:
    client = getattr(filesystem, "_s3", None)
    if client is not None:
        filesystem.close_session(filesystem.loop, client)
        filesystem._s3 = None  # noqa: SLF001 - s3fs has no public way to be closed
