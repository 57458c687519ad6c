"""Running the calls of ``contracts.own`` on a kernel object: a timer that fires, a reader of events.

Owns what they do. Leaves deciding to ``timers`` and ``outbox``, waiting for what is due to ``wheel``.
Invariants: the operation that runs a timer's method also goes past the occurrence, so each is done once wherever the state
goes; a reader that waits holds neither a thread nor a place in any queue of the object.
Failure behaviour: what a timer's method raises is logged, and the occurrence is done; an occurrence that is not due yet is
``NotExecuted``.
"""

from __future__ import annotations

import inspect
import logging
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.aio.signal import Signal
from amino.contracts.calls import CURRENT, Call, Raised
from amino.contracts.own import EVENTS_CALL, FIRE_CALL, NEWEST, OLDEST, Missed
from amino.errors import Invalid, NotExecuted, NotFound, Overloaded
from amino.kernel.outbox import Batch, parsed, token_of
from amino.kernel.outcomes import reading_by
from amino.marks import ASYNC, INLINE, OWN, READONLY, marks_of
from amino.wire import codec

if TYPE_CHECKING:
    from amino.kernel.object import KernelObject
    from amino.kernel.timers import Timer

_log = logging.getLogger("amino.kernel")
_BATCH_MAX = 1000
_BATCH_BYTES_MAX = 1024 * 1024
_ANSWER_S = 1.0


def flags_of(target: KernelObject, method: str) -> int:
    """Return the flags of a call of Amino's own. Raises ``NotFound``."""
    if method == EVENTS_CALL:
        return OWN | READONLY | ASYNC
    if method.startswith(FIRE_CALL):
        function = getattr(type(target.instance), method[len(FIRE_CALL) :], None)
        if callable(function):
            flags = ASYNC if inspect.iscoroutinefunction(function) else marks_of(function)
            return OWN | (flags & (ASYNC | INLINE))
    raise NotFound(f"{method!r} is no call of Amino's own that {target.microservice} takes")


async def run(target: KernelObject, call: Call) -> Any:
    """Run the call, inside its invocation; what a user's method raises comes as ``Raised``."""
    return read(target, call) if call.method == EVENTS_CALL else await fire(target, call)


# --- timers --------------------------------------------------------------------------------------------------------


def is_done(target: KernelObject, call: Call) -> bool:
    """Return whether the occurrence that ``call`` is for was done already (or cancelled)."""
    return _pending(target, call) is None


def _pending(target: KernelObject, call: Call) -> Timer | None:
    try:
        name, timer_id, number = call.args
    except ValueError:
        raise Invalid("a timer's call names timer, id and number; the sender's release is incompatible") from None
    timer = target.tables.pending(name, timer_id, number) if target.tables is not None else None
    return timer if timer is not None and timer.method == call.method[len(FIRE_CALL) :] else None


async def fire(target: KernelObject, call: Call) -> Any:
    """Go past the occurrence and run the timer's method for it; inside the call's invocation."""
    around, tables, invocation = target.surroundings, target.tables, CURRENT.get()
    assert tables is not None
    assert invocation is not None
    timer = _pending(target, call)
    if timer is None:
        return None
    effects = call.effects
    now_s = around.clock.wall() if effects is None else effects.value(effects.next("now"), around.clock.wall)
    if now_s < timer.due_s:
        raise NotExecuted(f"timer {timer.name} of {target.microservice} is not due yet", reason="not-ready")
    invocation.firing = firing = tables.advance(timer, now_s)
    if firing is None:
        return None
    with codec.finding(target.find_class):
        args, kwargs = codec.unpack(timer.arguments, binding=around.runtime)
    method = getattr(target.instance, timer.method)
    if target.find_class is not None:
        method = reading_by(target.find_class, method, call.flags)
    try:
        result = method(*args, **kwargs)
        return await result if call.flags & ASYNC else result
    except (Exception, SystemExit) as error:
        _log.warning(
            "timer %s of %s: %s raised %s: %s",
            timer.name,
            target.microservice,
            timer.method,
            type(error).__name__,
            error,
            exc_info=True,
        )
        raise Raised(error) from error


# --- events --------------------------------------------------------------------------------------------------------


async def await_news(target: KernelObject, call: Call) -> None:
    """Wait, as long as the reader allows, until there is something for it; before its call enters the object."""
    after, _, _, wait_s, former = _reader(call)
    if former:  # nothing is added to what they emitted
        return
    stirred = target.stirred
    clock = target.surroundings.clock
    until = min(clock.monotonic() + wait_s, call.deadline - _ANSWER_S)
    if target.readers >= limits.EVENT_READERS_PER_OBJECT_MAX:
        raise Overloaded(
            f"{target.readers} readers wait for events of {target.microservice}, the bound; retry", reason="overloaded"
        )
    target.readers += 1
    try:
        while target.moved_to is None and target.stirred == stirred:
            with target.own_lock:
                if _has_news(target, after):
                    return
                news = target.news
                if news is None:
                    news = target.news = Signal()
            await news.wait(max(until - clock.monotonic(), 0.0))
    except TimeoutError:
        pass
    finally:
        target.readers -= 1


def read(target: KernelObject, call: Call) -> dict[str, Any]:
    """Return the events that a reader may have, and where it goes on."""
    after, topic, events_max, _, former = _reader(call)
    tables = target.tables
    if former:
        return _read_former(target, call)
    batch = Batch([], token_of(target.epoch, 0), None)
    if tables is not None and tables.outbox is not None:
        with tables.lock:
            batch = tables.outbox.read(after, topic, min(max(events_max, 1), _BATCH_MAX), _BATCH_BYTES_MAX)
    elif after not in (NEWEST, OLDEST) and parsed(after)[1]:  # what it has read is gone with the state
        batch = Batch([], batch.token, Missed("lost", 1, parsed(after)[1]))
    elif after not in (NEWEST, OLDEST):
        batch = Batch([], after, None)
    return _answer(target, batch)


def _read_former(target: KernelObject, call: Call) -> dict[str, Any]:
    """As ``read``, of a shard that has left and whose events are kept here."""
    after, topic, events_max, _, former = _reader(call)
    tables = target.tables
    outbox = tables.former.get(former) if tables is not None else None
    if tables is None or outbox is None:  # it emitted nothing, or that is gone with the state
        number = 0 if after in (NEWEST, OLDEST) else parsed(after)[1]
        return {**_answer(target, Batch([], after, Missed("lost", 1, number) if number else None)), "ended": True}
    with tables.lock:
        batch = outbox.read(after, topic, min(max(events_max, 1), _BATCH_MAX), _BATCH_BYTES_MAX)
    return {**_answer(target, batch), "ended": parsed(batch.token)[1] >= outbox.last}


def _answer(target: KernelObject, batch: Batch) -> dict[str, Any]:
    with codec.finding(target.find_class):
        events = [
            (token, event.topic, codec.unpack(event.payload, binding=target.surroundings.runtime))
            for token, event in batch.events
        ]
    missed = None if batch.missed is None else [batch.missed.why, batch.missed.first, batch.missed.last]
    former = list(target.tables.former) if target.tables is not None else []
    return {"events": events, "token": batch.token, "missed": missed, "former": former}


def _has_news(target: KernelObject, after: str) -> bool:
    tables = target.tables
    if tables is None or tables.outbox is None:
        return after in (NEWEST, OLDEST) or parsed(after)[1] > 0
    with tables.lock:
        return tables.outbox.has_news(after)


def _reader(call: Call) -> tuple[str, str, int, float, str]:
    try:
        after, topic, events_max, wait_s, *former = call.args
        return str(after), str(topic), int(events_max), max(float(wait_s), 0.0), str(*former)
    except (ValueError, TypeError):
        raise Invalid("a reader of events gives a token, a topic, a number of events and seconds to wait") from None
