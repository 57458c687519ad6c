"""Rows are judged by their bars alone, and shown and written in one form."""

from __future__ import annotations

import json
import runpy
import sys

import pytest

from bench import rows
from bench.calls import judge
from bench.peers.port import Measured
from bench.peers.run import PEERS, RAW, Outcome, load, missing, run
from bench.stats import p50, p99, percentile, rate_batches, rate_threads, sequential


@pytest.mark.parametrize(
    ("limits", "value", "ok"),
    [
        ({}, 5.0, True),
        ({"at_most": 5}, 5.0, True),
        ({"at_most": 5}, 5.1, False),
        ({"at_least": 5}, 4.9, False),
        ({"at_most": 5, "at_least": 4}, 4.5, True),
        ({"at_most": 5}, None, False),
    ],
)
def test_value_is_judged_by_its_limits(limits, value, ok):
    """A value beyond its bar, or missing, is not ok."""
    made = rows.row("x", value, "s", **limits)
    assert made.ok is ok
    assert (made.bar is None) == (not limits)


def test_ratio_is_judged_where_there_is_something_to_compare_with():
    """With ``against`` the limit is for value over baseline; without a baseline nothing is proved."""
    made = rows.row("x", 90.0, "us", baseline=20.0, against="raw", at_most=4.5)
    assert (made.ratio, made.ok, made.bar) == (4.5, True, "at most 4.5 x raw")
    assert not rows.row("x", 90.0, "us", baseline=None, against="raw", at_most=4.5).ok


def test_rows_are_written_as_they_were_agreed(tmp_path):
    """The JSON of a row has the agreed keys."""
    file = tmp_path / "rows.json"
    rows.write([rows.row("x", 1.0, "s", at_most=2)], file)
    (read,) = json.loads(file.read_text())
    assert read == {
        "name": "x", "value": 1.0, "unit": "s", "baseline": None, "ratio": None, "bar": "at most 2 s", "ok": True, "note": "",
    }  # fmt: skip


def test_lines_tell_verdict_value_and_bar():
    """One line for each row, readable in a log."""
    assert rows.line(rows.row("a.b", 12345.0, "calls/s")) == "ok   a.b: 12,345 calls/s"
    failed = rows.row("a.b", 90.0, "us", baseline=10.0, against="raw", at_most=4.5, note="why")
    assert rows.line(failed) == "FAIL a.b: 90 us, 9 x 10 (bar: at most 4.5 x raw) [why]"
    assert rows.line(rows.row("a", None, "us")) == "ok   a: - us"


def test_percentiles_are_nearest_rank():
    """Percentiles are values that occurred."""
    values = [float(number) for number in range(100, 0, -1)]
    assert (p50(values), p99(values), percentile(values, 1.0), percentile(values, 0.0)) == (50.0, 99.0, 100.0, 1.0)
    assert p50([3.0]) == 3.0
    with pytest.raises(ValueError, match="at least one"):
        p50([])


def test_loops_are_bounded():
    """Each loop ends after its time and counts what it did."""
    calls = []
    took = sequential(lambda: calls.append(1), 0.01, warm_up=3)
    assert len(calls) == len(took) + 3
    assert rate_batches(lambda number: number, 8, 0.01) > 0
    assert rate_threads([lambda: None] * 4, 0.01) > 0


def test_thread_that_fails_ends_the_measurement():
    """An error in one caller reaches the one who measures."""

    def broken():
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        rate_threads([broken, lambda: None], 0.05)


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_loads_without_its_system(name):
    """A peer's module imports what it measures only when used, so that a missing one can be left out."""
    peer = load(name)
    assert peer.name == name
    assert isinstance(missing(name), list)


def test_peer_that_is_not_installed_is_left_out_with_the_reason(monkeypatch):
    """A missing package is named, with what installs it."""
    monkeypatch.setattr(load("rpyc").__class__, "requires", ("no_such_package",))
    outcome = run("rpyc", 0.1)
    assert outcome.measured is None
    assert "no_such_package" in outcome.reason


@pytest.mark.parametrize("name", RAW)
def test_raw_peers_run(name):
    """The floor can be measured wherever the tests run."""
    if missing(name):
        assert name == "uvloop"
        return
    outcome = run(name, 0.05)
    assert outcome.measured is not None, outcome.reason
    assert 0 < outcome.measured.null_us < outcome.measured.mib_us
    assert outcome.measured.in_flight_per_s > 0


def test_peer_that_hangs_is_ended():
    """A measurement that does not end in time is killed, and said so."""
    outcome = run("blocking", 60, timeout_s=0.5)
    assert (outcome.measured, outcome.reason) == (None, "not done within 0.5 s")


def test_calls_are_judged_against_the_same_run():
    """Bars compare medians of the rounds; what could not run makes its bar fail visibly, not the others."""
    ours = [{"async_us": us, "inline_us": 70.0, "def_us": 120.0, "async_per_s": 20_000.0} for us in (80.0, 85.0, 500.0)]
    peers = {name: [Outcome(name, Measured(null_us=200.0, in_flight_per_s=3_000.0))] for name in PEERS}
    peers["uvloop"] = [Outcome("uvloop", Measured(null_us=20.0))]
    peers["ray"] = [Outcome("ray", None, "not installed")]
    found = {each.name: each for each in judge(ours, peers)}
    assert found["calls.amino.async.sequential"].value == 85.0
    assert found["calls.amino.async.sequential"].ratio == 4.25
    assert found["calls.amino.async.sequential"].ok
    assert found["calls.amino.def.sequential"].ok
    assert found["calls.amino.async.in_flight_64.vs_xoscar"].ok
    assert not found["calls.amino.async.in_flight_64.vs_ray"].ok
    assert found["calls.ray"].note == "not installed"
    assert not found["calls.amino.async.colocated"].ok


def test_unknown_benchmark_is_refused(monkeypatch, capsys):
    """The command line names what there is."""
    monkeypatch.setattr(sys, "argv", ["bench", "bars", "nothing"])
    with pytest.raises(SystemExit) as exit_code:
        runpy.run_module("bench", run_name="__main__")
    assert exit_code.value.code == 2
    assert "failover" in capsys.readouterr().err
