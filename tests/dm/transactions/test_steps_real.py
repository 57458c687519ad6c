"""``TwoPhaseCommit`` under transfers by eight clients: whoever takes part is killed at each step of the protocol."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import amino
from amino.contracts.decisions import DecisionsRequest
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, TwoPhaseCommit
from amino.dm.transactions.sql import recover
from tests.acceptance.figures import Figures, in_full
from tests.dm.transactions.kills import home_of
from tests.dm.transactions.movers import Mover, Payer, Steps, bank_of, left_in
from tests.dm.transactions.wallet import Wallet
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[3]
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(240),
    pytest.mark.keeps("servers that were killed come back for the next step"),
]
amino_cluster = {"app_dirs": [ROOT], "session_ttl_s": 2, "servers": 3}
FIGURES = Figures("TwoPhaseCommit")
WALLETS, EACH, CLIENTS = 4, 1000, 8
TIMEOUT_S = 2.0
PATIENCE_S = 25.0
STEPS = ["Begin", "Prepare", "Decide", "Tell", "End"]
COHORT = [AtLeastOnceRPC(), TwoPhaseCommit(timeout_s=TIMEOUT_S), PeriodicCheckpoint(every=1)]


@pytest.fixture
def client(cluster):
    """A connection."""
    with cluster.connect() as connected:
        yield connected


def commits(workers):
    return sum(len(worker.committed) for worker in workers)


def go_on(workers, what):
    """Wait until more has been committed."""
    reached = commits(workers)
    until(lambda: commits(workers) > reached, PATIENCE_S, f"nothing was committed after {what}")


def kill_home_before(step, steps, cluster, client, workers, stubs):
    """Kill the process that has the microservice which the next ``step`` is about; wait for commits after that."""
    microservice = steps.hold_before(step, PATIENCE_S)
    name = next(each for each, stub in stubs.items() if stub.__amino_reference__.microservice == microservice)
    server = cluster.server(home_of(client, name))
    incarnation = server.kill_kernel()
    steps.let_go()
    go_on(workers, f"a cohort was killed before {step}")
    server.wait_serving(after=incarnation)


def undecided(client, resource=""):
    return [
        each for each in client.registry.decisions(DecisionsRequest(resource)).decisions if each.outcome != "pending"
    ]


def end(workers, stop):
    stop.set()
    for worker in workers:
        worker.join(60.0)
    assert [worker.problem for worker in workers] == [None] * len(workers)


@pytest.mark.parametrize("step", in_full(["Prepare", "Tell"], STEPS))
def test_a_cohort_is_killed_right_before(cluster, client, step):
    """Its promise outlives it; every committed transfer is in both wallets, every other in none."""
    names = [f"cohort-{step}-{number}".lower() for number in range(WALLETS)]
    wallets = [client.new(amino.spec(Wallet, name=name, dms=COHORT), EACH) for name in names]
    steps, stop = Steps(), threading.Event()
    movers = [Mover(cluster, names, f"{step}{number}", stop, steps) for number in range(CLIENTS)]
    for mover in movers:
        mover.start()
    until(lambda: commits(movers) > 5, PATIENCE_S, "no commits")
    for _ in range(2):
        kill_home_before(step, steps, cluster, client, movers, dict(zip(names, wallets, strict=True)))
    end(movers, stop)
    judge(client, wallets, movers)


@pytest.mark.parametrize("step", in_full(["Decide", "Tell"], STEPS))
def test_the_initiator_is_killed_right_before(cluster, client, step):
    """What it held is free within the time-out, and what came of it is one thing in both wallets."""
    names = [f"initiator-{step}-{number}".lower() for number in range(WALLETS)]
    wallets = [client.new(amino.spec(Wallet, name=name, dms=COHORT), EACH) for name in names]
    one, two = wallets[:2]
    stop = threading.Event()
    movers = [Mover(cluster, names, f"{step}{number}", stop) for number in range(CLIENTS)]
    note = f"of the dead before {step}"
    command = [sys.executable, "-m", "tests.dm.transactions.initiator", cluster.addresses[0], step, note]
    for mover in movers[2:]:
        mover.start()
    until(lambda: commits(movers) > 5, PATIENCE_S, "no commits")
    dead = subprocess.run([*command, *names[:2]], cwd=ROOT, check=False, timeout=60)
    assert dead.returncode == -signal.SIGKILL
    died = time.monotonic()
    for mover in movers[:2]:
        mover.start()
    assert one.read() + two.read() > 0
    FIGURES.note(
        f"initiator killed before {step}: its wallets answer", time.monotonic() - died, "s", at_most=TIMEOUT_S + 1
    )
    go_on(movers, f"the initiator was killed before {step}")
    end(movers, stop)
    committed = step in {"Tell", "End"}
    judge(client, wallets, movers, {note: 2 if committed else 0})


def judge(client, wallets, movers, also=None):
    """Money is conserved, committed transfers are in two wallets, nothing else is in any; ``also``: how often other notes are."""
    until(lambda: not undecided(client), 30.0, lambda: f"decisions are left: {undecided(client)}")
    notes = [note for wallet in wallets for note in wallet.notes()]
    committed = {note for mover in movers for note in mover.committed}
    unknown = {note for mover in movers for note in mover.unknown}
    assert sum(wallet.read() for wallet in wallets) == WALLETS * EACH
    for note in committed:
        assert notes.count(note) == 2, f"{note} was committed and is in {notes.count(note)} wallets"
    for note, times in (also or {}).items():
        assert notes.count(note) == times, note
    assert set(notes) - committed - set(also or {}) <= unknown
    assert all(notes.count(note) == 2 for note in notes)
    FIGURES.note(
        "committed transfers lost, or aborted ones there", 0, "transfers", at_most=0, note=f"of {len(committed)}"
    )


@pytest.mark.parametrize("step", in_full(["CommitResource"], [*STEPS, "CommitResource"]))
def test_with_a_database_the_cohort_is_killed_right_before(cluster, client, tmp_path, step):
    """What left the table is in the wallet, and nothing else is."""
    engine = bank_of(tmp_path, 100000)
    name = f"sql-{step}".lower()
    wallet = client.new(amino.spec(Wallet, name=name, dms=COHORT), 0)
    steps, stop = Steps(), threading.Event()
    payers = [Payer(cluster, engine, name, f"{step}{number}", stop, steps) for number in range(CLIENTS)]
    for payer in payers:
        payer.start()
    until(lambda: commits(payers) > 5, PATIENCE_S, "no commits")
    kill_home_before(step, steps, cluster, client, payers, {name: wallet})
    end(payers, stop)
    recover(client, engine, "bank")
    until(lambda: not client.registry.decisions(DecisionsRequest("bank")).decisions, 30.0, "decisions are left")
    committed = {note for payer in payers for note in payer.committed}
    assert wallet.read() + left_in(engine) == 100000
    assert committed <= set(wallet.notes())
    engine.dispose()
