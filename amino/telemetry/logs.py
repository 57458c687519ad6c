"""Logs: what a process says in text, one record a line.

Owns the two forms (``key=value`` text, JSON lines), the place where ids of traces and microservices are added, and the bound on
how often the same is said. Leaves what is logged to the callers, who use the standard library:
``log.warning("server lost", extra={names.SERVER: name})``.
Invariants: one record is one line, whatever is in the message; libraries never configure logging, only programs do; a place in
the code that says more than ``ALIKE_MAX`` lines within ``WINDOW_S`` is silent until that has passed, and then says how many
were left out.
Failure behaviour: a value that JSON cannot hold is written as its ``str``.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
import time
from collections import OrderedDict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from amino.telemetry import names
from amino.telemetry.trace import is_unsampled

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.telemetry.trace import Telemetry

Form = Literal["text", "json"]
About = tuple[dict[str, str], str | None]
"""Fields for a record and the traceparent of what runs."""
ALIKE_MAX = 20
WINDOW_S = 10.0
PLACES_MAX = 1024

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message", "asctime", "taskName", "amino_trace", "amino_about", "amino_more",
}  # fmt: skip
_PREFIX = f"{names.SCOPE}."


class _Ids(logging.Filter):
    """Notes on each record what runs, in the thread that logs (a formatter may run elsewhere)."""

    def __init__(self, telemetry: Telemetry, about: Callable[[], About | None] | None) -> None:
        super().__init__()
        self._telemetry = telemetry
        self._about = about

    def filter(self, record: logging.LogRecord) -> bool:
        context = self._telemetry.traceparent()
        found = self._about() if self._about is not None else None
        if found is not None:
            record.amino_about = found[0]
            context = context or found[1]
        if context is not None and not is_unsampled(context):
            record.amino_trace = context.split("-", 3)[1:3]
        return True


class _Bound(logging.Filter):
    """Lets each place in the code say so many lines in a while, and the next one after that tell how many it did not."""

    def __init__(self, now: Callable[[], float]) -> None:
        super().__init__()
        self._now = now
        self._lock = threading.Lock()
        self._said: OrderedDict[tuple[str, int, str], list[float]] = OrderedDict()  # place: [since, said, left out]

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.name, record.levelno, str(record.msg))
        now = self._now()
        with self._lock:
            said = self._said.setdefault(place, [now, 0, 0])
            self._said.move_to_end(place)
            if len(self._said) > PLACES_MAX:
                self._said.popitem(last=False)
            if now - said[0] >= WINDOW_S:
                left_out = int(said[2])
                said[:] = [now, 1, 0]
                if left_out:
                    record.amino_more = left_out
                return True
            said[1] += 1
            if said[1] > ALIKE_MAX:
                said[2] += 1
                return False
            return True


class TextFormatter(logging.Formatter):
    """``time level logger message key=value ...``; exceptions follow on one line, with escaped line ends."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        fields = _fields(self, record)
        head = [str(fields.pop(key)) for key in (names.LOG_TIME, names.LOG_LEVEL, names.LOG_LOGGER)]
        message = _one_line(str(fields.pop(names.LOG_MESSAGE)))
        rest = [f"{key.removeprefix(_PREFIX)}={_quoted(value)}" for key, value in fields.items()]
        return " ".join([*head, message, *rest])


class JsonFormatter(logging.Formatter):
    """One JSON object a line, with the keys of ``names``."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line."""
        return json.dumps(_fields(self, record), default=str, ensure_ascii=False)


def configure(
    telemetry: Telemetry,
    *,
    level: int | str = logging.INFO,
    form: Form = "text",
    stream: TextIO | None = None,
    about: Callable[[], About | None] | None = None,
    now: Callable[[], float] = time.monotonic,
) -> logging.Handler:
    """Send this process's log records to ``stream``; called once, by a program (never by a library).

    Args:
        telemetry: while it traces, records made inside a span carry its trace and span id.
        level: least level shown.
        form: ``text`` for people, ``json`` for machines.
        stream: default standard error.
        about: tells what the thread or task that logs is running, None if nothing of the user's.
        now: the clock for the bound on lines that are alike.

    Returns:
        The handler, already added to the root logger; remove it there to undo.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(_Bound(now))
    if telemetry.tracing or about is not None:
        handler.addFilter(_Ids(telemetry, about))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(level)
    return handler


def _fields(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    at = datetime.fromtimestamp(record.created, UTC)
    fields: dict[str, Any] = {
        names.LOG_TIME: at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        names.LOG_LEVEL: record.levelname.lower(),
        names.LOG_LOGGER: record.name,
        names.LOG_MESSAGE: record.getMessage(),
    }
    extra = {key: value for key, value in vars(record).items() if key not in _STANDARD and key not in fields}
    fields.update(getattr(record, "amino_about", {}))
    fields.update(extra)
    trace = getattr(record, "amino_trace", None)
    if trace is not None:
        fields[names.LOG_TRACE], fields[names.LOG_SPAN] = trace
    more = getattr(record, "amino_more", None)
    if more is not None:
        fields[names.LOG_MORE] = more
    if record.exc_info:
        fields[names.LOG_ERROR] = formatter.formatException(record.exc_info)
    return fields


def _one_line(text: str) -> str:
    return (
        text.replace("\\", "\\\\").replace("\r", "\\r").replace("\n", "\\n") if "\n" in text or "\r" in text else text
    )


def _quoted(value: object) -> str:
    text = str(value)
    if text and not any(character in text for character in ' "=\n\r\t'):
        return text
    return json.dumps(text, ensure_ascii=False)
