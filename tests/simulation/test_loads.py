"""The loads: a sample of seeds holds, and a rule broken in each manager is found."""

import asyncio
import logging

import pytest

from amino.coordination.deadline import LocalDeadline
from amino.dm import (
    AtLeastOnceRPC,
    ConsensusRSM,
    ConsensusRSMGeo,
    LoadBalancedMasterSlave,
    PeriodicCheckpoint,
)
from amino.dm.checkpointing.explicit import _Checkpointer
from amino.dm.serializability.serializable_rpc import _Serial
from amino.dm.sharding import dht
from amino.kernel import timers
from amino.kernel.answered import AnsweredTable
from amino.kernel.outbox import Outbox
from amino.kernel.wheel import TimerWheel
from amino.node import device_life
from amino.oms.lock_machine import LockState, Verdict
from amino.testing.simulation.run import run_seed
from amino.testing.simulation.workloads import LOADS
from amino.testing.simulation.workloads.devices import DeviceLedgers
from amino.testing.simulation.workloads.journals import Journals, _fewer_than, _younger_than
from amino.testing.simulation.workloads.ledgers import FEW, REGIONS, Ledgers
from amino.testing.simulation.workloads.placed import GeoLedgers

SECONDS = 15.0
SEEDS_MAX = 6
TOGETHER = (
    ("dht", "dht-replicated", "live-change"),
    ("timers", "timers-replicated", "locks", "events", "events-replicated"),
    ("explicit-checkpoint", "periodic-calls", "periodic-time", "serializable", "at-least-once", "migrating"),
    ("geo", "geo-nearby", "master-slave", "master-slave-async"),
    ("p2p", "p2p-nearby"),
)
"""Loads that run side by side; those of ``test_invariants`` have seeds of their own."""


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("loads", TOGETHER, ids=lambda loads: loads[0])
@pytest.mark.parametrize("seed", [1, 2])
def test_the_guarantees_hold(loads, seed):
    """What CI runs of the 1,000 seeds of docs/reports/simulation.md: no guarantee is broken, and every load gets answers."""
    report = run_seed(seed, SECONDS, loads=loads)
    assert report.findings == []
    for load in loads:
        assert any(what.startswith(f"{load}: ") and what.endswith(" ok") for what in report.outcomes)


def test_every_load_is_sampled():
    """A load that is added gets its sample here or in ``test_invariants``."""
    elsewhere = {"checkpointed", "replicated", "replicated-state", "replicated-checkpointed"}
    mine = {name for loads in TOGETHER for name in loads}
    assert mine <= LOADS.keys() - elsewhere


MISLED = {
    5032: ("p2p", "p2p-nearby"),
    5081: ("dht", "dht-replicated", "live-change"),
    5107: ("timers", "timers-replicated", "locks", "events", "events-replicated"),
    5195: (*TOGETHER[2], "master-slave-async"),
}
"""Seeds that a judge took for broken: a read within its lease, a broadcast in a change of shards, timers that waited for a write
to etcd to time out, a checkpoint that etcd was not there for."""


@pytest.mark.parametrize("seed", MISLED)
def test_what_misled_a_judge_is_not_found(seed):
    """Each of these seeds of docs/reports/simulation.md ended with a finding that was none."""
    assert run_seed(seed, 8.0, loads=MISLED[seed]).findings == []


def found(load, *favoured, seeds=SEEDS_MAX, seconds=20.0):
    """Return what the first seed that finds anything found, with some faults more frequent than usual."""

    def prepare(_cluster, nemesis):
        for fault in nemesis.kinds:
            if fault.__name__ in favoured:
                nemesis.kinds[fault] *= 20

    for seed in range(1, seeds + 1):
        findings = run_seed(seed, seconds, loads=[load], prepare=prepare).findings
        if findings:
            return "\n".join(findings)
    return ""


def instead(monkeypatch, load, make):
    """Have ``load`` made otherwise: with a manager that promises less than the load judges."""
    kind = LOADS[load]
    monkeypatch.setitem(LOADS, load, type(kind)(kind.name, kind.about, make, kind.faults))


def test_calls_that_overlap_are_found(monkeypatch):
    """serializable: a manager that lets calls in side by side."""

    async def at_once(self, call, forward):
        return await forward(call)

    monkeypatch.setattr(_Serial, "on_call", at_once)
    assert "beside" in found("serializable")


def test_calls_that_overtake_others_are_found(monkeypatch):
    """serializable: a manager that lets every other call wait a moment before it stands in the queue."""
    real = _Serial.on_call

    async def unfair(self, call, forward):
        await asyncio.sleep(0.02 * (call.request.sequence % 2))
        return await real(self, call, forward)

    monkeypatch.setattr(_Serial, "on_call", unfair)
    assert "which had arrived later" in found("serializable")


def test_a_retry_that_runs_again_is_found(monkeypatch):
    """at-least-once: a table of answers that forgets."""
    monkeypatch.setattr(AnsweredTable, "admit", lambda self, *args: None)
    monkeypatch.setattr(AnsweredTable, "complete", lambda self, *args: None, raising=False)
    assert "ran twice" in found("at-least-once", "shaky_network", "isolate_machine", "cut_network")


def test_a_checkpoint_that_is_not_written_is_found(monkeypatch):
    """explicit-checkpoint: one that is acknowledged all the same."""

    async def careless(self, call):
        return 1

    monkeypatch.setattr(_Checkpointer, "_checkpoint", careless)
    assert "although a checkpoint was acknowledged" in found("explicit-checkpoint", "crash_kernel", "crash_supervisor")


def test_checkpoints_that_come_too_seldom_are_found(monkeypatch):
    """periodic-calls and periodic-time: more is lost with a server than may be."""
    retry = AtLeastOnceRPC()
    seldom = PeriodicCheckpoint(every=40)
    instead(monkeypatch, "periodic-calls", lambda setting: Journals(setting, (retry, seldom), _fewer_than(5)))
    assert "at most 4 may be" in found("periodic-calls", "crash_kernel")
    late = PeriodicCheckpoint(every=None, interval_s=60.0)
    instead(monkeypatch, "periodic-time", lambda setting: Journals(setting, (retry, late), _younger_than(4.0)))
    assert "older than 4 s" in found("periodic-time", "crash_kernel", "lose_machine")


def test_reads_that_are_too_old_are_found(monkeypatch):
    """master-slave and geo-nearby: slaves that may be a minute behind."""
    retry, options = AtLeastOnceRPC(), {**FEW, "pause_s": 0.1}
    slave = LoadBalancedMasterSlave(replicas=3, staleness_s=60.0)
    instead(monkeypatch, "master-slave", lambda at: Ledgers(at, (retry, slave), staleness_s=0.5, **options))
    assert "calls;" in found("master-slave", "cut_network", "isolate_machine")
    geo = ConsensusRSMGeo(regions=REGIONS, read_staleness_s=60.0)
    instead(monkeypatch, "geo-nearby", lambda at: Ledgers(at, (retry, geo), **options))
    assert "calls;" in found("geo-nearby")


def test_a_primary_in_the_wrong_region_is_found(monkeypatch):
    """geo: at rest it is to be in the preferred one."""
    geo = ConsensusRSMGeo(regions=REGIONS, preferred_region=REGIONS[1])
    instead(monkeypatch, "geo", lambda at: GeoLedgers(at, (AtLeastOnceRPC(), geo), **FEW))
    assert f"not in {REGIONS[0]}" in found("geo")


def test_replicas_that_are_not_on_devices_are_found(monkeypatch):
    """p2p: at rest each device has one."""
    instead(monkeypatch, "p2p", lambda at: DeviceLedgers(at, (AtLeastOnceRPC(), ConsensusRSM()), **FEW))
    assert "its replicas are on ['s1', 's2', 's3']" in found("p2p")


class _Endless(LocalDeadline):
    """A session that ends only when it is said to be over."""

    def publish(self, deadline_s):
        super().publish(deadline_s and deadline_s + 1000.0)


def test_a_device_that_goes_on_without_a_session_is_found(monkeypatch):
    """p2p: one whose session is lost, and that goes on."""
    monkeypatch.setattr(device_life, "LocalDeadline", _Endless)
    monkeypatch.setattr(device_life._Incarnation, "_stop_now", lambda self, why: None)
    assert "does not serve" in found("p2p", "freeze_device", "partition_device")


def test_a_move_that_forgets_answers_is_found(monkeypatch):
    """migrating: without the answered requests a retried call runs again where the object came to."""
    monkeypatch.setattr(AnsweredTable, "snapshot", lambda self: [])
    assert "ran twice" in found("migrating", "crash_kernel", "store_trouble", "lose_answers_of_etcd", seconds=30.0)


@pytest.mark.parametrize("load", ["dht", "dht-replicated", "live-change"])
def test_keys_that_do_not_arrive_are_found(monkeypatch, load):
    """A shard that says it has taken a part, and has not."""

    def careless(self, payload):
        version, source, number, parts, _ = payload
        self._expect(version)
        if self._own.is_next(source, number):
            self._own.took(source, number, parts)

    monkeypatch.setitem(dht._MOVES, "take", careless)
    told = found(load)
    assert "forgot" in told or "had been told before" in told


@pytest.mark.parametrize("load", ["timers", "timers-replicated"])
def test_occurrences_that_are_left_out_are_found(monkeypatch, load):
    """A timer that goes two steps at once."""
    real = timers.judge

    def hasty(timer, now_s):
        verdict = real(timer, now_s)
        return verdict if verdict.following is None else verdict._replace(following=verdict.following + 1)

    monkeypatch.setattr(timers, "judge", hasty)
    assert "was next" in found(load)


def test_timers_that_are_late_are_found(monkeypatch):
    """timers: a server that looks at what is due a moment later than it should."""
    real = TimerWheel._look

    def late(self):
        self._loop.call_later(0.2, real, self)

    monkeypatch.setattr(TimerWheel, "_look", late)
    assert "late at rest" in found("timers")


def test_a_lock_that_is_given_to_two_is_found(monkeypatch):
    """locks: a slot leader that grants whatever is asked for."""
    monkeypatch.setattr(LockState, "judge", lambda self, holder, now_s: next(iter(Verdict)))
    told = found("locks")
    assert "validly holds" in told


@pytest.mark.parametrize("load", ["events", "events-replicated"])
def test_events_that_come_again_are_found(monkeypatch, load):
    """A reader that is given the event of its own token once more."""
    real = Outbox._begin

    def again(self, after):
        position, missed = real(self, after)
        return max(position - 1, 0), missed

    monkeypatch.setattr(Outbox, "_begin", again)
    assert "heard" in found(load)
