"""Recording histories, and the files of histories and runs."""

from __future__ import annotations

import asyncio
import math

import pytest

from amino.errors import Invalid, NotExecuted, OutcomeUnknown, TransactionAborted
from amino.testing.chaos.history import History, Operation, Recorder, outcome_of
from amino.testing.chaos.record import FaultRecord, KeyEvent, RunRecord, Sample, Verdict


def ticking():
    """A clock that moves by a second at each look."""
    now = iter(range(1000))
    return lambda: float(next(now))


async def answer(value):
    """Answer, or raise."""
    if isinstance(value, BaseException):
        raise value
    return value


def test_operations_have_their_times_and_outcomes():
    """Answers are ok, what certainly did not run is failed, the rest unknown; times are of the recorder's clock."""
    recorder = Recorder(ticking())

    async def work():
        for value in (7, NotExecuted("moved"), OutcomeUnknown("lost")):
            await recorder.call(0, "add", "k", 1, answer(value), workload="counter")
        with pytest.raises(ValueError, match="bug"):
            await recorder.call(1, "add", "k", 1, answer(ValueError("bug")))

    asyncio.run(work())
    assert [one.outcome for one in recorder.operations] == ["ok", "failed", "unknown", "unknown"]
    assert [(one.began_s, one.ended_s) for one in recorder.operations[:2]] == [(1.0, 2.0), (3.0, 4.0)]
    assert recorder.operations[0].value == 7
    assert recorder.operations[1].error == "NotExecuted: moved"
    assert len(recorder.history.of(workload="counter", outcome="ok")) == 1


def test_an_operation_without_answer_never_ended():
    """What was begun and not ended is unknown, for ever."""
    recorder = Recorder()
    operation = recorder.begin(0, "get")
    assert operation.outcome == "unknown"
    assert operation.ended_s == math.inf


def test_errors_tell_what_happened():
    """Only errors that promise that nothing was done count as failed."""
    assert outcome_of(TransactionAborted("conflict")) == "failed"
    assert outcome_of(KeyError("x")) == "unknown"


def test_histories_are_kept_in_files(tmp_path):
    """What is loaded equals what was saved, operations without an end included."""
    history = History(
        [
            Operation(0, 0, "put", "w", "k", [1, "x"], "ok", None, "", 0.5, 0.75),
            Operation(1, 1, "get", key="k", began_s=1.0, ended_s=float("inf")),
        ]
    )
    history.save(tmp_path / "history.jsonl")
    assert History.load(tmp_path / "history.jsonl").operations == history.operations


@pytest.mark.parametrize("content", [b"", b"[1]\n", b'{"history": 99}\n', b'{"history": 1}\n{"worker": "x"}\n'])
def test_other_files_are_refused(tmp_path, content):
    """A file that is no history, or of another format, is refused by its name."""
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(Invalid, match="other"):
        History.load(tmp_path / "other")


def test_records_are_kept_in_files(tmp_path):
    """A record comes back as it was, with faults that were not healed and bytes of etcd."""
    record = RunRecord("auto-restart", "processes", 7, 20.0)
    record.operations.append(Operation(0, 0, "get"))
    record.faults.append(FaultRecord("kill-server", "s1", 3.0))
    record.events.append(KeyEvent("servers/s1", "put", 5, 5, 0.1, b"\x00\xff"))
    record.samples.append(Sample(1.0, {"etcd bytes": 20480.0}))
    assert not record.ok
    record.add([Verdict("exactly-once", True, "12 writes", figures={"writes": 12}, smallest=[Operation(0, 0, "get")])])
    assert record.ok
    record.save(tmp_path / "run.json")
    assert RunRecord.load(tmp_path / "run.json") == record


@pytest.mark.parametrize("content", [b"no", b'{"scenario": "x", "format": 99}'])
def test_other_files_are_no_records(tmp_path, content):
    """A file that is no record is refused by its name."""
    (tmp_path / "other").write_bytes(content)
    with pytest.raises(Invalid, match="other"):
        RunRecord.load(tmp_path / "other")
