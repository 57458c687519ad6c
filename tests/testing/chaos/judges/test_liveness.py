"""The judge of liveness, on histories whose gaps are known."""

from __future__ import annotations

import math

import pytest

from amino.testing.chaos.judges.liveness import liveness
from amino.testing.chaos.record import FaultRecord
from tests.testing.chaos.histories import did


def answers(until_s, *silences, every_s=0.1, workers=2):
    """Return operations of workers that are answered all the time but in the silences, from moment to moment."""
    moments = [number * every_s / workers for number in range(int(until_s / every_s * workers))]
    good = [now for now in moments if not any(begin < now < end for begin, end in silences)]
    return [did(number, "read", at=(now - 0.001, now), worker=number % workers) for number, now in enumerate(good)]


def fault(kind, began_s, healed_s=math.inf, **fields):
    """Return a fault that happened."""
    return FaultRecord(kind, "s1", began_s, healed_s, verified=True, **fields)


def test_it_measures_each_fault():
    """Unavailability is the longest time without an answer from the fault on, told as p50 and worst, also by kind."""
    history = answers(40, (5, 6), (15, 17), (25, 28))
    faults = [fault("kill", 5, 5), fault("kill", 15, 15), fault("freeze", 25, 27), fault("compact", 35, 35)]
    verdict = liveness(history, faults, patience_s=2.5)
    assert verdict.ok, verdict
    assert verdict.figures["unavailable_s_p50"] == pytest.approx(1.5, abs=0.1)
    assert verdict.figures["unavailable_s_worst"] == pytest.approx(3.0, abs=0.1)
    assert verdict.figures["kill: unavailable_s_worst"] == pytest.approx(2.0, abs=0.1)
    assert verdict.figures["compact: unavailable_s_worst"] < 0.2


def test_too_long_a_silence_is_caught():
    """Patience counts from the moment the fault is undone; a bound for its kind from its beginning."""
    history, faults = answers(20, (5, 9)), [fault("cut", 5, 7)]
    assert liveness(history, faults, patience_s=2.5).ok
    late = liveness(history, faults, patience_s=1.5)
    assert not late.ok
    assert "cut s1 at 5.0 s" in late.text
    assert not liveness(history, faults, patience_s=9, bounds={"cut": 3.0}).ok
    assert liveness(history, faults, patience_s=0.5, bounds={"cut": 4.5}).ok


def test_silence_that_goes_on_past_the_next_fault_counts_for_both():
    """A fault's silence does not end because another fault begins; and no answer any more is silence to the end."""
    history = [
        *answers(10),
        did(999, "read", at=(10, math.inf), outcome="unknown"),
        did(1000, "read", at=(19, 20), outcome="failed"),
    ]
    verdict = liveness(history, [fault("kill", 9.5, 9.5), fault("cut", 12, 13)], patience_s=5)
    assert not verdict.ok
    assert verdict.figures["kill: unavailable_s_worst"] == pytest.approx(10, abs=0.5)
    assert verdict.figures["cut: unavailable_s_worst"] == pytest.approx(8, abs=0.5)


def test_what_did_not_happen_and_what_the_audit_read_do_not_count():
    """Only verified faults are measured, and only answers to workers."""
    history = answers(10, (5, 9.5))
    assert liveness(history, [FaultRecord("kill", "s1", 5, 5)], patience_s=1).ok
    audit = [did(5000 + number, "close", at=(5 + number / 10, 5 + number / 10), worker=-1) for number in range(50)]
    assert not liveness([*history, *audit], [fault("kill", 5, 5)], patience_s=1).ok
    assert not liveness([], [], patience_s=1).ok


def test_silence_while_the_next_fault_is_being_caused_is_that_ones():
    """Killing two members of three takes a moment: nobody is answered from the first, the fault is there with the second."""
    history = answers(40, (19.5, 34))
    before, after = fault("cut", 5, 7), fault("kill-majority", 20, 33, injected_s=19.4)
    assert liveness(history, [before, after], patience_s=12).ok
    late = liveness(history, [before, fault("kill-majority", 20, 33)], patience_s=12)
    assert "after cut" in late.text, "as it would be told, if that moment were not known"
