"""``python -m amino.testing.simulation``: exit codes and the report."""

import json
import logging

import pytest

from amino.coordination.session import SessionView
from amino.testing.simulation.__main__ import main


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
    assert main(["--first", "1", "--seeds", "3", "--hours", "0.1"]) == 1
    told = capsys.readouterr().err
    assert "seed " in told
    assert "invariant 8" in told
