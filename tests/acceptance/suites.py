"""What is run together, reported together, and where the report goes.

Owns the lists of tests. Leaves running to ``__main__`` and the form of the report to ``report``.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Suite:
    """Tests that belong to one table.

    Args:
        name: on the command line. title: of the report. report: its file under ``docs/reports``.
        tests: files and folders. rows: of the table, in order; others come after these.
    """

    name: str
    title: str
    report: str
    tests: tuple[str, ...]
    rows: tuple[str, ...]

    def rank(self, row: str) -> tuple[int, str]:
        """Return what sorts ``row`` into its place."""
        return (self.rows.index(row) if row in self.rows else len(self.rows), row)


RUNTIME = Suite(
    "runtime",
    "Acceptance under faults and bad input",
    "acceptance.md",
    ("tests/acceptance",),
    (
        "server loss",
        "faults inside a server",
        "poison",
        "etcd loss",
        "loss of a slot's leader",
        "migration",
        "bad input",
        "delete everything",
        "programming model",
    ),
)
MANAGERS = Suite(
    "managers",
    "Deployment managers under faults",
    "managers.md",
    (
        "tests/dm",
        "tests/checkpoint",
        "tests/node/test_live_change.py",
        "tests/node/test_releases.py",
        "tests/node/test_locks.py",
        "tests/node/test_timers_and_events.py",
        "tests/node/test_devices.py",
    ),
    (
        "ConsensusRSM: primary lost",
        "ConsensusRSM: company lost",
        "ConsensusRSM",
        "ConsensusRSMP2P: device lost",
        "LoadBalancedMasterSlave",
        "checkpoints",
        "DurableSerializableRPC",
        "LockingTransactions",
        "OptimisticTransactions",
        "DurableTransactions",
        "TwoPhaseCommit",
        "DHT",
        "change of managers",
        "timers",
        "locks",
        "events",
        "releases",
    ),
)
OPERATIONS = Suite(
    "operations",
    "Operations",
    "operations.md",
    (
        "tests/node/test_rolling_restart.py",
        "tests/dashboard/test_failover_at_scale.py",
        "tests/node/test_rebuild_real.py",
    ),
    (
        "rolling restart of all servers under load",
        "dashboard with a failover under way",
        "total loss of etcd",
    ),
)
SUITES = {suite.name: suite for suite in (RUNTIME, MANAGERS, OPERATIONS)}
