"""What goes along when keys of a sharded object move to another shard: timers, events, fencing tokens.

Owns taking these out of an object's tables, and putting them into another's. Leaves the user's state to ``parts``.
Invariants: a timer whose method has a key goes where the key goes; what belongs to no key stays with its shard, and goes to the
shard's heir when it leaves; events keep their numbers, so that a reader goes on at the heir where it was; no older token of a
lock passes at the new place.
Failure behaviour: a timer whose key cannot be told counts as having none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import msgspec

from amino.errors import Invalid
from amino.kernel.tables import Tables
from amino.kernel.timers import Timer
from amino.marks import KEY_SHIFT, KEYED, marks_in
from amino.wire import codec

OwnerOf = Callable[[Any], str]
TIMERS, FORMER, TOKENS = "timers", "former", "tokens"


def key_of(cls: type, timer: Timer, binding: Any) -> tuple[Any] | None:
    """Return the key that the timer's method runs for, None if that method has none."""
    flags = marks_in(cls, timer.method)
    if not flags & KEYED:
        return None
    args, kwargs = codec.unpack(timer.arguments, binding=binding)
    place = flags >> KEY_SHIFT
    if place < len(args):
        return (args[place],)
    names = list(inspect.signature(getattr(cls, timer.method)).parameters)[1:]
    return (kwargs[names[place]],) if names[place] in kwargs else None


def take_own(
    tables: Tables | None, cls: type, owner_of: OwnerOf, mine: str, targets: list[str], heir: str, binding: Any
) -> dict[str, dict[str, Any]]:
    """Take out of ``tables`` what goes to each of ``targets``.

    Args:
        owner_of: tells the owner of a key; raises ``Invalid`` for what is none.
        heir: the target that gets what belongs to no key; empty while this shard stays.
    """
    found: dict[str, dict[str, Any]] = {target: {} for target in targets}
    if tables is None:
        return found
    for timer in tables.all_timers():
        owner = _owner(cls, timer, owner_of, binding) or heir or mine
        if owner != mine:
            found.setdefault(owner, {}).setdefault(TIMERS, []).append(msgspec.structs.astuple(timer))
            tables.cancel_timer(timer.name)
    if tables.tokens:
        for content in found.values():
            content[TOKENS] = dict(tables.tokens)
    if heir:
        found[heir][FORMER] = tables.bequeathed(mine)  # also stays here, for those who read until this shard has gone
    return found


def put_own(tables: Callable[[], Tables], content: dict[str, Any]) -> None:
    """Put what ``take_own`` gave into the tables that ``tables`` returns, made only if there is something."""
    if content.get(TOKENS):
        tables().see_tokens(content[TOKENS])
    for fields in content.get(TIMERS, ()):
        tables().adopt_timer(Timer(*fields))
    if content.get(FORMER):
        tables().inherit(content[FORMER])


def discard_own(tables: Tables | None, cls: type, owns: Callable[[Any], bool], binding: Any) -> None:
    """Remove the timers of keys that ``owns`` is true of."""
    for timer in tables.all_timers() if tables is not None else ():
        if tables is not None and _owner(cls, timer, lambda key: "theirs" if owns(key) else "", binding):
            tables.cancel_timer(timer.name)


def _owner(cls: type, timer: Timer, owner_of: OwnerOf, binding: Any) -> str:
    try:
        key = key_of(cls, timer, binding)
        return owner_of(key[0]) if key is not None else ""
    except Invalid:  # not a key
        return ""
