"""Marks that a class puts on its methods: ``@amino.readonly``, ``@amino.idempotent``, ``@amino.inline``.

Owns the marks and the table of a class's public methods. Leaves what they mean to the kernel and the DMs.
Invariant: marking changes nothing about the function itself; an unmarked class works.
Failure behaviour: a mark on something that is not a function raises ``Invalid`` at import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from amino.errors import Invalid

F = TypeVar("F", bound=Callable[..., Any])

READONLY = 1
IDEMPOTENT = 2
INLINE = 4
ASYNC = 8

_ATTRIBUTE = "__amino_marks__"
_tables: WeakKeyDictionary[type, dict[str, int]] = WeakKeyDictionary()


def _mark(function: F, flag: int, name: str) -> F:
    if not callable(function):
        raise Invalid(f"@amino.{name} marks {function!r}, which is not a method; put it directly above a def")
    setattr(function, _ATTRIBUTE, getattr(function, _ATTRIBUTE, 0) | flag)
    return function


def readonly(function: F) -> F:
    """Declare that the method does not change the object: it needs no checkpoint, log entry or request table."""
    return _mark(function, READONLY, "readonly")


def idempotent(function: F) -> F:
    """Declare that running the method twice equals running it once: it may be repeated after an unknown outcome."""
    return _mark(function, IDEMPOTENT, "idempotent")


def inline(function: F) -> F:
    """Declare that the ``def`` method is short and never blocks: it runs where its frame was read, without a thread."""
    if inspect.iscoroutinefunction(function):
        raise Invalid(f"@amino.inline marks {function.__qualname__}, an async def; it is for def methods only")
    return _mark(function, INLINE, "inline")


def method_table(cls: type) -> dict[str, int]:
    """Return the class's public methods with their flags (marks, and ``ASYNC`` for ``async def``).

    Marks are inherited: an override without marks keeps those of the method it overrides. The table is made once per
    class; do not change it.
    """
    known = _tables.get(cls)
    if known is not None:
        return known
    table: dict[str, int] = {}
    for name, member in inspect.getmembers(cls, callable):
        if name.startswith("_") or isinstance(member, type):
            continue
        flags = 0
        for base in cls.__mro__:
            own = base.__dict__.get(name)
            if own is not None:
                flags |= getattr(getattr(own, "__func__", own), _ATTRIBUTE, 0)
        if inspect.iscoroutinefunction(member):
            flags = (flags | ASYNC) & ~INLINE
        table[name] = flags
    _tables[cls] = table
    return table
