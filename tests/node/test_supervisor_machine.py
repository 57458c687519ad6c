"""The supervisor's machine: golden traces of the lives of children, and the rules that hold in all of them."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amino.errors import Invalid
from amino.node import supervisor_machine as m

GOLDEN = Path(__file__).parent / "golden"
RULES = m.Rules(ttl_s=3.0)


def ticks(count: int, *, stopped: bool = False, elapsed_s: float = 0.25) -> list[m.Event]:
    return [m.Tick(elapsed_s, stopped)] * count


def served(run: int = 1) -> list[m.Event]:
    return [m.ChildReady(run), m.Claimed(run), m.ChildServes(run)]


SCENARIOS: dict[str, list[m.Event]] = {
    "child_dies": [m.Begin(), *served(), m.Exited(1, "signal 9"), m.Buried(), *ticks(1), *served(2)],
    "child_dies_ready_before_burial": [
        m.Begin(), *served(), m.Exited(1, "exit 1"), *ticks(1), m.ChildReady(2), m.Claimed(1), m.Buried(), m.Claimed(2),
    ],
    "lease_lost": [m.Begin(), *served(), m.LeaseLost(1), m.Exited(1, "signal 9"), m.Buried(), *ticks(1), *served(2)],
    "lease_lost_of_an_earlier_child": [
        m.Begin(), *served(), m.Exited(1, "signal 9"), m.LeaseLost(1), m.Buried(), *ticks(1), *served(2), m.LeaseLost(1),
    ],
    "hung": [m.Begin(), *served(), *ticks(40), m.Exited(1, "signal 9"), m.Buried()],
    "interpreter_lock_held_for_six_seconds": [m.Begin(), *served(), *ticks(24), m.Pong(1), *ticks(24), m.Pong(1)],
    "stopped": [m.Begin(), *served(), *ticks(12, stopped=True), m.Exited(1, "signal 9"), m.Buried()],
    "stopped_shortly": [m.Begin(), *served(), *ticks(11, stopped=True), *ticks(1), *ticks(11, stopped=True)],
    "both_frozen_for_an_hour": [m.Begin(), *served(), *ticks(1, stopped=True, elapsed_s=3600.0), *ticks(3), m.Pong(1)],
    "start_takes_too_long": [m.Begin(), *ticks(240), m.Exited(1, "signal 9"), *ticks(1)],
    "does_not_come_to_serve": [m.Begin(), m.ChildReady(1), m.Claimed(1)]
    + [e for _ in range(80) for e in (m.Tick(0.25), m.Pong(1))]
    + [m.Exited(1, "signal 9"), m.Buried(), *ticks(1)],
    "cannot_start": [m.Begin(), m.ChildFailed(1, "listen='nowhere' is no address", True), m.Exited(1, "exit 1")],
    "cannot_serve": [
        m.Begin(), m.ChildReady(1), m.Claimed(1), m.ChildFailed(1, "store='x' is no store", True),
        m.Exited(1, "exit 1"), m.Buried(),
    ],
    "cannot_start_again": [
        m.Begin(), *served(), m.Exited(1, "exit 1"), m.Buried(), *ticks(1),
        m.ChildFailed(2, "port taken", True), m.Exited(2, "exit 1"), *ticks(1),
    ],
    "back_off": [m.Begin()] + [e for run in range(1, 9) for e in (m.Exited(run, "exit 1"), *ticks(20))],
    "back_off_resets": [m.Begin(), m.Exited(1, "exit 1"), *ticks(1), *served(2)]
    + [e for _ in range(44) for e in (m.Tick(0.25), m.Pong(2))]
    + [m.Exited(2, "exit 1")],
    "drain_and_stop": [m.Begin(), *served(), m.Terminate(), m.Drained(1), m.Exited(1, "exit 0"), m.Buried()],
    "drain_takes_too_long": [m.Begin(), *served(), m.Terminate()]
    + [e for _ in range(240) for e in (m.Tick(0.25), m.Pong(1))]
    + [*ticks(20), m.Exited(1, "signal 9"), m.Buried()],
    "second_signal_stops_now": [
        m.Begin(), *served(), m.Terminate(), m.Terminate(), m.Exited(1, "signal 9"), m.Buried(),
    ],
    "terminated_while_starting": [m.Begin(), m.Terminate(), m.Exited(1, "signal 9")],
    "terminated_between_children": [m.Begin(), m.Exited(1, "exit 1"), m.Terminate()],
    "terminated_while_burying": [m.Begin(), *served(), m.Exited(1, "exit 1"), m.Terminate(), *ticks(4), m.Buried()],
    "name_taken": [
        m.Begin(), m.ChildReady(1), m.Refused(1, "server name 's1' is taken"), m.Exited(1, "signal 9"), m.Buried(),
    ],
}  # fmt: skip


def trace(events: list[m.Event]) -> str:
    """Write events and effects down; runs of ticks that change nothing but time become one line."""
    state = m.State()
    lines: list[str] = []
    quiet_s, pongs = 0.0, 0
    for event in events:
        before = state.phase
        state, effects = m.step(state, event, RULES)
        shown = [effect for effect in effects if not isinstance(effect, m.Ping)]
        quiet_s += event.elapsed_s if isinstance(event, m.Tick) else 0
        pongs += isinstance(event, m.Pong)
        if isinstance(event, m.Tick | m.Pong) and not shown and state.phase is before:
            continue
        lines.extend(_quiet(quiet_s, pongs))
        quiet_s, pongs = 0.0, 0
        if not isinstance(event, m.Tick):
            lines.append(f"{event}")
        lines.extend(f"    -> {effect}" for effect in shown)
        lines.append(f"    {state.phase.value}" + (f", wait {state.wait_s:g} s" if state.phase is m.Phase.DOWN else ""))
    if quiet := _quiet(quiet_s, pongs):
        lines += [*quiet, f"    {state.phase.value}"]
    return "\n".join(lines) + "\n"


def _quiet(quiet_s: float, pongs: int) -> list[str]:
    return [f"after {quiet_s:g} s" + (f" with {pongs} pongs" if pongs else "")] if quiet_s or pongs else []


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_lives_of_children_go_as_written_down(name):
    """Each scenario leads to exactly the effects kept in its golden file."""
    found = trace(SCENARIOS[name])
    path = GOLDEN / f"{name}.txt"
    if os.environ.get("AMINO_GOLDEN_UPDATE"):
        path.write_text(found)
    assert found == path.read_text()


def test_every_golden_file_has_its_scenario():
    """No trace is kept that nothing produces."""
    assert {path.stem for path in GOLDEN.glob("*.txt")} == set(SCENARIOS)


def test_a_hang_limit_below_the_ping_interval_is_refused():
    """Times that would kill every healthy child are refused, with the remedy."""
    with pytest.raises(Invalid, match="raise hang_s"):
        m.Rules(ttl_s=2.0, hang_s=0.5)


RUN_EVENTS = st.one_of(
    st.builds(m.Tick, st.floats(0, 5), st.booleans()),
    st.builds(m.ChildReady, st.integers(1, 4)),
    st.builds(m.ChildFailed, st.integers(1, 4), st.just("why"), st.booleans()),
    st.builds(m.ChildServes, st.integers(1, 4)),
    st.builds(m.Pong, st.integers(1, 4)),
    st.builds(m.Drained, st.integers(1, 4)),
    st.builds(m.LeaseLost, st.integers(1, 4)),
    st.builds(m.Refused, st.integers(1, 4), st.just("why")),
    st.builds(m.Terminate),
    st.sampled_from(["exit", "claimed", "buried"]),
)


@given(st.lists(RUN_EVENTS, max_size=120))
@settings(max_examples=300, deadline=None)
def test_any_order_of_events_keeps_the_invariants(events):
    """One child at a time; no claim while an earlier child is not buried; once over, nothing is done."""
    state, effects = m.step(m.State(), m.Begin(), RULES)
    alive, burying, claims_open, over = 1, False, False, False
    for event in events:
        if event == "exit":
            if not alive:
                continue
            event, alive = m.Exited(state.run, "exit 1"), 0
        elif event == "claimed":
            if not claims_open:
                continue
            event, claims_open = m.Claimed(state.run), False
        elif event == "buried":
            if not burying:
                continue
            event, burying = m.Buried(), False
        state, effects = m.step(state, event, RULES)
        for effect in effects:
            assert not over
            match effect:
                case m.StartChild():
                    assert not alive
                    alive = 1
                case m.Claim():
                    assert alive
                    assert not burying
                    claims_open = True
                case m.Bury():
                    assert not alive
                    assert not burying
                    burying, claims_open = True, False
                case m.Kill():
                    assert alive
                case m.Exit():
                    assert not alive
                    assert not burying
                    over = True
