"""Log lines: both forms, trace ids, and one record a line."""

from __future__ import annotations

import io
import json
import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider

from amino.telemetry import names
from amino.telemetry.logs import ALIKE_MAX, PLACES_MAX, WINDOW_S, configure
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


def test_what_runs_is_named(logged):
    """A record made in a method carries the microservice, and the call's trace though this process traces nothing."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    running = [({names.MICROSERVICE: "m1", names.REPLICA: "r1"}, traceparent), None, ({}, traceparent[:-1] + "0")]
    out = logged(form="json", about=lambda: running.pop(0))
    for text in ("in a method", "outside", "in a call that is left out"):
        logging.getLogger("amino.test").info(text)
    first, second, third = (json.loads(line) for line in out.getvalue().splitlines())
    assert (first[names.MICROSERVICE], first[names.REPLICA]) == ("m1", "r1")
    assert first[names.LOG_TRACE] == "0af7651916cd43dd8448eb211c80319c"
    assert names.LOG_TRACE not in second
    assert names.LOG_TRACE not in third


def test_what_is_said_again_and_again_is_bounded(logged):
    """Of lines from one place some are shown, the rest are counted in the next that is; other places are not held back."""
    now = [100.0]
    out = logged(now=lambda: now[0])
    log = logging.getLogger("amino.test")
    for number in range(500):
        log.warning("etcd does not answer: %d", number)
    log.warning("something else")
    log.info("etcd does not answer: %d", 0)
    now[0] += WINDOW_S
    log.warning("etcd does not answer: %d", 500)
    log.warning("etcd does not answer: %d", 501)
    lines = out.getvalue().splitlines()
    assert len(lines) == ALIKE_MAX + 4
    assert lines[ALIKE_MAX].endswith("something else")
    assert lines[-2].endswith(f"etcd does not answer: 500 suppressed={500 - ALIKE_MAX}")
    assert lines[-1].endswith("501")


def test_places_that_are_remembered_are_bounded(logged):
    """However many messages a program makes up, the bound keeps track of a fixed number of them."""
    out = logged()
    for number in range(PLACES_MAX + 10):
        logging.getLogger("amino.test").info(f"made up {number}")
    (bound,) = [each for each in logging.getLogger().handlers[-1].filters if hasattr(each, "_said")]
    assert len(bound._said) == PLACES_MAX
    assert out.getvalue().count("\n") == PLACES_MAX + 10
