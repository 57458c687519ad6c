"""Registers and counters on simulated clusters: what they record is judged, and planted bugs in the managers are seen."""

from __future__ import annotations

import msgspec
import pytest

from amino.dm import AtLeastOnceRPC, ConsensusRSM, DurableSerializableRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import Invalid
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.record import FaultRecord, RunRecord
from amino.testing.chaos.workloads.counter import Counter
from amino.testing.chaos.workloads.promises import promise_of
from amino.testing.chaos.workloads.registry import KINDS, make, workload
from tests.testing.chaos.workloads.world import recorded

CHECKPOINTED = [AtLeastOnceRPC(), SerializableRPC(), PeriodicCheckpoint(every=1)]


@pytest.mark.parametrize("kind", ["register", "counter"])
@pytest.mark.parametrize("dms", [CHECKPOINTED, [ConsensusRSM()]], ids=["checkpointed", "replicated"])
def test_managers_keep_their_promises(kind, dms, tmp_path):
    """Servers crash under five workers, and every judge is content; so it is with the record read from its file."""
    record = recorded(kind, dms)
    verdicts = make(record.workloads[0]).judge(record)
    assert [verdict.judge for verdict in verdicts if verdict.ok] == {
        "register": ["linearizability"],
        "counter": ["exactly-once", "linearizability"],
    }[kind], verdicts
    assert len([one for one in record.operations if one.outcome == "ok"]) > 500
    record.save(tmp_path / "run.json")
    again = RunRecord.load(tmp_path / "run.json")
    assert make(again.workloads[0]).judge(again) == verdicts


def test_a_checkpoint_every_ten_calls_loses_no_more_than_nine():
    """Chains that may lose something are judged by how much, not by linearizability."""
    record = recorded("counter", [AtLeastOnceRPC(), PeriodicCheckpoint(every=10), SerializableRPC()])
    (verdict,) = make(record.workloads[0]).judge(record)
    assert verdict.ok, verdict
    record.faults.clear()  # had nothing been broken, nothing might be lost
    (verdict,) = make(record.workloads[0]).judge(record)
    assert verdict.ok == (not verdict.figures["lost"])


def test_judges_of_a_recorded_run_catch_what_was_changed_in_it():
    """A count told twice, an acknowledged addition that is gone, one that was refused and is there, one made twice."""
    good = recorded("counter", CHECKPOINTED, seconds=15, crashes=0)
    judge = make(good.workloads[0]).judge
    assert all(verdict.ok for verdict in judge(good))

    def changed(change):
        record = msgspec.convert(msgspec.to_builtins(good), RunRecord)
        adds = [one for one in record.operations if one.function == "add" and one.outcome == "ok"]
        change(adds, next(one for one in record.operations if one.function == "close"))
        return [verdict for verdict in judge(record) if not verdict.ok]

    def lose(adds, close):
        adds[0].argument = "never heard of"

    def refuse(adds, close):
        adds[0].outcome = "failed"

    def double(adds, close):
        close.value.append(close.value[0])

    def mix(adds, close):
        adds[5].value = adds[4].value if adds[5].key == adds[4].key else 0

    assert "nobody asked" in changed(lose)[0].text
    assert "told that it was not" in changed(refuse)[0].text
    assert "twice" in changed(double)[0].text
    assert changed(mix)[0].judge == "linearizability"


def test_what_could_not_be_read_is_no_pass():
    """Without the logs of the counters nothing is proved."""
    record = recorded("counter", CHECKPOINTED, seconds=5, crashes=0)
    record.operations = [one for one in record.operations if one.function != "close"]
    (verdict,) = make(record.workloads[0]).judge(record)
    assert verdict.text.startswith("could not judge")


def test_old_keys_are_dropped():
    """Every twenty seconds other keys are used, and the old ones closed, read and forgotten."""
    record = recorded("counter", CHECKPOINTED, seconds=65, workers=2, crashes=0)
    closed = {one.key for one in record.operations if one.function == "close"}
    assert {key.partition(".")[0] for key in closed} == {"g0", "g1", "g2", "g3"}
    assert [one for one in record.operations if one.function == "forget" and one.key == "g0.0"]


def test_promises_follow_from_options():
    """What is judged is what the managers say: their order matters where reads could see what is not kept yet."""
    assert promise_of(CHECKPOINTED).reads
    inside = promise_of([PeriodicCheckpoint(every=1), SerializableRPC()])
    assert inside.changes
    assert not inside.reads
    assert promise_of([DurableSerializableRPC()]).reads
    assert promise_of([PeriodicCheckpoint(every=10)]).lost_max == 9
    assert promise_of([]).lost_max is None


def test_a_damaged_checkpoint_takes_what_it_held():
    """Each loss may take what is in no checkpoint; where the newest one is damaged, also what only that held."""
    record = RunRecord("planted")
    record.faults = [
        FaultRecord("kill-server", verified=True),
        FaultRecord("kill-kernel+corrupt-snapshot", verified=True),
        FaultRecord("corrupt-snapshot", verified=False),
    ]
    allowed = [
        Counter(Recorder(), dms).allowed_losses(record)
        for dms in ([PeriodicCheckpoint(every=10)], [DurableSerializableRPC()], [])
    ]
    assert allowed == [9 + 9 + 10, 0, None]


def test_unknown_kinds_are_refused():
    """The error names the kinds there are."""
    with pytest.raises(Invalid, match=next(iter(KINDS))):
        workload("rigester", Recorder())
