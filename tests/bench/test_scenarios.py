"""Benchmarks of scenarios: what callers note, and how it is judged."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest

from bench import failover, migrate, scale, timers
from bench.callers import Called, Callers
from bench.create import rate


def called(result=None, *, began=0.0, ended=0.0, error=""):
    return Called(began, ended, result, error)


def by_name(rows):
    return {row.name: row for row in rows}


def test_failover_without_loss_is_ok():
    """Values that only ever grow by one, and a counter that kept them, lose and double nothing."""
    seen = [called(value) for value in (2, 3, 4)]
    rows = by_name(failover.judge([0.1, 0.2, 0.3], seen, kept=4))
    assert all(row.ok for row in rows.values())
    assert rows["failover.first_good_call.p50"].value == 0.2
    assert rows["failover.first_good_call.worst"].value == 0.3


@pytest.mark.parametrize(
    ("values", "kept", "lost"),
    [((2, 3, 3, 4), 4, 1), ((2, 3, 2, 3), 3, 2), ((2, 3, 4), 2, 2), ((1,), 1, 1), ((2, 4, 5), 5, 0)],
)
def test_failover_counts_what_was_acknowledged_and_is_gone(values, kept, lost):
    """A counter that goes back has lost acknowledged additions; one that jumps ahead has not."""
    rows = by_name(failover.judge([0.1], [called(value) for value in values], kept))
    assert rows["failover.acknowledged_lost"].value == lost
    assert rows["failover.acknowledged_lost"].ok == (lost == 0)


def test_failover_counts_what_ran_twice():
    """More additions than calls means that a call ran twice; a failed call may have run once."""
    seen = [called(2), called(error="OutcomeUnknown: x"), called(4)]
    assert by_name(failover.judge([0.1], seen, kept=4))["failover.executed_twice"].ok
    assert by_name(failover.judge([0.1], seen, kept=5))["failover.executed_twice"].value == 1


def test_migration_is_judged_by_the_longest_call_of_each_move():
    """The stall of a move is the longest call that overlaps it; others do not count."""
    seen = [
        called(1, began=0.0, ended=0.5),
        called(2, began=0.9, ended=1.015),
        called(3, began=1.0, ended=1.010),
        called(4, began=2.0, ended=2.005),
    ]
    rows = by_name(migrate.judge([(1.0, 1.02), (2.0, 2.1)], seen, kept=5))
    assert rows["migrate.stall.worst"].value == pytest.approx(115.0)
    assert rows["migrate.stall.p50"].value == pytest.approx(5.0)
    assert all(row.ok for row in rows.values())


def test_migration_finds_lost_and_doubled_calls():
    """A result handed out twice is doubled; a counter below the calls has lost some."""
    doubled = by_name(migrate.judge([(0, 1)], [called(1), called(1), called(2)], kept=4))
    assert not doubled["migrate.doubled_calls"].ok
    lost = by_name(migrate.judge([(0, 1)], [called(1), called(2), called(3)], kept=3))
    assert not lost["migrate.lost_calls"].ok
    failed = by_name(migrate.judge([(0, 1)], [called(1), called(error="x")], kept=2))
    assert not failed["migrate.failed_calls"].ok


def test_callers_note_every_call():
    """Results and errors are noted in order; the first good call after a moment is found."""
    numbers = iter(range(1_000_000))
    lock = threading.Lock()

    def call():
        with lock:
            number = next(numbers)
        if number == 99:
            all_begun.set()
        if number == 3:
            raise OSError("gone")
        return number

    all_begun = threading.Event()
    with Callers([call, call], calls_max=50) as callers:
        moment = time.perf_counter()
        good = callers.first_good_after(moment, 10.0)
        assert all_begun.wait(10.0)
    assert good is None or good.began >= moment
    assert [each.error for each in callers.seen if each.error] == ["OSError: gone"]
    assert len(callers.seen) == 100
    assert callers.first_good_after(time.perf_counter(), 0.0) is None


def test_awaiting_callers_are_noted_beside_those_in_threads():
    """Each caller has its own list: threads first, then tasks, whose errors are noted too."""
    counts = [0, 0]
    begun = threading.Event()

    def call():
        counts[0] += 1
        return counts[0]

    async def awaited():
        counts[1] += 1
        if counts[1] == 2:
            raise OSError("gone")
        if counts[1] == 20:
            begun.set()
        return counts[1]

    with Callers([call], calls_max=20, awaited=[awaited]) as callers:
        assert begun.wait(10.0)
    assert [each.result for each in callers.of(0)][:3] == [1, 2, 3]
    assert [each.error for each in callers.of(1)][:3] == ["", "OSError: gone", ""]
    assert len(callers.of(1)) == 20


def test_rate_runs_each_once():
    """Concurrent operations are each done once."""
    done = []
    assert rate(done.append, [str(number) for number in range(100)]) > 0
    assert sorted(done, key=int) == [str(number) for number in range(100)]


def test_time_to_answer_asks_again():
    """A call that fails at first is asked again; one that never answers is reported as None."""
    tries = []

    def answers_at_second():
        tries.append(1)
        if len(tries) < 2:
            raise OSError("not yet")

    took = scale.time_to_answer([answers_at_second], time.perf_counter(), patience_s=10.0)
    assert took is not None
    assert len(tries) == 2

    def never():
        raise OSError("gone")

    assert scale.time_to_answer([never], time.perf_counter(), patience_s=0.1) is None


@pytest.mark.real
async def test_floor_of_etcd_is_measured_and_cleaned_up(etcd_one):
    """Raw transactions have a rate, and leave no key behind."""
    endpoint = etcd_one.endpoints[0]
    import grpc
    from aetcd import rpc

    from bench import etcd_floor

    per_s = await asyncio.to_thread(etcd_floor.transactions_per_s, endpoint, 0.3)
    assert per_s > 100
    assert await etcd_floor.leases(endpoint) == 0
    async with grpc.aio.insecure_channel(endpoint) as channel:
        answer = await rpc.KVStub(channel).Range(rpc.RangeRequest(key=b"\0", range_end=b"\0", count_only=True))
    assert answer.count == 0


def test_timers_are_judged_apart_from_the_failover():
    """Late in the failover of their server is not late; each policy is checked; a timer that never fired strays."""
    on_time = [timers.Occurrence(number, 0, 0.01, 100.0 + number) for number in range(10)]
    late = [timers.Occurrence(number, 0, 0.7 if number == 5 else 0.01, 100.0 + number) for number in range(10)]
    killed_s = 104.5
    found = by_name(timers.judge({"a": {"fire-0": on_time}}, {"b": {"fire-0": late}}, {"b"}, killed_s))
    assert all(each.ok for each in found.values())
    assert found["timers.steady.error.p99"].value == pytest.approx(10.0)
    assert found["timers.server_killed.error.worst_of_failover"].value == pytest.approx(700.0)
    long_after = [each._replace(late_s=0.7 if each.number == 9 else 0.01) for each in on_time]
    found = by_name(timers.judge({"a": {"fire-0": on_time}}, {"b": {"fire-0": long_after}}, {"b"}, killed_s))
    assert not found["timers.server_killed.error.p99"].ok
    found = by_name(timers.judge({"a": {"fire-0": [], "skip-1": on_time[:1] * 2}}, {}, set(), killed_s))
    assert found["timers.against_their_policy"].value == 2


def test_policies_of_timers():
    """``fire`` leaves out nothing, ``coalesce`` accounts for what it merged, ``skip`` is never far behind."""
    kept = [timers.Occurrence(0, 0, 0.0, 1.0), timers.Occurrence(3, 2, 0.0, 4.0)]
    assert timers.as_its_policy_says("coalesce", kept)
    assert timers.as_its_policy_says("skip", kept)
    assert not timers.as_its_policy_says("fire", kept)
    assert not timers.as_its_policy_says("coalesce", [kept[0], kept[1]._replace(missed=1)])
    assert not timers.as_its_policy_says("skip", [kept[0], kept[1]._replace(late_s=2.0)])
    assert not timers.as_its_policy_says("skip", kept[::-1])
