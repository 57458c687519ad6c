"""Loading classes on a kernel server: by import path, or from a bundle.

Owns the loader of one kernel server and its cache. Leaves fetching bundles to the function it is given (``storage``), and
the question which server is eligible to the OMS.
Invariants: a bundle is used only if its content has the sha256 that names it; loading the same class again returns the
same object. Failure behaviour: ``CodeUnavailable`` with the import error and the remedy when the class cannot be loaded
here; errors of fetching that may pass (``StoreFailed``, ``CoordinationUnavailable``) stay what they are.
"""

from __future__ import annotations

import hashlib
import importlib
import pickle
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amino.aio import mode
from amino.aio.signal import Turn
from amino.code.bundle import BUNDLE_BYTES_MAX, MAGIC
from amino.code.bundle_modules import activate, active
from amino.code.extraction import unpack
from amino.errors import AminoError, CodeUnavailable, Invalid, NotFound
from amino.wire import by_value

_PATH = re.compile(r"([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):([A-Za-z_]\w*(?:\.(?:[A-Za-z_]\w*|<locals>))*)\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_REMEDY = "start the server with --app-dir, install the package there, or push the code with `amino app push`"


@dataclass(frozen=True, slots=True)
class BundleContent:
    """A bundle as fetched. ``kind``: ``pickle`` (one class by value) or ``zip`` (a source folder)."""

    kind: str
    content: bytes


Fetch = Callable[[str], Awaitable[BundleContent]]


def use_app_dirs(folders: Iterable[Path | str]) -> None:
    """Put source folders in front of ``sys.path``, in their order. For the process's start. Idempotent.

    Raises:
        Invalid: a folder does not exist.
    """
    for folder in reversed([str(Path(folder).absolute()) for folder in folders]):
        if not Path(folder).is_dir():
            raise Invalid(f"--app-dir {folder} is not a folder; give the one that contains your package")
        if folder in sys.path:
            sys.path.remove(folder)
        sys.path.insert(0, folder)
    importlib.invalidate_caches()


class CodeLoader:
    """Loads classes for one kernel server; safe from loops and threads at once.

    Args:
        fetch: returns the bundle of a sha256; raises ``NotFound`` if there is none.
        cache: folder for unpacked bundles, shared by servers if they like; made when needed.
    """

    def __init__(self, fetch: Fetch, cache: Path) -> None:
        self._fetch = fetch
        self._cache = cache
        self._lock = threading.Lock()
        self._classes: dict[tuple[str, str], type] = {}
        self._turns: dict[str, Turn] = {}

    def __repr__(self) -> str:
        return f"CodeLoader({len(self._classes)} classes)"

    async def load(self, path: str, code: str = "") -> type:
        """Return the class ``path`` (``module:QualifiedName``), from bundle ``code`` (a sha256) if that is not empty.

        Raises:
            Invalid: not a path, or not a sha256.
            CodeUnavailable: it cannot be loaded here; the message says why and what helps.
        """
        found = self._classes.get((path, code))
        if found is not None:
            return found
        module, name = parse_path(path)
        if not code:
            loaded = await mode.offload(_import_class, module, name)
        else:
            loaded = await self._from_bundle(module, name, code)
        with self._lock:
            return self._classes.setdefault((path, code), loaded)

    def loaded(self, path: str, code: str = "") -> type | None:
        """Return the class if it has been loaded already; never waits."""
        return self._classes.get((path, code))

    def find_class(self, code: str) -> Callable[[str, str], Any] | None:
        """Return how pickles read by code of bundle ``code`` name classes; None if as everywhere.

        The bundle must have been loaded from.
        """
        bundle = active(code) if code else None
        return None if bundle is None else bundle.find_class

    async def _from_bundle(self, module: str, name: str, code: str) -> type:
        if _SHA256.match(code) is None:
            raise Invalid(
                f"code {code!r} is not a sha256; it is 64 hexadecimal digits, as `amino app push` prints them"
            )
        with self._lock:
            turn = self._turns.setdefault(code, Turn())
        await turn.acquire()
        try:
            bundle = active(code)
            if bundle is None:
                fetched = await self._fetched(code)
                if fetched.kind == "pickle":
                    return await mode.offload(_unpickle_class, fetched.content, f"{module}:{name}", code)
                if fetched.kind != "zip":
                    raise CodeUnavailable(f"bundle {code} is of kind {fetched.kind!r}, which this release cannot load")
                folder = await mode.offload(unpack, fetched.content, code, self._cache)
                bundle = activate(code, folder)
            if not bundle.has(module):
                raise CodeUnavailable(
                    f"bundle {code} does not contain {module!r}, only {bundle!r}; push the folder that contains the package"
                )
            return await mode.offload(_import_class, f"{bundle.package}.{module}", name)
        finally:
            turn.release()

    async def _fetched(self, code: str) -> BundleContent:
        try:
            fetched = await self._fetch(code)
        except NotFound as error:
            raise CodeUnavailable(f"bundle {code} is not in the cluster; push the code again", sha256=code) from error
        if len(fetched.content) > BUNDLE_BYTES_MAX or hashlib.sha256(fetched.content).hexdigest() != code:
            raise CodeUnavailable(
                f"bundle {code} is damaged: its {len(fetched.content)} bytes have another sha256; push the code again",
                sha256=code,
            )
        return fetched


def parse_path(path: str) -> tuple[str, str]:
    """Return module and qualified name of ``module:QualifiedName``.

    Raises:
        Invalid: not of that form.
    """
    match = _PATH.match(path)
    if match is None:
        raise Invalid(f"class {path!r} is not of the form 'module:QualifiedName', as in 'shop.counter:Counter'")
    return match[1], match[2]


def _import_class(module: str, name: str) -> type:
    path = f"{module}:{name}"
    if module in {"__main__", "__mp_main__"} or "<locals>" in name:
        raise CodeUnavailable(f"class {path} cannot be imported anywhere else; its client must send it by value")
    if module.partition(".")[0] in sys.stdlib_module_names:
        raise CodeUnavailable(
            f"class {path} is of the standard library, which runs no microservices; derive your own from it"
        )
    try:
        importlib.invalidate_caches()
        found: Any = importlib.import_module(module)
    except Exception as error:  # importing runs the module, which may raise anything
        raise CodeUnavailable(
            f"class {path} cannot be loaded: {type(error).__name__}: {error}; {_REMEDY}",
            cls=path,
            error=type(error).__name__,
        ) from error
    for part in name.split("."):
        found = getattr(found, part, None)
    if not isinstance(found, type):
        what = "has no such name" if found is None else f"has a {type(found).__name__} of that name"
        raise CodeUnavailable(f"class {path} cannot be loaded: module {module} {what}; {_REMEDY}", cls=path)
    return found


def _unpickle_class(content: bytes, path: str, code: str) -> type:
    header, newline, pickled = content.partition(b"\n")
    if not newline or not header.startswith(MAGIC):
        raise CodeUnavailable(f"bundle {code} does not hold a class by value; push the code again", sha256=code)
    try:
        by_value.check_python(header.removeprefix(MAGIC).decode(errors="replace"))
        found = pickle.loads(pickled)
    except AminoError as error:
        raise CodeUnavailable(f"class {path} cannot be loaded: {error}", cls=path) from error
    except Exception as error:  # unpickling a class imports what it needs, which may raise anything
        raise CodeUnavailable(
            f"class {path} was sent by value but cannot be rebuilt: {type(error).__name__}: {error}; install what it imports",
            cls=path,
        ) from error
    if not isinstance(found, type) or f"{found.__module__}:{found.__qualname__}" != path:
        raise CodeUnavailable(f"bundle {code} holds {found!r}, not class {path}; push the code again", sha256=code)
    return found
