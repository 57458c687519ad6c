"""Log lines: both forms, trace ids, and one record a line."""

from __future__ import annotations

import io
import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider

from amino.telemetry import names
from amino.telemetry.logs import configure
from amino.telemetry.otel import OtelTelemetry
from amino.telemetry.trace import Telemetry


@pytest.fixture
def logged():
    """Return a function that configures logging into a buffer; undone afterwards."""
    undo = []
    root = logging.getLogger()
    level = root.level

    def start(telemetry=None, **options):
        stream = io.StringIO()
        undo.append(configure(telemetry or Telemetry.disabled(), stream=stream, **options))
        return stream

    yield start
    for handler in undo:
        root.removeHandler(handler)
    root.setLevel(level)


def test_text_is_key_value(logged):
    """The text form shows time, level, logger, message and the extra fields, quoted where needed."""
    out = logged()
    logging.getLogger("amino.test").warning("server lost", extra={names.SERVER: "s1", "note": "two words", "n": 3})
    time, rest = out.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'warning amino.test server lost server=s1 note="two words" n=3\n'


def test_one_record_is_one_line(logged):
    """Line ends in messages, values and tracebacks are escaped."""
    out = logged()
    try:
        raise ValueError("a\nb")
    except ValueError:
        logging.getLogger("amino.test").exception("first\nsecond", extra={"value": "x\ny"})
    assert out.getvalue().count("\n") == 1
    assert "first\\nsecond" in out.getvalue()
    assert "ValueError" in out.getvalue()


def test_json_lines(logged):
    """The JSON form holds the same fields; what JSON cannot hold is written as text; ours are not overwritten."""
    out = logged(form="json")
    extra = {names.EPOCH: 4, "path": io, names.LOG_LEVEL: "spoofed"}
    logging.getLogger("amino.test").info("placed %s", "m1", extra=extra)
    record = json.loads(out.getvalue())
    assert record[names.LOG_MESSAGE] == "placed m1"
    assert record[names.LOG_LEVEL] == "info"
    assert record[names.EPOCH] == 4
    assert record["path"].startswith("<module")
    assert names.LOG_TRACE not in record


def test_trace_ids_are_attached_inside_a_span(logged):
    """While tracing, a record made inside a span names it; outside it does not."""
    telemetry = OtelTelemetry(TracerProvider(shutdown_on_exit=False).get_tracer("t"), None)
    out = logged(telemetry, form="json")
    log = logging.getLogger("amino.test")
    with telemetry.span("call") as span:
        log.info("inside")
    log.info("outside")
    inside, outside = (json.loads(line) for line in out.getvalue().splitlines())
    assert span.traceparent().startswith(f"00-{inside[names.LOG_TRACE]}-{inside[names.LOG_SPAN]}-")
    assert names.LOG_TRACE not in outside


def test_level_is_respected(logged):
    """Records below the level are not shown."""
    out = logged(level="WARNING")
    logging.getLogger("amino.test").info("hidden")
    assert out.getvalue() == ""
