"""How the cost of each kind of telemetry is judged."""

from __future__ import annotations

from bench import telemetry
from bench.telemetry_cost import KINDS


def turns(value):
    return [dict.fromkeys(KINDS, value * factor) for factor in (1.0, 1.0, 9.0)]


def judged(**values):
    measured = {"off": 100.0, "again": 101.0, "without": 100.0, "metrics": 104.0, "one_percent": 103.0, "all": 400.0}
    usual = {name: turns(value) for name, value in (measured | values).items()}
    unlucky = {
        **usual,
        "metrics": turns(150.0),
        "off": turns(90.0),
    }  # one start of several, with memory laid out otherwise
    return {row.name: row for row in telemetry.judge([usual, unlucky, usual])}


def test_each_kind_has_its_bar():
    """Off beside a build without, metrics and a share of traces beside off; every call traced is told only."""
    rows = judged()
    assert len(rows) == 4 * len(KINDS)
    assert all(row.ok for row in rows.values())
    assert rows["telemetry.def.all"].bar is None
    assert rows["telemetry.def.all"].ratio == 4.0


def test_what_costs_too_much_falls_short():
    """More than 5 % beyond what two runs of the same build differ by is too much."""
    assert not judged(metrics=107.0)["telemetry.inline.metrics"].ok
    assert not judged(one_percent=107.0)["telemetry.inline.one_percent"].ok
    assert not judged(without=90.0)["telemetry.inline.off"].ok


def test_kinds_differ_in_what_they_export():
    """Each kind switches on what its name says, on the same collector."""
    found = telemetry.variables("http://c:1")
    assert found["off"] == found["again"] == {}
    assert found["metrics"]["OTEL_TRACES_EXPORTER"] == "none"
    assert found["one_percent"]["OTEL_TRACES_SAMPLER_ARG"] == "0.01"
    assert "OTEL_TRACES_SAMPLER" not in found["all"]
