"""The session machine: golden traces of its life, and its promise about validity under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.coordination.session_machine import (
    Claimed,
    ConfirmAnswered,
    Granted,
    KeepaliveAnswered,
    Lost,
    Phase,
    Publish,
    Released,
    RequestFailed,
    SendConfirm,
    SendKeepalive,
    State,
    Tick,
    Timing,
    step,
)
from amino.errors import Invalid
from tests.coordination import golden

TIMING = Timing(3, 0.5, 1.0, 0.3)
BIRTH = [Granted(100.0, 7), Claimed(42), Tick(100.2), Tick(100.5)]
LIVES = {
    "session-renewed": [
        *BIRTH,
        KeepaliveAnswered(100.5, 3),
        ConfirmAnswered(100.5, 3, held=True, now=100.52),
        Tick(101.0),
        Tick(101.1),
        KeepaliveAnswered(101.0, 3),
        ConfirmAnswered(101.0, 3, held=True, now=101.02),
        Released(),
        Tick(102.0),
    ],
    "session-etcd-away": [
        *BIRTH,
        RequestFailed(101.5),
        Tick(101.625),
        KeepaliveAnswered(101.625, 3),
        RequestFailed(102.7),
        Tick(102.825),
        KeepaliveAnswered(102.825, 3),
        ConfirmAnswered(102.825, 3, held=True, now=102.9),
    ],
    "session-lost": [
        *BIRTH,
        KeepaliveAnswered(100.5, 3),
        ConfirmAnswered(100.5, 3, held=False, now=100.52),
        Tick(101.0),
        KeepaliveAnswered(101.0, 3),
    ],
    "session-lease-unknown-but-key-there": [
        *BIRTH,
        KeepaliveAnswered(100.5, 0),
        ConfirmAnswered(100.5, 0, held=True, now=100.52),
        Tick(100.645),
        KeepaliveAnswered(100.645, 0),
        ConfirmAnswered(100.645, 0, held=False, now=100.7),
    ],
}


@pytest.mark.parametrize("name", LIVES)
def test_golden_trace(name):
    """A life of a session goes exactly as recorded."""
    state = State(TIMING)
    lines = []
    for event in LIVES[name]:
        state, effects = step(state, event)
        lines.append(f"{event}")
        lines.extend(f"    -> {effect}" for effect in effects)
        lines.append(f"    {state.phase.value}, valid until {state.valid_until:g}")
    golden.compare(name, lines)


@pytest.mark.parametrize("ttl_s", [2, 3, 5, 10, 60])
def test_the_usual_timing_fits(ttl_s):
    """The timing derived from a TTL obeys the relation, whatever the TTL."""
    timing = Timing.of_ttl(ttl_s)
    assert timing.renew_every_s + 2 * timing.request_timeout_s <= ttl_s - timing.margin_s


@pytest.mark.parametrize("parts", [(1, 0.1, 0.1, 0.1), (3, 1.0, 1.0, 0.3), (3, 0.0, 1.0, 0.3), (3, 0.5, 1.0, 0)])
def test_a_timing_that_cannot_work_is_refused(parts):
    """A TTL below etcd's minimum, or times that do not fit into it, are Invalid and say what does not fit."""
    with pytest.raises(Invalid, match="session t"):
        Timing(*parts)


@given(st.data())
def test_validity_is_never_claimed_without_proof(data):
    """Whatever answers come: validity ends at most ttl - margin after the last confirmed send, and never after a loss."""
    now = 100.0
    state = State(TIMING)
    state, _ = step(state, Granted(now, 7))
    state, _ = step(state, Claimed(42))
    proven = now
    lost = 0
    for _ in range(data.draw(st.integers(0, 40))):
        now += data.draw(st.floats(0.01, 2.0))
        state, effects = step(state, Tick(now))
        while any(isinstance(effect, SendKeepalive | SendConfirm) for effect in effects):
            sent_at = now
            asked = next(effect for effect in effects if isinstance(effect, SendKeepalive | SendConfirm))
            now += data.draw(st.floats(0.001, 0.9))
            if data.draw(st.booleans()):
                event = RequestFailed(now)
            elif isinstance(asked, SendKeepalive):
                event = KeepaliveAnswered(sent_at, data.draw(st.sampled_from([0, 3])))
            else:
                held = data.draw(st.integers(0, 9)) > 0
                event = ConfirmAnswered(asked.sent_at, asked.remaining_s, held=held, now=now)
                if held and asked.remaining_s > 0:
                    proven = asked.sent_at
            state, effects = step(state, event)
            lost += sum(isinstance(effect, Lost) for effect in effects)
            for effect in effects:
                if isinstance(effect, Publish):
                    assert effect.deadline == state.valid_until
        assert state.valid_until <= proven + TIMING.ttl_s - TIMING.margin_s
        assert (state.phase is Phase.LOST) == (lost == 1)
        if lost:
            assert state.valid_until == 0
