"""The session machine: golden traces of its life, and its promise about validity under any order of events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.coordination.session_machine import (
    BEATS_MAX,
    BeatAnswered,
    Claimed,
    Granted,
    KeepaliveAnswered,
    Lost,
    Phase,
    Publish,
    Released,
    RequestFailed,
    SendBeat,
    SendKeepalive,
    State,
    Tick,
    Timing,
    step,
)
from amino.errors import Invalid
from tests.coordination import golden

TIMING = Timing(3, 0.5, 1.0, 0.3)
BIRTH = [Granted(100.0, 7), Claimed(100.0, 42), Tick(100.2), Tick(100.5)]
LIVES = {
    "session-renewed": [
        *BIRTH,
        BeatAnswered(100.5, held=True, now=100.52),
        Tick(101.0),
        Tick(101.1),
        BeatAnswered(101.0, held=True, now=101.02, look_at=101.2),
        Tick(101.2),
        BeatAnswered(101.2, held=True, now=101.21),
        Released(),
        Tick(102.0),
    ],
    "session-etcd-away": [
        *BIRTH,
        Tick(101.0),
        RequestFailed(101.5),
        Tick(101.5),
        RequestFailed(102.0),
        Tick(102.0),
        BeatAnswered(101.5, held=True, now=102.1),
        RequestFailed(102.5),
    ],
    "session-beats-under-way": [
        *BIRTH,
        Tick(101.0),
        Tick(101.5),
        Tick(102.0),
        BeatAnswered(101.5, held=True, now=102.1),
        BeatAnswered(100.5, held=True, now=102.2),
        Tick(102.1),
    ],
    "session-lost": [
        *BIRTH,
        BeatAnswered(100.5, held=False, now=100.52),
        Tick(101.0),
        BeatAnswered(101.0, held=True, now=101.1),
    ],
    "session-lease-renewed": [
        *BIRTH,
        BeatAnswered(100.5, held=True, now=100.52),
        Tick(110.0),
        KeepaliveAnswered(111.0, renewed=False),
        BeatAnswered(110.0, held=True, now=111.1),
        Tick(111.5),
        KeepaliveAnswered(111.6, renewed=True),
        BeatAnswered(111.5, held=True, now=111.7),
        Tick(112.1),
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


@pytest.mark.parametrize("ttl_s", [2, 3, 5, 10, 60])
def test_etcd_keeps_a_session_far_longer_than_it_is_valid(ttl_s):
    """No pause of etcd, and no clock of its, ends the lease of a session that beats."""
    timing = Timing.of_ttl(ttl_s)
    assert timing.lease_ttl_s >= max(60, 10 * ttl_s)
    assert timing.keep_every_s + 2 * timing.request_timeout_s < timing.lease_ttl_s / 2


@given(st.data())
def test_validity_is_never_claimed_without_proof(data):
    """Whatever answers come: validity ends at most ttl - margin after the last good beat's send, never after a loss."""
    now = 100.0
    state = State(TIMING)
    state, _ = step(state, Granted(now, 7))
    state, _ = step(state, Claimed(now, 42))
    proven = now
    lost = 0
    under_way = []  # send time, and whether it is a beat
    for _ in range(data.draw(st.integers(0, 40))):
        now += data.draw(st.floats(0.01, 9.0))
        if under_way and data.draw(st.booleans()):
            sent_at, is_beat = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            if not is_beat:
                event = KeepaliveAnswered(now, renewed=data.draw(st.booleans()))
            elif data.draw(st.booleans()):
                event = RequestFailed(now)
            else:
                held = data.draw(st.integers(0, 9)) > 0
                event = BeatAnswered(sent_at, held=held, now=now, look_at=now + data.draw(st.floats(-1.0, 5.0)))
                if held:
                    proven = max(proven, sent_at)
        else:
            event = Tick(now)
        state, effects = step(state, event)
        lost += sum(isinstance(effect, Lost) for effect in effects)
        under_way += [
            (now, isinstance(each, SendBeat)) for each in effects if isinstance(each, SendKeepalive | SendBeat)
        ]
        assert sum(is_beat for _, is_beat in under_way) <= BEATS_MAX
        assert sum(not is_beat for _, is_beat in under_way) <= 1
        for effect in effects:
            if isinstance(effect, Publish):
                assert effect.deadline == state.valid_until
        assert state.valid_until <= proven + TIMING.ttl_s - TIMING.margin_s
        assert (state.phase is Phase.LOST) == (lost == 1)
        if lost:
            assert state.valid_until == 0
