"""Pickling by value what cannot be imported elsewhere: classes and functions of scripts, notebooks and function bodies.

Owns the identity of classes that travel by value. Leaves everything importable to ``pickle``.
Invariants: a class has the same identity wherever it arrives and in every run of an unchanged script, so that an object
sent is an instance of the class that the receiver already has; a class is filled in once per process and never changed by
a later arrival, least of all in the process that defined it.
Failure behaviour: what cannot be pickled raises as ``cloudpickle`` does; byte code of another Python version is refused
before any of it is loaded.
"""

from __future__ import annotations

import hashlib
import io
import sys
import types
import weakref
from collections.abc import Callable
from typing import Any

import cloudpickle
from cloudpickle import cloudpickle as internals

from amino.errors import Invalid

PYTHON = sys.implementation.cache_tag or "unknown"

BUNDLE_PREFIX = "amino_code_"
"""Modules of a pushed folder are below a package of this name and the bundle's sha256 (``amino.code``)."""

_settled: weakref.WeakSet[type] = weakref.WeakSet()
"""Classes that are whole in this process and have their lasting identity."""

_IDENTITY_AT = {internals._make_skeleton_class: 4, internals._make_skeleton_enum: 5}  # noqa: SLF001 - see the decision 0008


Reduce = Callable[[Any], Any]
"""Asked first how an object is pickled; ``NotImplemented`` for as usual."""


def dumps(value: Any, reduce: Reduce | None = None) -> bytes:
    """Return ``value`` pickled, with its classes by value where they cannot be imported; read it by ``pickle.loads``."""
    file = io.BytesIO()
    _Pickler(file, reduce).dump(_Envelope(value))
    return file.getvalue()


def plain_module(module: str) -> str:
    """Return a module's name as its author wrote it, without the package of the bundle that it came in."""
    return module.partition(".")[2] if module.startswith(BUNDLE_PREFIX) else module


class _Envelope:
    """A value behind the check that its byte code can be loaded; the check runs first."""

    def __init__(self, value: Any) -> None:
        self._value = value

    def __reduce__(self) -> tuple[Any, ...]:
        return _second, (_Python(), self._value)


class _Python:
    def __reduce__(self) -> tuple[Any, ...]:
        return check_python, (PYTHON,)


def _second(_checked: None, value: Any) -> Any:
    return value


def check_python(made_by: str) -> None:
    """Refuse byte code of another Python version.

    Raises:
        Invalid: names both versions.
    """
    if made_by != PYTHON:
        raise Invalid(
            f"code sent by value was made by {made_by} but this process runs {PYTHON}, and byte code differs; put the class "
            "into a module that both can import, or run both on one Python version"
        )


def settle_class(cls: type, state: Any) -> type:
    """Give an arriving class its content, unless it has it: the last step of unpickling one."""
    if cls not in _settled:
        internals._class_setstate(cls, state)  # noqa: SLF001
        _settled.add(cls)
    return cls


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    def __init__(self, file: io.BytesIO, reduce: Reduce | None) -> None:
        super().__init__(file, protocol=5)
        self._reduce = reduce

    def reducer_override(self, obj: Any) -> Any:
        reduced = self._reduce(obj) if self._reduce is not None else NotImplemented
        if reduced is not NotImplemented:
            return reduced
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and reduced[0] in _IDENTITY_AT:
            _settle_identity(obj)
            return (reduced[0], _with_identity(reduced, _identity(obj)), *reduced[2:5], settle_class)
        return reduced


class _ContentPickler(cloudpickle.Pickler):  # type: ignore[misc]  # cloudpickle is untyped
    """Writes what a class does, without where and in which run it was written.

    Best effort: what it misses (say, the order of a set in a set) costs a new identity after a restart, nothing else.
    """

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, types.CodeType) and obj.co_filename:
            constants = tuple(_ordered(constant) for constant in obj.co_consts)
            bare = obj.replace(co_filename="", co_firstlineno=1, co_linetable=b"", co_consts=constants)
            return internals._code_reduce(bare)  # noqa: SLF001
        reduced = super().reducer_override(obj)
        if isinstance(reduced, tuple) and reduced[0] in _IDENTITY_AT:
            content, slots = reduced[2]
            content = {key: _ordered(value) for key, value in content.items() if key != "__firstlineno__"}
            name = f"{obj.__module__}.{obj.__qualname__}"
            return (reduced[0], _with_identity(reduced, name), (content, slots), *reduced[3:])
        return reduced

    def _function_getnewargs(self, func: Any) -> Any:
        arguments = super()._function_getnewargs(func)
        arguments[1].pop("__file__", None)
        return arguments


def _ordered(value: Any) -> Any:
    """Return a stand-in for a set that does not depend on the hash seed; anything else as it is."""
    return ("set", *sorted(map(repr, value))) if isinstance(value, (set, frozenset)) else value


def _with_identity(reduced: tuple[Any, ...], identity: str) -> tuple[Any, ...]:
    position = _IDENTITY_AT[reduced[0]]
    arguments = reduced[1]
    return (*arguments[:position], identity, *arguments[position + 1 :])


def _identity(cls: type) -> str:
    return str(internals._get_or_create_tracker_id(cls))  # noqa: SLF001


def _settle_identity(cls: type) -> None:
    if cls in _settled:
        return
    file = io.BytesIO()
    _ContentPickler(file, protocol=5).dump(cls)
    identity = hashlib.blake2b(file.getvalue(), digest_size=16).hexdigest()
    with internals._DYNAMIC_CLASS_TRACKER_LOCK:  # noqa: SLF001
        internals._DYNAMIC_CLASS_TRACKER_BY_CLASS[cls] = identity  # noqa: SLF001
        internals._DYNAMIC_CLASS_TRACKER_BY_ID[identity] = cls  # noqa: SLF001
    _settled.add(cls)
