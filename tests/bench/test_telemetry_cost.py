"""The build without telemetry that the cost of telemetry is measured against."""

from __future__ import annotations

from bench import telemetry_cost

_SOURCE = """
def call(self, telemetry):
    if self._telemetry.tracing:
        with self._telemetry.span("x"):
            pass
    self.passes_through = not self._handlers and not telemetry.tracing
    telemetry.tracing = True
    return self.race.tracing
"""


def test_switches_are_answered_and_nothing_else():
    """Reading a switch of telemetry becomes False; setting one, and other things of that name, stay."""
    text, answered = telemetry_cost.without_telemetry(_SOURCE)
    assert answered == 2
    assert "if False:" in text
    assert "not self._handlers and (not False)" in text
    assert "telemetry.tracing = True" in text
    assert "self.race.tracing" in text


def test_no_switch_is_missed_in_the_sources(tmp_path):
    """In the copy nobody asks any more whether to trace or to meter, and all of it still compiles."""
    assert telemetry_cost.copy_without_telemetry(tmp_path) > 10
    sources = [path for path in (tmp_path / "amino").rglob("*.py") if "telemetry" not in path.parts]
    assert [path.name for path in sources if telemetry_cost.without_telemetry(path.read_text())[1]] == []


def test_the_turns_in_the_middle_are_compared():
    """A turn in which the machine was slow, or the threads happened to meet on one core, says nothing."""
    ours = [{"inline": 50.0, "def": 90.0}, {"inline": 30.0, "def": 99.0}, {"inline": 11.0, "def": 50.0}]
    without = [{"inline": 29.0, "def": 80.0}, {"inline": 60.0, "def": 300.0}, {"inline": 10.0, "def": 11.0}]
    again = [{"inline": 33.0, "def": 90.0}]
    rows = {each.name: each for each in telemetry_cost.judge(ours, again, without)}
    inline = rows["calls.amino.inline.telemetry_off"]
    assert inline.ok
    assert (inline.value, inline.baseline) == (30.0, 29.0)
    assert "differ by 10.0%" in inline.note
    assert not rows["calls.amino.def.telemetry_off"].ok
