"""The matrix: its rows and columns, what is run again, what a run says about a cell, and the page."""

from __future__ import annotations

from pathlib import Path

import pytest

from amino.dm.base import Trait
from amino.dm.registry import builtin, check_chain
from amino.dm.replication import ConsensusRSM
from amino.errors import Invalid
from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.faults import Shape
from amino.testing.chaos.faults.catalogue import FAULTS
from amino.testing.chaos.judges.liveness import liveness
from amino.testing.chaos.record import FaultRecord, RunRecord, Verdict
from amino.testing.chaos.workloads.registry import KINDS
from chaos import claims as claims_module
from chaos import guarantees, matrix
from chaos.bounds import BOUNDS, NONE, Bound, bound_of
from chaos.claims import claims, scenario_of
from chaos.matrix import Batch, Cell, Results, batches, cells_of, command_of
from chaos.scenarios import named, with_faults
from tests.testing.chaos.histories import did

SHAPE = Shape(("s1", "s2"), 3, frozenset({Ability.SIGNALS, Ability.MEMBERS}), 2.0)
SHAPES = {"processes": SHAPE}
CHAIN = claims()[0]["DHT"].text
CELL = Cell(
    "DHT",
    "kill-kernel",
    "processes",
    "held",
    chain=CHAIN,
    faults=3,
    p50_s=0.2,
    worst_s=0.5,
    commit="abc",
    judges=["set"],
    day="2026-01-01",
)


def test_every_manager_has_a_claim_or_a_reason():
    """The rows are those of the registry; each chain is accepted, names its manager, and has a workload."""
    found, without = claims()
    assert found.keys() | without.keys() == builtin().keys()
    assert not found.keys() & without.keys()
    for claim in found.values():
        check_chain(claim.chain)
        assert claim.manager in {type(one).__name__ for one in claim.chain}
        assert claim.workload in KINDS


def test_a_manager_without_a_row_gets_its_claim_from_its_declarations(monkeypatch):
    """One that is added later is a row by itself: alone if it keeps what it acknowledges, else over one that does."""
    monkeypatch.setattr(claims_module, "_TABLE", ())
    found, _ = claims()
    assert [type(one) for one in found["ConsensusRSM"].chain][1:] == [ConsensusRSM]
    assert found["OptimisticTransactions"].workload == "list-append"
    assert any(Trait.CHECKPOINTS in one.provides for one in found["SerializableRPC"].chain)


def test_faults_apply_where_they_say_something():
    """Damage in the store is for those that keep something there, and promise to survive it; loss of devices for who is on them."""
    found, _ = claims()
    assert found["ConsensusRSM"].beyond("full-disk")
    assert found["SerializableRPC"].beyond("corrupt-checkpoint")
    assert found["SerializableRPC"].beyond("corrupt-snapshot")
    assert not found["PeriodicCheckpoint"].beyond("corrupt-snapshot")
    assert not found["DurableSerializableRPC"].beyond("corrupt-checkpoint")
    assert not any(one.beyond("kill-kernel") for one in found.values())
    assert [name for name, one in found.items() if not one.beyond("kill-device")] == ["ConsensusRSMP2P"]


def test_a_cluster_has_devices_for_managers_that_put_something_there():
    """Others run without; the whole matrix knows that clusters may have some."""
    assert scenario_of(["DHT", "ConsensusRSMP2P"]).devices > 2
    assert not scenario_of(["DHT"]).devices


def test_a_scenario_of_managers_has_a_name():
    """Its workloads have different names; an unknown manager is told."""
    scenario = named("managers:DHT,ConsensusRSM")
    assert list(scenario.chains) == ["set@dht", "register@consensusrsm"]
    assert scenario.faults.keys() == FAULTS.keys()
    with pytest.raises(Invalid, match="no manager 'Nobody' has a claim"):
        scenario_of(["Nobody"])


def test_a_cluster_has_only_what_its_faults_need():
    """A disk, a quota, another release or clocks of its own are there for faults that need them."""
    whole = scenario_of(["DHT"])
    assert all((whole.disk_mib, whole.etcd_quota_mib, whole.release, whole.clocks))
    plain = with_faults(whole, ["kill-kernel", "kill-kernel:primary"])
    assert not any((plain.disk_mib, plain.etcd_quota_mib, plain.release, plain.clocks))
    assert with_faults(whole, ["kill-server+full-disk"]).disk_mib == whole.disk_mib
    assert with_faults(whole, ["etcd-full"]).etcd_quota_mib == whole.etcd_quota_mib
    assert with_faults(whole, ["rolling-upgrade"]).release
    assert list(with_faults(whole, ["compact"]).faults) == ["compact"]


def test_cells_with_a_verdict_are_not_run_again():
    """All that is missing is run, some managers at a time; what was not judged is run again."""
    every, count = batches(SHAPES, Results(), together=4)
    assert count == sum(len(one.managers) for one in every)
    assert max(len(one.managers) for one in every) == 4
    assert {one.fault for one in every} >= {"kill-kernel", "kill-member"}
    assert not any(one.fault == "cut-etcd" for one in every)  # such a cluster lets no way be cut
    results = Results({CELL.key: CELL})
    left, again = batches(SHAPES, results, only=["DHT/kill-kernel", "DHT/kill-member"])
    assert (left, again) == ([Batch("processes", "kill-member", ("DHT",))], 2)
    results.cells[CELL.key] = Cell("DHT", "kill-kernel", "processes", "not judged", chain=CHAIN)
    assert len(batches(SHAPES, results, only=["DHT/kill-kernel"])[0]) == 1


def test_a_cell_of_another_chain_is_run_again():
    """What was seen of other managers, or other options, says nothing about the present claim, and is not on the page."""
    results = Results({CELL.key: Cell("DHT", "kill-kernel", "processes", "held", chain="DHT", commit="abc")})
    assert len(batches(SHAPES, results, only=["DHT/kill-kernel"])[0]) == 1
    assert "Nothing of" in guarantees.page(results, SHAPES)


def test_cells_with_a_verdict_are_run_again_when_asked_for():
    """A late cell counts as done, until one asks for all that were late."""
    late = Cell("DHT", "kill-kernel", "processes", "late", chain=CHAIN)
    results = Results({late.key: late})
    assert batches(SHAPES, results, only=[late.key])[0] == []
    assert batches(SHAPES, results, only=[late.key], again=["late"])[0] == [Batch("processes", "kill-kernel", ("DHT",))]


def test_a_batch_is_a_command():
    """The fault happens to what has most primaries, and to any other."""
    command = command_of(Batch("processes", "kill-kernel", ("DHT", "ConsensusRSM")), SHAPE, 3, 20.0)
    assert command[:2] == ["run", "managers:DHT,ConsensusRSM"]
    assert command[-4:] == ["--fault", "kill-kernel", "--fault", "kill-kernel:primary"]
    command = command_of(Batch("processes", "compact", ("DHT",)), SHAPE, 3, 20.0)
    assert command[-2:] == ["--fault", "compact"]


def run_of(*verdicts):
    """Return a record with three faults and these verdicts beside a good liveness of 0.2 s."""
    record = RunRecord("managers:DHT", "processes", 1, 20.0)
    record.faults = [FaultRecord("kill-kernel", "s1", at, at + 1.0, verified=True) for at in (1.0, 2.0, 3.0)]
    figures = {"unavailable_s_p50": 0.2, "unavailable_s_worst": 0.5, "kill-kernel: after_heal_s_worst": 0.1}
    record.add(
        [Verdict("liveness", True, "", "set@dht", figures=figures), Verdict("set", True, "", "set@dht"), *verdicts]
    )
    return record


def cell_of(*verdicts, fault="kill-kernel"):
    """Return the cell of DHT in such a run."""
    (cell,) = cells_of(Batch("processes", fault, ("DHT",)), run_of(*verdicts), 2.0, "abc", "command")
    return cell


def test_what_a_run_says_about_a_cell():
    """Held if all judges of its own and of the whole found it good; a run that broke down says nothing, a violation always does."""
    cell = cell_of()
    assert (cell.verdict, cell.faults, cell.p50_s, cell.worst_s, cell.healed_s) == ("held", 3, 0.2, 0.5, 0.1)
    assert (cell.chain, cell.command) == (CHAIN, "")
    assert cell_of(Verdict("set", False, "lost", "set@other")).verdict == "held"
    bad = cell_of(Verdict("sessions and epochs", False, "went back"), Verdict("run", False, "broke down"))
    assert (bad.verdict, bad.text, bad.command) == ("violated", "sessions and epochs: went back", "command")
    assert cell_of(Verdict("run", False, "broke down")).verdict == "not judged"
    assert cell_of(Verdict("set", False, "could not judge: no answer", "set@dht")).verdict == "not judged"
    assert cell_of(Verdict("faults", False, "1 of 4 did not happen")).verdict == "held"


def test_what_is_unavailable_for_too_long_is_late(monkeypatch):
    """Within its guarantee, but not within the bound."""
    monkeypatch.setitem(BOUNDS, "kill-kernel", Bound(p50_s=0.1))
    assert cell_of().verdict == "late"


def test_bounds_are_those_of_the_design():
    """TTL + 1 s for a machine, TTL after its return for a majority, a median for a kernel process; nothing where nothing is promised."""
    machine, majority, kernel = bound_of("kill-server"), bound_of("kill-majority"), bound_of("kill-kernel")
    assert (machine.worst_s(2.0), majority.worst_s(2.0), kernel.p50_s) == (3.0, 2.0, 0.3)
    assert machine.broken(2.0, 1.0, 3.1, 0.0)
    assert not machine.broken(2.0, 1.0, 2.9, 9.0)
    assert majority.broken(2.0, 9.0, 9.0, 2.1)
    assert not majority.broken(2.0, 9.0, 9.0, 1.9)
    assert kernel.broken(2.0, 0.31, 0.4, 0.0)
    assert majority.told(2.0) == "2 s after it is undone"
    assert bound_of("slow-network") is NONE
    assert not NONE.broken(2.0, 99.0, 99.0, 99.0)
    assert not NONE.told(2.0)
    assert BOUNDS.keys() <= FAULTS.keys()


def test_liveness_says_how_long_nobody_was_answered_once_a_fault_was_undone():
    """Counted from when it was undone, beside the time from its beginning."""
    operations = [did(n, "read", at=(at, at + 0.1)) for n, at in enumerate((0.0, 5.0, 6.0, 7.0))]
    faults = [FaultRecord("kill-majority", "etcd", 1.0, 4.0, verified=True)]
    figures = liveness(operations, faults, patience_s=10.0).figures
    assert figures["kill-majority: unavailable_s_worst"] == pytest.approx(4.1)
    assert figures["kill-majority: after_heal_s_worst"] == pytest.approx(1.1)


def test_a_run_is_resumed(tmp_path: Path, monkeypatch):
    """Every run is kept in the file; a second command runs only what is missing."""
    asked = []

    def one(batch, _shape, _seed, seconds):
        asked.append(batch)
        return [
            Cell(name, batch.fault, batch.topology, "held", chain=CHAIN, seconds=seconds, commit="abc")
            for name in batch.managers
        ]

    monkeypatch.setattr(matrix, "_one", one)
    path = tmp_path / "results" / "matrix.json"
    matrix.run(SHAPES, path, only=["DHT/kill-kernel", "DHT/kill-member"], seconds=20.0)
    assert len(asked) == 2
    found = matrix.run(SHAPES, path, only=["DHT/"], seconds=20.0)
    assert len({(each.fault, each.managers) for each in asked}) == len(asked)
    assert Results.load(path) == found
    assert len(path.read_text().splitlines()) == len(found.cells) + 2
    page = guarantees.page(found, SHAPES)
    assert "of commit abc" in page
    assert "| [DHT](#dht) |" in page


def test_another_file_is_refused(tmp_path: Path):
    """What is not a file of the matrix is not written over."""
    path = tmp_path / "other.json"
    path.write_text("[]")
    with pytest.raises(Invalid, match="is not a file of the matrix"):
        Results.load(path)


def test_the_page_says_what_was_run_and_what_did_not_hold():
    """Counts, commits, a row for each cell, and the command that shows what was seen."""
    bad = Cell(
        "DHT",
        "kill-server",
        "processes",
        "violated",
        "set: lost",
        CHAIN,
        faults=1,
        commit="def",
        command="again",
        day="2026-01-02",
    )
    page = guarantees.page(Results({CELL.key: CELL, bad.key: bad}), SHAPES)
    assert "**2 of " in page
    assert "cells were run on 2026-01-01, 2026-01-02, of commit abc, def: 1 held, 0 late, 1 violated.**" in page
    assert "- **violated**: DHT under `kill-server` on processes: set: lost." in page
    assert "| `kill-kernel` | processes | held | 3 | 0.20 | 0.50 | p50 0.3 s |" in page
    assert "Not run yet." in page
    assert "**Nothing of " in guarantees.page(Results(), SHAPES)
