"""Records of runs, made up for the report's tests."""

from __future__ import annotations

from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.testing.chaos.history import Operation
from amino.testing.chaos.record import FaultRecord, RunRecord, Sample, Verdict, WorkloadRecord


def record(*, good: bool = True) -> RunRecord:
    """Return a run of thirty seconds with two faults, two workloads, and a stale read if it is not good."""
    run = RunRecord("auto-restart", "processes", 7, 30.0, command="python -m chaos run auto-restart --seed 7 <&>")
    dms = [AtLeastOnceRPC().to_spec(), PeriodicCheckpoint(every=1).to_spec()]
    run.workloads = [WorkloadRecord("register", "register", dms), WorkloadRecord("counter", "counter", dms)]
    for number in range(600):
        began = number * 0.05
        silent = 10 < began < 12
        outcome = "ok" if not silent else ("failed", "unknown")[number % 2]
        name = ("register", "counter")[number % 2]
        one = Operation(number % 5, number, "read", name, "k", None, outcome, number, "", began, began + 0.01)
        run.operations.append(one)
    run.operations.append(Operation(1, 600, "write", "register", "k", "never answered", began_s=29.9))
    run.faults = [
        FaultRecord("kill-kernel", "s1", 10.0, 10.2, True, "SIGKILL to the kernel process <of> s1"),
        FaultRecord("cut-etcd", "s2", 20.0),
    ]
    run.samples = [
        Sample(float(at), {"etcd keys": 100.0 + at, "s1 memory bytes": 6e7, "s2 memory bytes": 7e7}) for at in range(30)
    ]
    figures = {"unavailable_s_p50": 2.0, "unavailable_s_worst": 2.0}
    figures |= {"kill-kernel: unavailable_s_p50": 2.0, "kill-kernel: unavailable_s_worst": 2.0}
    run.verdicts = [Verdict("liveness", True, "unavailable for 2 s", "register", figures)]
    if not good:
        smallest = [
            Operation(0, 0, "write", "register", "k", "a<b", "ok", None, "", 1.0, 1.1),
            Operation(1, 1, "write", "register", "k", "c", "unknown", None, "", 1.2),
            Operation(2, 2, "read", "register", "k", None, "ok", "a<b", "", 10.5, 10.7),
        ]
        run.verdicts.append(Verdict("linearizability", False, "no order explains 'a<b'", "register", smallest=smallest))
    return run
