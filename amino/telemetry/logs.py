"""Logs: what a process says in text, one record a line.

Owns the two forms (``key=value`` text, JSON lines) and the place where trace ids are added. Leaves what is
logged to the callers, who use the standard library: ``log.warning("server lost", extra={names.SERVER: name})``.
Invariants: one record is one line, whatever is in the message; libraries never configure logging, only programs do.
Failure behaviour: a value that JSON cannot hold is written as its ``str``.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Literal, TextIO

from amino.telemetry import names

if TYPE_CHECKING:
    from amino.telemetry.trace import Telemetry

Form = Literal["text", "json"]

_STANDARD = frozenset(vars(logging.LogRecord("", 0, "", 0, "", (), None))) | {
    "message", "asctime", "taskName", "amino_trace",
}  # fmt: skip
_PREFIX = f"{names.SCOPE}."


class _TraceIds(logging.Filter):
    """Notes the current span on each record, in the thread that logs (a formatter may run elsewhere)."""

    def __init__(self, telemetry: Telemetry) -> None:
        super().__init__()
        self._telemetry = telemetry

    def filter(self, record: logging.LogRecord) -> bool:
        context = self._telemetry.traceparent()
        if context is not None:
            record.amino_trace = context.split("-", 3)[1:3]
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
) -> logging.Handler:
    """Send this process's log records to ``stream``; called once, by a program (never by a library).

    Args:
        telemetry: while it traces, records made inside a span carry its trace and span id.
        level: least level shown.
        form: ``text`` for people, ``json`` for machines.
        stream: default standard error.

    Returns:
        The handler, already added to the root logger; remove it there to undo.
    """
    handler = logging.StreamHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    if telemetry.tracing:
        handler.addFilter(_TraceIds(telemetry))
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
    fields.update(extra)
    trace = getattr(record, "amino_trace", None)
    if trace is not None:
        fields[names.LOG_TRACE], fields[names.LOG_SPAN] = trace
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
