"""The scenes that proofs are played on: each is clean, and a rule taken away shows."""

import logging

import pytest

from amino.checkpoint import format as file_format
from amino.dm.replication.primary import Primacy
from amino.kernel.answered import AnsweredTable
from chaos.staged import SCENES, play


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("name", SCENES)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_scene_is_clean(name, seed):
    """Nothing is found while all rules stand."""
    assert play(name, seed) == []


def test_reads_without_a_lease_are_found(monkeypatch):
    """stale-primary: a primary that reads although its followers acknowledged nothing lately."""
    checked = Primacy.may_read

    def careless(self, index, now):
        why = checked(self, index, now)
        return None if why and why.startswith("no acknowledged heartbeat") else why

    monkeypatch.setattr(Primacy, "may_read", careless)
    assert "linearizability" in "\n".join(play("stale-primary"))


def test_a_damaged_checkpoint_that_is_restored_is_found(monkeypatch):
    """damaged-checkpoint: a restore that does not look at checksums."""

    def careless(data, _sha256):
        return bytes(data[file_format.HEADER_BYTES :])

    monkeypatch.setattr(file_format, "decode", careless)
    assert "linearizability" in "\n".join(play("damaged-checkpoint"))


def test_answers_that_do_not_travel_are_found(monkeypatch):
    """lost-answers: a table of answered requests that stays behind when the object moves, or is restored."""
    monkeypatch.setattr(AnsweredTable, "snapshot", lambda self: [])
    assert "done twice: moved, restored" in "\n".join(play("lost-answers"))
