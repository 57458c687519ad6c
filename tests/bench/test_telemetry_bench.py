"""How the cost of each kind of telemetry is judged."""

from __future__ import annotations

from amino.telemetry.trace import Telemetry
from bench import telemetry, telemetry_switch
from bench.telemetry_cost import KINDS


def turns(value):
    return [dict.fromkeys(KINDS, value * factor) for factor in (1.0, 1.0, 9.0)]


def switched(on, off=100.0, again=100.4):
    """Three starts, in one of which both take longer, for memory was laid out otherwise."""
    usual = {"on": turns(on), "off": turns(off), "again": turns(again)}
    slower = {name: turns(values[0]["def"] * 1.3) for name, values in usual.items()}
    return [usual, slower, usual]


def judged(name, **values):
    return {row.name: row for row in telemetry.judge(name, switched(**values))}


def beside(without, off=100.0, again=101.0):
    start = {"off": turns(off), "again": turns(again), "without": turns(without)}
    return {row.name: row for row in telemetry.judge_off([start, start])}


def test_each_kind_has_its_bar():
    """Metrics and a share of traces beside the same processes switched off; every call traced is told only."""
    assert all(row.ok for row in judged("metrics", on=104.0).values())
    assert all(row.ok for row in judged("one_percent", on=104.0).values())
    found = judged("all", on=400.8)
    assert len(found) == len(KINDS)
    assert found["telemetry.def.all"].bar is None
    assert found["telemetry.def.all"].ratio == 4.0


def test_what_costs_too_much_falls_short():
    """More than 5 % is too much, and telemetry that is off may cost 3 % beyond what two runs of the same build differ by."""
    assert not judged("metrics", on=106.0)["telemetry.inline.metrics"].ok
    assert not judged("one_percent", on=106.0)["telemetry.inline.one_percent"].ok
    assert beside(without=100.0)["telemetry.inline.off"].ok
    assert not beside(without=90.0)["telemetry.inline.off"].ok


def test_kinds_differ_in_what_they_export():
    """Each kind switches on what its name says, on the same collector."""
    found = telemetry.variables("http://c:1")
    assert found["metrics"]["OTEL_TRACES_EXPORTER"] == "none"
    assert found["one_percent"]["OTEL_TRACES_SAMPLER_ARG"] == "0.01"
    assert "OTEL_TRACES_SAMPLER" not in found["all"]


def test_a_process_is_switched_off_and_on_as_it_was():
    """Only what was on is switched on again."""
    shown = Telemetry()
    shown.metering = shown.observing = True
    try:
        assert telemetry_switch.switch_telemetry(on=False) >= 1
        assert not shown.metering
        assert not shown.observing
        telemetry_switch.switch_telemetry(on=True)
        assert shown.metering
        assert shown.observing
        assert not shown.tracing
    finally:
        telemetry_switch.switch_telemetry(on=True)
        telemetry_switch._kept.clear()
