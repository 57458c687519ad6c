"""How a client names a class for the cluster, and packs what servers cannot import.

Owns the choice between import path and bundle, and the bytes of both kinds of bundle. Leaves sending to stubs and the
command line, loading to ``loader``.
Invariants: a bundle's name is the sha256 of its content; a folder packs to the same bytes on every machine.
Failure behaviour: ``Invalid`` when something cannot be packed or is too large, naming it.
"""

from __future__ import annotations

import hashlib
import io
import sys
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cloudpickle

from amino.errors import Invalid
from amino.wire import by_value

BUNDLE_BYTES_MAX = 32 * 1024 * 1024
"""Largest bundle; a frame holds it with room to spare."""

MAGIC = b"amino-class 1 "
_SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "venv", "build", "dist"})
_SKIPPED_SUFFIXES = frozenset({".pyc", ".pyo"})
_EPOCH = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class ClassCode:
    """How servers get a class.

    Args:
        path: ``module:QualifiedName``.
        sha256: of the bundle; empty if servers import the class by its path.
        content: the bundle, None without one.
    """

    path: str
    sha256: str = ""
    content: bytes | None = None
    kind: Literal["pickle"] = "pickle"


def describe_class(cls: type, *, by_value_always: bool = False) -> ClassCode:
    """Return how servers get ``cls``: by import path where that leads to this very class, else by value.

    Classes of scripts, notebooks and function bodies go by value; so do those of modules registered by
    ``cloudpickle.register_pickle_by_value``.

    Args:
        by_value_always: pack it also if it can be imported here (servers may lack it).

    Raises:
        Invalid: not a class, or something it refers to cannot be packed or is too large.
    """
    if not isinstance(cls, type):
        raise Invalid(f"{cls!r} is not a class; give the class itself, as in amino.spec(Counter)")
    path = f"{cls.__module__}:{cls.__qualname__}"
    if not by_value_always and _importable(cls):
        return ClassCode(path)
    content = pack_class(cls)
    return ClassCode(path, hashlib.sha256(content).hexdigest(), content)


def pack_class(cls: type) -> bytes:
    """Return the bundle of one class, by value, with all it refers to that cannot be imported.

    Raises:
        Invalid: as ``describe_class``.
    """
    module = sys.modules.get(cls.__module__)
    registered = cls.__module__ in cloudpickle.list_registry_pickle_by_value()
    imported = module is not None and not registered and _importable(cls)
    try:
        if imported:
            cloudpickle.register_pickle_by_value(module)
        try:
            pickled = by_value.dumps(cls)
        finally:
            if imported:
                cloudpickle.unregister_pickle_by_value(module)
    except Exception as error:  # what a class refers to may raise anything when pickled
        raise Invalid(
            f"class {cls.__qualname__} cannot be sent by value: {type(error).__name__}: {error}; move it into a module that "
            "servers can import, or do not refer to such objects from its methods"
        ) from error
    content = MAGIC + by_value.PYTHON.encode() + b"\n" + pickled
    if len(content) > BUNDLE_BYTES_MAX:
        raise Invalid(
            f"class {cls.__qualname__} takes {len(content)} bytes by value, more than {BUNDLE_BYTES_MAX}: its methods refer "
            "to large objects of the script; pass them as arguments instead"
        )
    return content


def zip_folder(folder: Path | str, *, bytes_max: int = BUNDLE_BYTES_MAX) -> bytes:
    """Return the source folder as a zip: the same bytes for the same files, whenever and wherever it is packed.

    The folder is what would be on ``sys.path``. Hidden files, byte code, and folders such as ``__pycache__``, ``venv`` and
    ``node_modules`` are left out; symbolic links are followed only inside the folder.

    Raises:
        Invalid: no folder, no Python file in it, or too large.
    """
    root = Path(folder).resolve()
    if not root.is_dir():
        raise Invalid(f"{folder} is not a folder; give the one that contains your package")
    files = _files_of(root, bytes_max)
    if not any(path.suffix == ".py" for path in files):
        raise Invalid(f"{folder} contains no Python file; give the folder that contains your package")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        for path in files:
            entry = zipfile.ZipInfo(path.relative_to(root).as_posix(), _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.create_system = 3
            entry.external_attr = 0o100644 << 16
            archive.writestr(entry, path.read_bytes())
    content = packed.getvalue()
    if len(content) > bytes_max:
        raise Invalid(f"{folder} packs to {len(content)} bytes, more than {bytes_max}; keep data files elsewhere")
    return content


def _files_of(root: Path, bytes_max: int) -> list[Path]:
    found: list[Path] = []
    total = 0
    for path in sorted(root.rglob("*"), key=lambda path: path.relative_to(root).as_posix()):
        parts = path.relative_to(root).parts
        if any(part.startswith(".") or part in _SKIPPED_FOLDERS or part.endswith(".egg-info") for part in parts):
            continue
        if path.suffix in _SKIPPED_SUFFIXES or not path.is_file() or not path.resolve().is_relative_to(root):
            continue
        total += path.stat().st_size
        if total > 4 * bytes_max:
            raise Invalid(f"{root} has more than {4 * bytes_max} bytes; give the folder of the package alone")
        found.append(path)
    return found


def _importable(cls: type) -> bool:
    name = cls.__module__
    if name in {"__main__", "__mp_main__"} or "<locals>" in cls.__qualname__:
        return False
    module: Any = sys.modules.get(name)
    if module is None or getattr(module, "__spec__", None) is None:
        return False
    parents = {name[: position if position > 0 else None] for position in _dots(name)}
    if parents & set(cloudpickle.list_registry_pickle_by_value()):
        return False
    found: Any = module
    for part in cls.__qualname__.split("."):
        found = getattr(found, part, None)
    return found is cls


def _dots(name: str) -> list[int]:
    return [0, *(position for position, letter in enumerate(name) if letter == ".")]
