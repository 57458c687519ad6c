"""Marks that a class puts on its methods: ``@amino.readonly``, ``@amino.idempotent``, ``@amino.inline``.

Owns the marks and the table of a class's public methods. Leaves what they mean to the kernel and the DMs.
Invariant: marking changes nothing about the function itself; an unmarked class works.
Failure behaviour: a mark on something that is not a function raises ``Invalid`` at import.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar, overload
from weakref import WeakKeyDictionary

from amino.errors import Invalid

F = TypeVar("F", bound=Callable[..., Any])

READONLY = 1
IDEMPOTENT = 2
INLINE = 4
ASYNC = 8
PROVISIONAL = 16
"""Not a mark: set on a call that runs on a transaction's private copy of the object (and then ``READONLY`` is, too)."""
KEYED = 64
BROADCAST = 32
KEY_SHIFT = 8
"""Above this bit, the flags of a keyed method hold the place of the key among its arguments (without ``self``)."""
OWN = 128
"""Not a method of the user's class: a call of Amino's own (``contracts.own``)."""

_ATTRIBUTE = "__amino_marks__"
_FOLD = "__amino_fold__"
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


@overload
def key(method: F, /) -> F: ...
@overload
def key(argument: str, /) -> Callable[[F], F]: ...
def key(method: Any, /) -> Any:
    """Declare which argument of the method says where its data is, for managers that shard by key.

    ``@amino.key`` takes the first argument, ``@amino.key("user")`` the one of that name.

    Raises:
        Invalid: the method has no such argument.
    """
    if isinstance(method, str):
        return lambda function: _keyed(function, method)
    return _keyed(method, "")


def _keyed(function: F, argument: str) -> F:
    if not callable(function):
        raise Invalid(f"@amino.key marks {function!r}, which is not a method; put it directly above a def")
    names = list(inspect.signature(function).parameters)[1:]
    if not names or (argument and argument not in names):
        raise Invalid(
            f"@amino.key({argument or ''!r}) on {function.__qualname__}: its arguments are {', '.join(names) or 'none'}"
        )
    place = names.index(argument) if argument else 0
    return _mark(function, KEYED | place << KEY_SHIFT, "key")


@overload
def broadcast(method: F, /) -> F: ...
@overload
def broadcast(*, fold: Callable[[list[Any]], Any]) -> Callable[[F], F]: ...
def broadcast(method: Any = None, /, *, fold: Callable[[list[Any]], Any] | None = None) -> Any:
    """Declare that the method has no key: managers that shard run it on every shard and fold the results into one.

    Args:
        fold: makes one result of a list of them; by default numbers are added, lists joined, dicts and sets merged, and
            None stays None.
    """

    def mark(function: F) -> F:
        if fold is not None:
            setattr(function, _FOLD, fold)
        return _mark(function, BROADCAST, "broadcast")

    return mark(method) if method is not None else mark


def fold_of(function: Any) -> Callable[[list[Any]], Any]:
    """Return how results of a method that was broadcast become one."""
    found: Callable[[list[Any]], Any] = getattr(function, _FOLD, fold_results)
    return found


def fold_results(results: list[Any]) -> Any:
    """Fold results the usual way.

    Raises:
        Invalid: they are of types for which there is no usual way; give ``@amino.broadcast(fold=...)``.
    """
    if all(result is None for result in results):
        return None
    if all(isinstance(result, (int, float)) for result in results):
        return sum(results)
    if all(isinstance(result, list) for result in results):
        return [item for result in results for item in result]
    if all(isinstance(result, dict) for result in results):
        return {name: item for result in results for name, item in result.items()}
    if all(isinstance(result, (set, frozenset)) for result in results):
        return set().union(*results)
    kinds = ", ".join(sorted({type(result).__qualname__ for result in results}))
    raise Invalid(f"results of types {kinds} have no usual sum; mark the method @amino.broadcast(fold=...)")


def marks_of(function: Callable[..., Any]) -> int:
    """Return the marks on one function."""
    return getattr(function, _ATTRIBUTE, 0)


def marks_in(cls: type, name: str) -> int:
    """Return the marks on a method of ``cls``, public or not; an override without marks keeps those of what it overrides."""
    flags = 0
    for base in cls.__mro__:
        own = base.__dict__.get(name)
        if own is not None:
            flags |= getattr(getattr(own, "__func__", own), _ATTRIBUTE, 0)
    return flags


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
        flags = marks_in(cls, name)
        if inspect.iscoroutinefunction(member):
            flags = (flags | ASYNC) & ~INLINE
        table[name] = flags
    _tables[cls] = table
    return table
