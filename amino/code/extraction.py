"""Unpacking zip bundles without letting them reach anything else.

Owns the checks on an archive and the folder it is unpacked to. Leaves importing to ``bundle_modules``.
Invariants: nothing is written outside the given folder; sizes are bounded by what is actually unpacked, not by what the
archive claims; a folder that exists under a bundle's name has exactly its files.
Failure behaviour: ``CodeUnavailable`` naming the offending entry; nothing is left behind.
"""

from __future__ import annotations

import io
import os
import secrets
import shutil
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from amino.errors import CodeUnavailable

ENTRIES_MAX = 20_000
UNPACKED_BYTES_MAX = 256 * 1024 * 1024
_CHUNK_BYTES = 1 << 20


def unpack(content: bytes, sha256: str, cache: Path, *, bytes_max: int = UNPACKED_BYTES_MAX) -> Path:
    """Return a folder below ``cache`` that has the files of the zip ``content``; unpacked only if not there. Blocks.

    Safe to be called from several threads and processes at once.

    Raises:
        CodeUnavailable: not a zip, dangerous entries, too large, or no space.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = _checked(archive, sha256)
            _make_private(cache)
            final = cache / sha256
            if _has_exactly(final, archive, entries):
                return final
            return _unpack(archive, entries, final, bytes_max)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        raise CodeUnavailable(
            f"bundle {sha256} cannot be unpacked to {cache}: {error}; check the folder, or push the code again",
            sha256=sha256,
        ) from error


def _checked(archive: zipfile.ZipFile, sha256: str) -> list[zipfile.ZipInfo]:
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    if len(entries) > ENTRIES_MAX:
        raise CodeUnavailable(f"bundle {sha256} has {len(entries)} files, more than {ENTRIES_MAX}; push less")
    seen: set[str] = set()
    for entry in entries:
        path = PurePosixPath(entry.filename)
        mode = entry.external_attr >> 16
        outside = path.is_absolute() or ".." in path.parts or "\\" in entry.filename or ":" in entry.filename
        odd = mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG)
        if outside or odd or "\0" in entry.filename or str(path) in seen or not path.parts:
            raise CodeUnavailable(
                f"bundle {sha256} has the entry {entry.filename!r}, which is not a plain file inside it; "
                "pack the folder with `amino app push`",
                sha256=sha256,
            )
        seen.add(str(path))
    return entries


def _make_private(cache: Path) -> None:
    """Make sure that nobody else can put code into the folder."""
    cache.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = cache.stat()
    if hasattr(os, "getuid") and (status.st_uid != os.getuid() or status.st_mode & 0o022):
        raise CodeUnavailable(
            f"others may write to {cache}, where code is unpacked; chmod go-w it, or choose another folder"
        )


def _has_exactly(folder: Path, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo]) -> bool:
    del archive
    if not folder.is_dir():
        return False
    for entry in entries:
        path = folder.joinpath(*PurePosixPath(entry.filename).parts)
        if not path.is_file() or path.stat().st_size != entry.file_size or zlib.crc32(path.read_bytes()) != entry.CRC:
            return False
    sources = sum(1 for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return sources == len(entries)


def _unpack(archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], final: Path, bytes_max: int) -> Path:
    fresh = final.with_name(f"{final.name}.{secrets.token_hex(6)}")
    left = bytes_max
    try:
        for entry in entries:
            path = fresh.joinpath(*PurePosixPath(entry.filename).parts)
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(entry) as source, path.open("xb") as target:
                while chunk := source.read(_CHUNK_BYTES):
                    left -= len(chunk)
                    if left < 0:
                        raise CodeUnavailable(f"bundle {final.name} unpacks to more than {bytes_max} bytes; push less")
                    target.write(chunk)
        fresh.mkdir(exist_ok=True)
        if not final.exists():
            try:
                os.rename(fresh, final)
                return final
            except OSError:  # another one was first; or there is a damaged one, which is not ours to repair
                pass
        if _has_exactly(final, archive, entries):
            shutil.rmtree(fresh, ignore_errors=True)
            return final
        return fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)
        raise
