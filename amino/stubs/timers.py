"""Timers inside methods: ``amino.timer(self.tick, every_s=60)`` calls a method of the object when it is due.

Owns the public functions and the checks of their arguments. Leaves the table to ``kernel.timers`` and firing to the server.
Invariant: times come from ``amino.now``, so that every copy of the object sets equal timers.
Failure behaviour: outside a method, or in one that is readonly, ``Invalid``.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal, cast

from amino.contracts.calls import CURRENT
from amino.errors import Invalid
from amino.stubs.current import now
from amino.wire import codec

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from amino.contracts.calls import Home
    from amino.contracts.own import TimerInfo

EVERY_S_MIN = 0.01
AFTER_S_MAX = 100 * 366 * 86_400.0
_NAME_LENGTH_MAX = 128


def timer(
    method: Callable[..., Any] | str,
    *,
    after_s: float | None = None,
    every_s: float | None = None,
    name: str = "",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    missed: Literal["fire", "skip", "coalesce"] = "coalesce",
) -> str:
    """Have ``method`` of this object called later, once or again and again; returns the timer's name.

    The timer is part of the object's state, as durable as its managers make that: set in a call that is checkpointed or
    replicated, it fires whatever happens to the server. The call passes all managers like one from outside; while it runs,
    ``amino.current().timer`` tells which occurrence it is for.

    Args:
        method: a method of this object (``self.tick``, public or not) or its name.
        after_s: seconds until it is due first; ``every_s`` if not given.
        every_s: seconds between occurrences (0.01 or more); None for a single one.
        name: a timer of the same name is replaced; empty for a fresh name.
        args, kwargs: for the method; copied now, at most 64 KiB.
        missed: what happens to occurrences that nobody could run in time: ``fire`` runs each, one by one; ``coalesce``
            runs once for all of them; ``skip`` does without those more than a second late.

    Raises:
        Invalid: an argument out of its range, too many timers (10,000), or no changing method is running here.
        NotEncodable: the arguments cannot be kept.
    """
    home = _home("timer")
    method_name = _method_name(method, home)
    if after_s is None and every_s is None:
        raise Invalid(f"the timer for {method_name} has neither after_s nor every_s; give at least one")
    if every_s is not None and not EVERY_S_MIN <= every_s <= AFTER_S_MAX:
        raise Invalid(
            f"every_s={every_s} of the timer for {method_name} is not within {EVERY_S_MIN} to {AFTER_S_MAX:.0f}"
        )
    first_s = every_s if after_s is None else after_s
    if first_s is None or math.isnan(first_s) or not 0 <= first_s <= AFTER_S_MAX:
        raise Invalid(f"after_s={after_s} of the timer for {method_name} is not within 0 to {AFTER_S_MAX:.0f} seconds")
    if missed not in ("fire", "skip", "coalesce"):
        raise Invalid(f"missed={missed!r} of the timer for {method_name}; use 'fire', 'skip' or 'coalesce'")
    if not isinstance(name, str) or len(name) > _NAME_LENGTH_MAX:
        raise Invalid(f"timer name {name!r} is not a text of at most {_NAME_LENGTH_MAX} characters")
    set_s = now()
    return cast(
        "str",
        home.own_tables().set_timer(
            name,
            method_name,
            codec.pack((tuple(args), dict(kwargs or {})), trusted=True),
            first_s=set_s + first_s,
            every_s=every_s or 0.0,
            missed=missed,
            now_s=set_s,
        ),
    )


def cancel_timer(name: str) -> bool:
    """Remove the timer ``name`` of this object; returns whether there was one. Idempotent.

    Raises:
        Invalid: no changing method is running here.
    """
    return bool(_home("cancel_timer").own_tables().cancel_timer(name))


def timers() -> list[TimerInfo]:
    """Return the timers of this object, the next that is due first. Raises ``Invalid`` outside a method."""
    home = _home("timers", readonly=True)
    tables = home.tables
    return tables.timers.infos() if tables is not None and tables.timers is not None else []


def _home(what: str, *, readonly: bool = False) -> Home:
    invocation = CURRENT.get()
    if invocation is None or invocation.home is None:
        raise Invalid(f"amino.{what} was called outside a microservice's method; timers are part of its state")
    if invocation.readonly and not readonly:
        raise Invalid(f"amino.{what} changes the object, and this method is marked @amino.readonly; remove the mark")
    return invocation.home


def _method_name(method: Callable[..., Any] | str, home: Home) -> str:
    name = method if isinstance(method, str) else getattr(method, "__name__", "")
    instance = home.instance if home.instance is not None else getattr(method, "__self__", None)  # None: constructing
    if instance is not None and not callable(getattr(type(instance), name, None)):
        raise Invalid(
            f"{method!r} is no method of {type(instance).__qualname__}; a timer calls the object's own methods"
        )
    if not name or not (isinstance(method, str) or getattr(method, "__self__", None) is instance):
        raise Invalid(
            f"amino.timer takes a method of this object, as self.{name or 'tick'} or by its name, not {method!r}"
        )
    return name
