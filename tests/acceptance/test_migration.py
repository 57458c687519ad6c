"""An object of 1 MiB migrates to and fro under 8 callers: no call fails, is lost or runs twice."""

from __future__ import annotations

import pytest

import amino
from amino.dm import ExplicitMigration, SerializableRPC
from amino.testing import LocalCluster
from bench.callers import Callers
from tests.acceptance.audit import Audit
from tests.acceptance.figures import Figures, rounds
from tests.acceptance.services import Big
from tests.acceptance.test_server_loss import host_of

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
ROW = "migration"
CALLERS = 8


def test_a_big_object_migrates_under_load(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures
) -> None:
    """No manager repeats calls here, so each answer is one execution: together they are 1, 2, 3, ..."""
    big = client.new(amino.spec(Big, name="big", dms=[ExplicitMigration(), SerializableRPC()]))
    handle = amino.control(big, ExplicitMigration)
    with Callers([big.add] * CALLERS) as callers:
        for number in range(rounds()):
            home = host_of(client, "big")
            others = [name for name in local.servers if name != home]
            handle.migrate_to(others[number % len(others)])
            assert host_of(client, "big") == others[number % len(others)]
            moved = len(callers.seen)
            assert callers.first_good_after(callers.seen[-1].ended, 10.0) is not None
            assert len(callers.seen) >= moved
    failed = [each.error for each in callers.seen if each.error]
    assert failed == []
    answers = sorted(each.result for each in callers.seen)
    assert answers == list(range(1, len(answers) + 1)), "a call was lost, or ran twice"
    assert big.add() == len(answers) + 1
    audit.await_consistent()
    figures.note("1 MiB under 8 callers: failed, lost or doubled calls", 0, "calls", at_most=0,
                 note=f"{rounds()} migrations, {len(answers)} calls; the stall is in bench/migrate.py")  # fmt: skip
