"""The judge of serializability: every anomaly planted by itself, and whole histories of correct and broken stores."""

from __future__ import annotations

import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from amino.testing.serializability import Anomaly, Outcome, Transaction, judge
from tests.testing.executors import Locking, explained, serial, snapshots

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN
seeds = st.integers(0, 2**32)
settled = settings(max_examples=60, deadline=None)  # other programs of the machine may slow any example down


def made(name, *operations, outcome=OK, began=0.0, ended=100.0):
    """Return a transaction; ``"x=1"`` appends 1 to x, ``"x:12"`` reads 1 and 2."""
    one = Transaction(name, began=began)
    for each in operations:
        if "=" in each:
            one.append(each[0], each[2:])
        else:
            one.read(each[0], each[2:])
    one.end(outcome, ended)
    return one


def anomalies(*history, strict=False):
    return [finding.anomaly for finding in judge(history, strict=strict)]


READ = made("read", "x:12", "y:34")

PLANTED = {
    Anomaly.DUPLICATE: [made("a", "x=1"), made("b", "x:11")],
    Anomaly.UNWRITTEN: [made("a", "x=1"), made("b", "x:19")],
    Anomaly.INTERNAL: [made("a", "x=1"), made("b", "x:", "x:1")],
    Anomaly.INCOMPATIBLE: [made("a", "x=1"), made("b", "x=2"), made("c", "x:12"), made("d", "x:21")],
    Anomaly.G1A: [made("a", "x=1", outcome=FAILED), made("b", "x:1")],
    Anomaly.G1B: [made("a", "x=1", "x=2"), made("b", "x:1")],
    Anomaly.LOST_UPDATE: [made("a", "x:", "x=1"), made("b", "x:", "x=2"), made("c", "x:12")],
    Anomaly.G0: [made("a", "x=1", "y=4"), made("b", "x=2", "y=3"), READ],
    Anomaly.G1C: [made("a", "x=1", "y:2"), made("b", "y=2", "x:1")],
    Anomaly.G_SINGLE: [made("a", "x=1", "y=3"), made("b", "x:1", "y:"), made("c", "y:3")],
    Anomaly.G2_ITEM: [made("a", "x:", "y=3"), made("b", "y:", "x=1"), made("c", "x:1", "y:3")],
}


@pytest.mark.parametrize("anomaly", PLANTED, ids=lambda each: each.name)
def test_a_planted_anomaly_is_told_by_its_name(anomaly):
    """One of each, and nothing else beside it; no serial order explains it, as brute force agrees."""
    found = judge(PLANTED[anomaly])
    if anomaly is Anomaly.G1B:  # who read too early also missed what came next
        assert {each.anomaly for each in found} == {Anomaly.G1B, Anomaly.G_SINGLE}
    else:
        assert [each.anomaly for each in found] == [anomaly]
    assert found[0].transactions
    assert str(found[0]).startswith(anomaly.value)
    assert not explained(PLANTED[anomaly])


@pytest.mark.parametrize(
    ("anomaly", "history"),
    [
        (Anomaly.G0_REAL_TIME, [made("b", "x=2", ended=1.0), made("a", "x=1", began=2.0), made("c", "x:12")]),
        (Anomaly.G1C_REAL_TIME, [made("b", "x:1", ended=1.0), made("a", "x=1", began=2.0)]),
        (Anomaly.G_SINGLE_REAL_TIME, [made("a", "x=1", ended=1.0), made("b", "x:", began=2.0)]),
        (
            Anomaly.G2_ITEM_REAL_TIME,
            [
                made("a", "x:", began=10.0), made("b", "x=1", "y:"),
                made("c", "y=3", ended=5.0), made("d", "x:1", "y:3", began=101.0, ended=102.0),
            ],
        ),
    ],
    ids=lambda each: each.name if isinstance(each, Anomaly) else "",
)  # fmt: skip
def test_what_only_real_time_forbids_is_told_only_when_asked(anomaly, history):
    """A stale read is serializable, and not strictly so."""
    assert anomalies(*history) == []
    assert anomalies(*history, strict=True) == [anomaly]
    assert not explained(history, strict=True)


def test_a_lost_write_is_told_under_real_time():
    """An append that was acknowledged before a read began is missing in it."""
    assert anomalies(made("a", "x=1", ended=1.0), made("b", "x:", began=2.0), strict=True) == [
        Anomaly.G_SINGLE_REAL_TIME
    ]
    assert anomalies(made("a", "x=1", ended=3.0), made("b", "x:", began=2.0), strict=True) == []


@pytest.mark.parametrize("outcome", [OK, UNKNOWN])
def test_an_unknown_outcome_counts_once_it_was_seen(outcome):
    """Seen, it must fit as one that committed; the same history without anybody who saw it is clean."""
    skewed = [made("a", "x=1", "y=3", outcome=outcome), made("b", "x:1", "y:")]
    assert anomalies(*skewed) == [Anomaly.G_SINGLE]
    assert anomalies(made("a", "x=1", "y=3", outcome=UNKNOWN), made("b", "x:", "y:"), strict=True) == []


def test_an_unknown_outcome_may_take_effect_late():
    """Nobody knows when it ended, so a reader that began later may miss it."""
    unknown = made("a", "x=1", outcome=UNKNOWN, ended=1.0)
    history = [unknown, made("b", "x:", began=5.0, ended=6.0), made("c", "x:1", began=7.0)]
    assert anomalies(*history, strict=True) == []
    assert anomalies(*history, made("d", "x:", began=200.0, ended=201.0), strict=True) == [Anomaly.G_SINGLE_REAL_TIME]


def test_what_an_unknown_transaction_saw_is_judged_too():
    """Through one unknown transaction another is seen."""
    history = [
        made("a", "x=1", "z=7", outcome=UNKNOWN),
        made("b", "x:1", "y=3", outcome=UNKNOWN),
        made("c", "y:3", "z:"),
    ]
    assert anomalies(*history) == [Anomaly.G_SINGLE]


def test_a_transaction_sees_its_own_appends():
    """They stand at the end of what it reads, and only once they were made."""
    assert anomalies(made("a", "x=1", "x:1", "x=2", "x:12"), made("b", "x:12")) == []
    assert anomalies(made("a", "x=1", "x:")) == [Anomaly.INTERNAL]
    assert Anomaly.INTERNAL in anomalies(made("a", "x:1", "x=1"))


def test_a_failed_transaction_is_not_judged():
    """What it read may be anything: it was undone."""
    assert anomalies(made("a", "x=1"), made("b", "x:1", "y:", outcome=FAILED), made("c", "y:")) == []


def test_a_history_that_was_recorded_wrongly_is_refused():
    """Each id and each value is there once, else nothing can be told from it."""
    with pytest.raises(ValueError, match="twice"):
        judge([made("a", "x=1"), made("b", "x=1")])
    with pytest.raises(ValueError, match="twice"):
        judge([made("a"), made("a")])
    with pytest.raises(ValueError, match="before it began"):
        judge([made("a", began=2.0, ended=1.0)])


@settled
@given(seeds)
def test_a_serial_execution_is_clean(seed):
    """Whatever fails, and whatever nobody knows of."""
    assert judge(serial(random.Random(seed), 40, 4), strict=True) == []


@settled
@given(seeds)
def test_two_phase_locking_is_clean(seed):
    """However its steps are interleaved, deadlocks and aborts included."""
    history = Locking(random.Random(seed)).run(40, 4)
    assert len(history) == 40
    assert judge(history, strict=True) == []


@settled
@given(seeds)
def test_whatever_is_reported_no_order_explains(seed):
    """On small histories of broken stores the judge raises no false alarm, and misses nothing that final reads pin down."""
    chosen = random.Random(seed)
    broken = Locking(chosen, locks=False, undoes=chosen.random() < 0.5)
    history = broken.run(5, 2)
    final = Transaction("final", began=1000.0)
    for key in range(2):
        final.read(key, broken._lists[key])
    final.end(OK, 1001.0)
    for strict in (False, True):
        assert bool(judge([*history, final], strict=strict)) != explained([*history, final], strict=strict)


@pytest.mark.parametrize(
    ("broken", "shows"),
    [
        ({"locks": False}, {Anomaly.G0, Anomaly.G1C, Anomaly.G1B, Anomaly.INTERNAL}),
        ({"early": True}, {Anomaly.G0, Anomaly.G1C, Anomaly.INTERNAL}),
        ({"undoes": False}, {Anomaly.G1A}),
    ],
    ids=["no-locks", "locks-released-before-the-commit", "aborts-not-undone"],
)
def test_a_broken_store_is_found_out(broken, shows):
    """Over some seeds its histories show the anomalies that its rule prevents."""
    seen = Counter(
        finding.anomaly
        for seed in range(30)
        for finding in judge(Locking(random.Random(seed), **broken).run(60, 4), strict=True)
    )
    assert shows <= set(seen)


def test_snapshot_isolation_shows_write_skew_and_no_more():
    """Readers that are not validated give G2, never a dirty or lost write."""
    seen = {each.anomaly for seed in range(50) for each in judge(snapshots(random.Random(seed), 40, 3))}
    assert Anomaly.G2_ITEM in seen
    assert seen <= {Anomaly.G2_ITEM}


def test_long_histories_take_seconds():
    """Thousands of transactions are judged in the time that a test has."""
    history = Locking(random.Random(1)).run(4000, 400)
    began = time.perf_counter()
    assert judge(history, strict=True) == []
    assert time.perf_counter() - began < 10.0
