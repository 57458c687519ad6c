"""Checkpoints in a folder, usually of a shared file system.

Owns the protocol that makes a write atomic and durable: content into a fresh file in ``.partial``, synced; linked to
its final name, which fails if that exists; the folder synced, and every new folder in its parent.
Leaves contents to its callers.
Invariants: no reader ever sees half a file; a returned write survives power loss on a file system that honours fsync.
Failure behaviour: see ``store``; a failed sync is never retried on the same file, because the system may have dropped
its pages. A root that has vanished (an unmounted share) is an error, never created anew.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from amino.checkpoint.names import check_prefix, parts_of
from amino.checkpoint.store import Buffer, StoredFile
from amino.errors import AlreadyExists, StoreFailed

_PARTIAL = ".partial"
_ATTEMPTS_MAX = 100
_APPEND = os.O_WRONLY | os.O_APPEND | getattr(os, "O_BINARY", 0)
_FOLDERS_CAN_SYNC = os.name != "nt"
_NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK, errno.EXDEV}


def folder_of(url: str) -> Path:
    """Return the folder that a ``file://`` URL or a plain path names."""
    from fsspec.implementations.local import LocalFileSystem

    return Path(LocalFileSystem._strip_protocol(url))  # noqa: SLF001 - fsspec's own reading of such URLs, Windows included


class FileSegment:
    """Implements ``store.Segment``: a file that is appended to and synced."""

    def __init__(self, store: FileStore, key: str, descriptor: int) -> None:
        self._store = store
        self._key = key
        self._descriptor = descriptor
        self._lock = threading.Lock()  # whoever gave up on a write that hangs must not close the file under it

    def append(self, data: Buffer) -> None:
        """Add ``data`` and sync it."""
        with self._lock, self._store.translated("append to", self._key):
            self._write(data)
            _sync_content(self._descriptor)

    def note(self, data: Buffer) -> bool:
        """Add ``data``, which the system writes in its own time."""
        with self._lock, self._store.translated("append to", self._key):
            self._write(data)
        return True

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)

    def _write(self, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        while view:
            view = view[os.write(self._descriptor, view) :]


class FileStore:
    """A store in the folder ``root``, created if need be; ``cluster`` is kept in a folder below it."""

    blocks = True

    def __init__(self, root: Path, cluster: str = "") -> None:
        self._root = root / cluster if cluster else root
        self._lock = threading.Lock()
        self._synced: dict[Path, tuple[int, ...]] = {}
        with self.translated("open", ""):
            (self._root / _PARTIAL).mkdir(parents=True, exist_ok=True)
            for folder in (self._root, *self._root.parents):  # any of them may have been made just now
                try:
                    self._sync_folder(folder)
                except PermissionError:  # not ours, so it was there before
                    break

    def __repr__(self) -> str:
        return f"FileStore({self._root})"

    @property
    def url(self) -> str:
        """Where it is."""
        return self._root.absolute().as_uri()

    def write(self, key: str, parts: Sequence[Buffer]) -> None:
        """Store ``parts`` under ``key``, synced, all or nothing."""
        final = self._path(key)
        partial = self._root / _PARTIAL / secrets.token_hex(12)
        with self.translated("write", key):
            try:
                self._write_synced(partial, parts)
                self._put_in_place(partial, final)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    partial.unlink()

    def read(self, key: str) -> bytes | None:
        """Return the content of ``key``, None if there is no such file."""
        path = self._path(key)
        with self.translated("read", key):
            try:
                return path.read_bytes()
            except FileNotFoundError:
                self._check_root()
                return None

    def exists(self, key: str) -> bool:
        """Return whether ``key`` has been written."""
        path = self._path(key)
        with self.translated("read", key):
            if path.exists():
                return True
            self._check_root()
            return False

    def delete(self, key: str) -> None:
        """Remove ``key`` and the folders that are empty then."""
        path = self._path(key)
        with self.translated("delete", key):
            try:
                path.unlink()
            except FileNotFoundError:
                self._check_root()
            for folder in path.parents:
                if folder == self._root:
                    break
                try:
                    folder.rmdir()
                except FileNotFoundError:
                    continue
                except OSError:  # not empty, or in use: it stays
                    break

    def list(self, prefix: str) -> list[StoredFile]:
        """Return all files below ``prefix``, in order of their names."""
        check_prefix(prefix)
        start = self._root.joinpath(*prefix.split("/")[:-1]) if prefix else self._root
        found: list[StoredFile] = []
        with self.translated("list", prefix):
            self._check_root()
            for folder, folders, names in os.walk(start, onerror=_reraise_unless_missing):
                if Path(folder) == self._root and _PARTIAL in folders:
                    folders.remove(_PARTIAL)
                for name in names:
                    path = Path(folder, name)
                    with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                        status = path.stat()
                        key = path.relative_to(self._root).as_posix()
                        found.append(StoredFile(key, status.st_size, status.st_mtime))
        return sorted(found, key=lambda file: file.key)

    def open_segment(self, key: str) -> FileSegment:
        """Create the segment ``key``, empty."""
        final = self._path(key)
        with self.translated("create", key):
            for _ in range(_ATTEMPTS_MAX):
                try:
                    descriptor = os.open(final, _APPEND | os.O_CREAT | os.O_EXCL, 0o600)
                except FileNotFoundError:
                    self._check_root()
                    with contextlib.suppress(FileNotFoundError, FileExistsError):  # as in _put_in_place
                        final.parent.mkdir(parents=True, exist_ok=True)
                    continue
                except FileExistsError:
                    raise AlreadyExists(
                        f"{final.name!r} is already in {self.url}; choose a fresh name", name=final.name
                    ) from None
                segment = FileSegment(self, key, descriptor)
                try:
                    self._sync_from(final.parent)
                except BaseException:
                    segment.close()
                    raise
                return segment
            raise OSError(errno.EBUSY, "the folder is removed again and again", str(final.parent))

    def read_segment(self, key: str) -> tuple[bytes, bool] | None:
        """Return what was appended to ``key``; its end may be torn."""
        content = self.read(key)
        return None if content is None else (content, False)

    def delete_segment(self, key: str) -> None:
        """Remove it."""
        self.delete(key)

    def sweep(self, older_than_s: float) -> int:
        """Remove partial files older than ``older_than_s`` seconds by the store's own clock."""
        removed = 0
        with self.translated("sweep", _PARTIAL):
            probe = self._root / _PARTIAL / secrets.token_hex(12)
            probe.touch()
            now = probe.stat().st_mtime
            for path in (self._root / _PARTIAL).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    if path == probe or now - path.stat().st_mtime >= older_than_s:
                        path.unlink()
                        removed += path != probe
        return removed

    def close(self) -> None:
        """Do nothing: no connection is kept."""

    def _path(self, key: str) -> Path:
        return self._root.joinpath(*parts_of(key))

    def _write_synced(self, path: Path, parts: Sequence[Buffer]) -> None:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o600)
        try:
            for part in parts:
                view = memoryview(part).cast("B")
                while view:
                    view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _put_in_place(self, partial: Path, final: Path) -> None:
        for _ in range(_ATTEMPTS_MAX):
            try:
                self._link(partial, final)
            except FileNotFoundError:
                self._check_root()
                with contextlib.suppress(FileNotFoundError, FileExistsError):  # a deletion removes it meanwhile: again
                    final.parent.mkdir(parents=True, exist_ok=True)
                continue
            self._sync_from(final.parent)
            return
        raise OSError(errno.EBUSY, "the folder is removed again and again", str(final.parent))

    def _link(self, partial: Path, final: Path) -> None:
        try:
            os.link(partial, final)
        except FileExistsError:
            raise AlreadyExists(
                f"{final.name!r} is already in {self.url}; names are written once: choose a fresh one", name=final.name
            ) from None
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            self._reserve_and_replace(partial, final)

    def _reserve_and_replace(self, partial: Path, final: Path) -> None:
        # Without hard links: reserving the name makes us its only writer; replacing it is atomic for readers.
        try:
            os.close(os.open(final, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            raise AlreadyExists(
                f"{final.name!r} is already in {self.url}; choose a fresh name", name=final.name
            ) from None
        os.replace(partial, final)

    def _sync_from(self, folder: Path) -> None:
        """Sync ``folder``; and its parents, unless they are as they were when they were last synced for it.

        The folder's own inode would not do: another folder of the same name may have got the number of one removed.
        """
        self._sync_folder(folder)
        parents = [*itertools.takewhile(lambda one: one != self._root, folder.parents), self._root]
        if folder == self._root:
            return
        changed = tuple(parent.stat().st_mtime_ns for parent in parents)
        if self._synced.get(folder) == changed:
            return
        for parent in parents:
            self._sync_folder(parent)
        with self._lock:
            if len(self._synced) > 100_000:
                self._synced.clear()
            self._synced[folder] = changed

    def _sync_folder(self, folder: Path) -> None:
        if not _FOLDERS_CAN_SYNC:
            return
        descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _check_root(self) -> None:
        if not (self._root / _PARTIAL).is_dir():
            raise OSError(errno.ESTALE, "the store's folder has vanished", str(self._root))

    @contextlib.contextmanager
    def translated(self, action: str, key: str) -> Iterator[None]:
        """Translate the system's errors; the one place where that is done."""
        try:
            yield
        except OSError as error:
            raise self._failure(action, key, error) from error

    def _failure(self, action: str, key: str, error: OSError) -> StoreFailed:
        kinds = {
            errno.ENOSPC: ("full", "free space or give it more"),
            errno.EDQUOT: ("full", "raise the quota"),
            errno.EFBIG: ("full", "raise the limit of file sizes"),
            errno.EACCES: ("denied", "let the kernel server's user write there"),
            errno.EPERM: ("denied", "let the kernel server's user write there"),
            errno.EROFS: ("denied", "mount it for writing"),
            errno.ESTALE: ("gone", "mount it again"),
            errno.ENOENT: ("gone", "mount it again"),
        }
        kind, remedy = kinds.get(error.errno or 0, ("broken", "check the file system"))
        return StoreFailed(
            f"cannot {action} {key!r} in {self._root}: {error.strerror or error}; {remedy}",
            kind=kind,
            store=str(self._root),
            at=time.time(),
        )


def _sync_content(descriptor: int) -> None:
    """Sync what the file holds and its length; other metadata may wait where the system can tell them apart."""
    getattr(os, "fdatasync", os.fsync)(descriptor)


def _reraise_unless_missing(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):
        raise error
