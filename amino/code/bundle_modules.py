"""Modules of zip bundles, each bundle in a name space of its own.

Owns the import of bundles. A bundle's module ``shop.counter`` is imported as ``amino_code_<sha>.shop.counter``, so that
two versions of it live side by side, and pickles name the version they belong to. Inside, ``import shop.models`` means the
bundle's own module. Leaves fetching and unpacking to ``loader``.
Invariants: a bundle never sees another one's modules, nor do they enter ``sys.modules`` under their plain names; one
bundle is imported once per process, however many kernel servers live in it (its name is its content).
Failure behaviour: a name of a bundle that is not here means the plain module of that name if there is one (a client that
has the package itself), else ``ModuleNotFoundError``.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.machinery
import sys
import threading
import types
from collections.abc import Callable, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import EXTENSION_SUFFIXES, SOURCE_SUFFIXES, ExtensionFileLoader, FileFinder, ModuleSpec
from pathlib import Path
from typing import Any

from amino.wire import by_value

PREFIX = by_value.BUNDLE_PREFIX
_SHA_DIGITS = 32

_lock = threading.Lock()


def package_of(sha256: str) -> str:
    """Return the package that holds a bundle's modules."""
    return PREFIX + sha256[:_SHA_DIGITS]


class Bundle:
    """One unpacked bundle.

    Args:
        sha256: of its content.
        folder: what would be on ``sys.path``.
    """

    def __init__(self, sha256: str, folder: Path) -> None:
        self.package = package_of(sha256)
        self.folder = folder
        self._top = frozenset(_top_level(folder))
        self._builtins = {**vars(builtins), "__import__": self._import}

    def __repr__(self) -> str:
        return f"Bundle({self.package}, {', '.join(sorted(self._top))})"

    def has(self, module: str) -> bool:
        """Return whether the bundle, rather than the process, provides ``module`` (judged by its first part)."""
        return module.partition(".")[0] in self._top

    def find_class(self, module: str, name: str) -> Any:
        """Return what a pickle means by ``module`` and ``name`` when this bundle's code reads it.

        The bundle's own version comes first, whichever version the pickle names; so state written by the version before
        becomes state of this one. For ``pickle.Unpickler.find_class``.
        """
        plain = by_value.plain_module(module)
        if plain and self.has(plain):
            module = f"{self.package}.{plain}"
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
        return found

    def find_spec(self, name: str, path: Sequence[str]) -> ModuleSpec | None:
        """Return how to import the module ``name`` of this package from the folders ``path``."""
        if name == self.package:
            spec = ModuleSpec(name, None, is_package=True)
            spec.submodule_search_locations = [str(self.folder)]
            return spec
        details = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (self._loader, SOURCE_SUFFIXES))
        portions: list[str] = []
        for folder in path:
            finder = FileFinder(folder, *details)  # type: ignore[arg-type]
            spec_here = finder.find_spec(name)
            if spec_here is not None and spec_here.loader is not None:
                return spec_here
            if spec_here is not None:
                portions += spec_here.submodule_search_locations or []
        if not portions:
            return None
        namespace = ModuleSpec(name, None, is_package=True)
        namespace.submodule_search_locations = portions
        return namespace

    def _loader(self, name: str, path: str) -> Loader:
        return _SourceLoader(name, path, self._builtins)

    def _import(
        self,
        name: str,
        globals: dict[str, Any] | None = None,  # noqa: A002 - the signature of __import__
        locals: dict[str, Any] | None = None,  # noqa: A002
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> types.ModuleType:
        if level or not self.has(name):
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        inside = f"{self.package}.{name}"
        if fromlist:
            return builtins.__import__(inside, globals, locals, fromlist, 0)
        importlib.import_module(inside)
        return sys.modules[f"{self.package}.{name.partition('.')[0]}"]


class _SourceLoader(importlib.machinery.SourceFileLoader):
    """Runs a bundle's modules with an ``import`` that looks into the bundle first."""

    def __init__(self, name: str, path: str, own_builtins: dict[str, Any]) -> None:
        super().__init__(name, path)
        self._builtins = own_builtins

    def exec_module(self, module: types.ModuleType) -> None:
        vars(module)["__builtins__"] = self._builtins
        super().exec_module(module)


class _PlainLoader(Loader):
    """Stands for a module of a bundle that is not here, where the process has the plain module itself."""

    def __init__(self, plain: str) -> None:
        self._plain = plain

    def create_module(self, spec: ModuleSpec) -> None:
        del spec

    def exec_module(self, module: types.ModuleType) -> None:
        sys.modules[module.__name__] = importlib.import_module(self._plain)


class _BundleFinder(MetaPathFinder):
    def __init__(self) -> None:
        self.bundles: dict[str, Bundle] = {}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        del target
        if not fullname.startswith(PREFIX):
            return None
        package, _, plain = fullname.partition(".")
        bundle = self.bundles.get(package)
        if bundle is not None:
            return bundle.find_spec(fullname, path or ())
        if not plain:
            absent = ModuleSpec(fullname, None, is_package=True)
            absent.submodule_search_locations = []
            return absent
        return ModuleSpec(fullname, _PlainLoader(plain))


_finder = _BundleFinder()


def install() -> None:
    """Let this process import names of bundles; clients need it to read objects that servers send. Idempotent."""
    with _lock:
        if _finder not in sys.meta_path:
            sys.meta_path.insert(0, _finder)


def activate(sha256: str, folder: Path) -> Bundle:
    """Make the bundle unpacked in ``folder`` importable and return it. Idempotent; from any thread."""
    install()
    package = package_of(sha256)
    with _lock:
        bundle = _finder.bundles.get(package)
        if bundle is None:
            bundle = Bundle(sha256, folder)
            for name in [name for name in sys.modules if name == package or name.startswith(package + ".")]:
                del sys.modules[name]  # stood for plain modules until now
            _finder.bundles[package] = bundle
    return bundle


def active(sha256: str) -> Bundle | None:
    """Return the bundle if this process has it."""
    return _finder.bundles.get(package_of(sha256))


def _top_level(folder: Path) -> list[str]:
    names: list[str] = []
    suffixes: Callable[[str], bool] = lambda name: name.endswith((*SOURCE_SUFFIXES, *EXTENSION_SUFFIXES))  # noqa: E731
    for path in folder.iterdir():
        if path.is_dir():
            names.append(path.name)
        elif suffixes(path.name):
            names.append(path.name.partition(".")[0])
    return [name for name in names if name.isidentifier() and name != "__pycache__"]
