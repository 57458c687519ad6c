"""The command line of chaos: what it says, and that the exit code is the verdict."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from amino.testing.chaos.record import RunRecord, Verdict
from chaos import __main__ as command


def _exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["chaos", *arguments])
    try:
        return command.main()
    except SystemExit as ended:
        return int(ended.code or 0)


@pytest.mark.parametrize(("good", "code"), [(True, 0), (False, 1)])
def test_the_exit_code_is_the_verdict(monkeypatch: pytest.MonkeyPatch, good: bool, code: int) -> None:
    """A run that was judged to be good ends with 0, any other with 1."""
    record = RunRecord("auto-restart", verdicts=[Verdict("linearizability", good, "seen")])
    monkeypatch.setattr(command, "one_run", lambda *given: record)
    assert _exit_code(monkeypatch, "run", "auto-restart", "--seed", "1") == code


def test_nothing_judged_is_no_success(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run without a verdict has failed."""
    monkeypatch.setattr(command, "one_run", lambda *given: RunRecord("auto-restart"))
    assert _exit_code(monkeypatch, "run", "auto-restart", "--seed", "1") == 1


@pytest.mark.parametrize("proved", [True, False])
def test_a_defect_that_nobody_sees_is_a_failure(monkeypatch: pytest.MonkeyPatch, proved: bool) -> None:
    """prove ends with 1 unless every defect was caught."""
    monkeypatch.setattr("chaos.proof.prove", lambda *given, **more: proved)
    assert _exit_code(monkeypatch, "prove") == (0 if proved else 1)


def test_what_cannot_be_run_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown scenario, or topology, ends with 2 and names those that there are."""
    assert _exit_code(monkeypatch, "run", "nonsense") == 2
    assert "auto-restart" in capsys.readouterr().err
    assert _exit_code(monkeypatch, "run", "auto-restart", "--topology", "trains") == 2
    assert "containers" in capsys.readouterr().err


def test_the_scenarios_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """list names every scenario that continuous integration samples."""
    assert _exit_code(monkeypatch, "list") == 0
    told = capsys.readouterr().out
    assert all(name in told for name in command.SAMPLE)


def test_where_the_record_goes_is_settled_before_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Its folder is made; what cannot be written is refused at once, not after an hour."""
    record = RunRecord("auto-restart", verdicts=[Verdict("linearizability", True, "seen")])
    monkeypatch.setattr(command, "one_run", lambda *given: record)
    found = tmp_path / "of" / "today" / "record.json"
    assert _exit_code(monkeypatch, "run", "auto-restart", "--seed", "1", "--json", str(found)) == 0
    assert RunRecord.load(found).scenario == "auto-restart"
    monkeypatch.setattr(command, "one_run", lambda *given: pytest.fail("it was run"))
    for wrong in (found / "below.json", found.parent):
        assert _exit_code(monkeypatch, "run", "auto-restart", "--seed", "1", "--json", str(wrong)) == 2
        assert "name a file" in " ".join(capsys.readouterr().err.split())
