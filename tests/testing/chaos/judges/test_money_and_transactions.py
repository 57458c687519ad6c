"""The judges of money and of transactions."""

from __future__ import annotations

from amino.testing.chaos.judges.balance import conserved
from amino.testing.chaos.judges.transactions import serializable
from tests.testing.chaos.histories import did


def look(index, *balances, outcome="ok"):
    """A look at all accounts."""
    return did(index, "balances", None, list(balances), at=(index, index + 1), outcome=outcome)


def test_money_is_conserved():
    """Every look finds the same sum, and no account below zero; looks that failed do not count."""
    assert conserved([look(0, 50, 50), look(1, 20, 80), look(2, outcome="failed")], 100).ok
    assert "hold 90" in conserved([look(0, 50, 50), look(1, 10, 80)], 100).text
    assert "holds -5" in conserved([look(0, -5, 105)], 100).text
    assert conserved([look(0, outcome="unknown")], 100).text.startswith("could not judge")


def transaction(index, *steps, at, outcome="ok"):
    """A transaction: reads have what they read at their end."""
    asked = [list(step[:2]) if step[0] == "read" else list(step) for step in steps]
    return did(
        index, "transaction", asked, [list(step) for step in steps] if outcome == "ok" else None, at=at, outcome=outcome
    )


def test_serial_transactions_pass():
    """What one after the other saw is fine; an unknown one counts if somebody saw it."""
    history = [
        transaction(0, ("append", "x", "a"), ("read", "y", []), at=(0, 1)),
        transaction(1, ("append", "x", "b"), at=(2, 3), outcome="unknown"),
        transaction(2, ("read", "x", ["a", "b"]), ("append", "y", "c"), at=(4, 5)),
        transaction(3, ("append", "y", "d"), at=(6, 7), outcome="failed"),
    ]
    verdict = serializable(history)
    assert verdict.ok, verdict
    assert verdict.figures["committed"] == 2


def test_anomalies_are_told_by_their_names():
    """Write skew, a lost update, an aborted read, and an order against real time."""
    skew = [
        transaction(0, ("read", "x", []), ("append", "y", "a"), at=(0, 9)),
        transaction(1, ("read", "y", []), ("append", "x", "b"), at=(0, 9)),
        transaction(2, ("read", "x", ["b"]), ("read", "y", ["a"]), at=(10, 11)),
    ]
    verdict = serializable(skew)
    assert "G2-item write skew" in verdict.text
    assert {one.index for one in verdict.smallest} == {0, 1}
    aborted = [
        transaction(0, ("append", "x", "a"), at=(0, 1), outcome="failed"),
        transaction(1, ("read", "x", ["a"]), at=(2, 3)),
    ]
    assert "G1a aborted read" in serializable(aborted).text
    late = [transaction(0, ("append", "x", "a"), at=(0, 1)), transaction(1, ("read", "x", []), at=(2, 3))]
    assert not serializable([*late, transaction(2, ("read", "x", ["a"]), at=(4, 5))]).ok
    assert serializable([*late, transaction(2, ("read", "x", ["a"]), at=(4, 5))], strict=False).ok


def test_what_cannot_be_judged_is_no_pass():
    """Nothing committed, and a value appended twice."""
    one = transaction(0, ("append", "x", "a"), at=(0, 1))
    assert serializable([transaction(0, ("append", "x", "a"), at=(0, 1), outcome="failed")]).text.startswith(
        "could not"
    )
    assert serializable([one, transaction(1, ("append", "x", "a"), at=(0, 1))]).text.startswith("could not judge")
