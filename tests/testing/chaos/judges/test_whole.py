"""All judges of a run together."""

from __future__ import annotations

import pytest

from amino.dm import ConsensusRSM
from amino.testing.chaos.judges.whole import judge_run
from amino.testing.chaos.record import Sample
from amino.testing.chaos.workloads.registry import make
from tests.testing.chaos.workloads.world import recorded


@pytest.fixture(scope="module")
def record():
    """A simulated run with crashes."""
    return recorded("counter", [ConsensusRSM()], seconds=20)


def test_every_judge_speaks(record):
    """A good run has a good verdict of each judge, and judging it again gives the same."""
    workloads = [make(record.workloads[0])]
    verdicts = judge_run(record, workloads)
    assert [(one.judge, one.workload) for one in verdicts] == [
        ("exactly-once", "counter"),
        ("linearizability", "counter"),
        ("liveness", "counter"),
        ("sessions and epochs", ""),
    ]
    assert all(one.ok for one in verdicts), "\n".join(map(str, verdicts))
    assert judge_run(record, workloads) == verdicts


def test_a_long_run_is_judged_for_leaks(record):
    """Growth says something only once everything is warm."""
    record.duration_s, before = 600.0, record.duration_s
    record.samples = [Sample(float(number), {"etcd keys": 100.0 + 9 * number}) for number in range(60)]
    assert not judge_run(record, [])[-1].ok
    record.duration_s, record.samples = before, []


def test_a_judge_that_breaks_is_a_bad_verdict(record):
    """Its error is told, and the others judge."""

    class Broken:
        name = "broken"

        def judge(self, record):
            raise KeyError("no such thing")

    verdicts = judge_run(record, [Broken()])
    assert "KeyError" in verdicts[0].text
    assert not verdicts[0].ok
    assert verdicts[-1].ok
