"""``python -m amino.testing.simulation``: exit codes and the report."""

import json
import logging

import pytest

from amino.coordination.session import SessionView
from amino.testing.simulation.__main__ import main
from amino.testing.simulation.workloads import LOADS


@pytest.fixture(autouse=True)
def _loud_again():
    yield
    logging.disable(logging.NOTSET)


def test_the_report_tells_what_ran(tmp_path):
    """Seeds without findings exit with 0, and summary and runs are in the report."""
    report = tmp_path / "report.json"
    assert main(["--first", "3", "--seeds", "2", "--hours", "0.02", "--json", str(report)]) == 0
    document = json.loads(report.read_bytes())
    assert document["summary"]["ok"]
    assert document["summary"]["findings"] == []
    assert document["summary"]["replies"] == sum(run["replies"] for run in document["runs"])
    assert [run["seed"] for run in document["runs"]] == [3, 4]


def test_a_finding_is_reported_with_its_seed(monkeypatch, capsys):
    """With a broken fence the command exits with 1 and names invariant and seed."""
    monkeypatch.setattr(SessionView, "valid", lambda self: True)
    assert main(["--first", "20", "--seeds", "2", "--hours", "0.1"]) == 1
    told = capsys.readouterr().err
    assert "seed " in told
    assert "invariant 8" in told


def test_the_loads_are_listed(capsys):
    """``--list`` prints every load with what it shows, and runs nothing."""
    assert main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(LOADS)


def test_several_loads_run_on_one_cluster(tmp_path):
    """Loads given together run in the same simulation, and each tells its own outcomes."""
    report = tmp_path / "report.json"
    loads = ["--load", "replicated", "--load", "checkpointed"]
    assert main([*loads, "--seeds", "1", "--seconds", "20", "--json", str(report)]) == 0
    (run,) = json.loads(report.read_bytes())["runs"]
    assert run["loads"] == ["replicated", "checkpointed"]
    assert run["outcomes"]["replicated: add ok"] > 0
    assert run["outcomes"]["checkpointed: add ok"] > 0
