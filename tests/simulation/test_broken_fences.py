"""Fences broken on purpose: the simulation finds each of them within a few seeds, or it would prove nothing."""

import logging

import pytest

from amino.contracts.documents import Phase
from amino.coordination.session import SessionView
from amino.coordination.store import absent
from amino.errors import NotExecuted
from amino.kernel.answered import AnsweredTable
from amino.kernel.confirm import Confirmer
from amino.kernel.dispatcher import Dispatcher
from amino.testing.simulation.run import run_seed

SEEDS_MAX = 30
SECONDS = 90.0


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def first_findings(*favoured, seeds=SEEDS_MAX):
    """Return the findings of the first seed that shows any, with some faults more frequent than usual."""

    def prepare(_cluster, nemesis):
        for fault in nemesis.kinds:
            if fault.__name__ in favoured:
                nemesis.kinds[fault] *= 8

    for seed in range(1, seeds + 1):
        found = run_seed(seed, SECONDS, prepare=prepare).findings
        if found:
            return "\n".join(found)
    return ""


def test_a_session_that_is_always_valid_is_found(monkeypatch):
    """A server that takes its session for valid whatever the clock says answers when it must not."""
    monkeypatch.setattr(SessionView, "valid", lambda self: True)
    assert "invariant 8" in first_findings("freeze_machine", "partition_etcd")


def test_a_reply_released_without_a_check_is_found(monkeypatch):
    """Validity must be checked after the method too, not only before it."""

    async def careless(self, target, call, number, segments):
        if not self._validity.valid() and not await self._validity.wait_valid(self._around.hold_s):
            raise NotExecuted("not valid", reason="fenced")
        self._decode(target, call, number, segments)
        return await target.serve(call)

    monkeypatch.setattr(Dispatcher, "_serve", careless)
    assert "invariant 8" in first_findings("freeze_machine", "freeze_kernel", "partition_etcd", "store_trouble")


def test_a_loss_that_is_not_proved_is_found(monkeypatch):
    """A slot leader with a stale list must not take objects from a live server."""

    def unproved(key, _incarnation):
        return absent(f"{key}-no-such-key")

    monkeypatch.setattr("amino.oms.writes.not_created_at", unproved)
    monkeypatch.setattr("amino.oms.commands.not_created_at", unproved)
    assert "although its server lives" in first_findings("stale_members")


def test_a_placement_that_is_not_confirmed_is_found(monkeypatch):
    """An instance answers only after its placement was confirmed by a transaction."""

    async def trusting(self, key, document, replica, fence, methods):
        return fence.document_revision

    monkeypatch.setattr(Confirmer, "confirm", trusting)
    assert "before its placement was confirmed" in first_findings()


def test_answers_that_do_not_travel_are_found(monkeypatch):
    """Without the answered requests in its snapshots, an object runs retried calls again."""
    monkeypatch.setattr(AnsweredTable, "snapshot", lambda self: [])
    assert "ran twice" in first_findings("crash_kernel", "store_trouble", "lose_answers_of_etcd")


def test_an_epoch_that_is_not_checked_is_found(monkeypatch):
    """A call sent under an older epoch must not be served under a newer one."""
    checked = Dispatcher._target

    def unchecked(self, microservice, path, epoch):
        target = self._find(microservice, path)
        return checked(self, microservice, path, epoch if target is None else target.epoch)

    monkeypatch.setattr(Dispatcher, "_target", unchecked)
    found = first_findings("crash_kernel", "move", "lose_machine")
    assert "invariant 2" in found or "invariant 1" in found


def test_a_deletion_without_its_objects_is_found(monkeypatch):
    """Deleting the records but not the kernel objects leaves something that no document lists."""

    async def forgetful(self, work, found, replicas):
        assert found.document.phase == Phase.DELETING or not found.document.constructed
        await self.writes.purge(work.ms_id, found, work.record)
        work.found = None

    monkeypatch.setattr("amino.oms.leader.Leader._destroy", forgetful)
    assert "which does not exist" in first_findings() or "invariant 6" in first_findings()


def test_the_same_trouble_finds_nothing_while_the_fences_stand():
    """What the tests above find is the broken fence, not the more frequent faults."""
    everything = ("freeze_machine", "partition_etcd", "stale_members", "crash_kernel", "move", "lose_answers_of_etcd")
    assert first_findings(*everything, seeds=3) == ""
