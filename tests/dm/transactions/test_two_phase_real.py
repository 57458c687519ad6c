"""``TwoPhaseCommit`` on real servers: transfers between microservices while kernel processes are killed."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import amino
from amino.aio.mode import drive
from amino.contracts.decisions import DecisionsRequest
from amino.dm import AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint, TwoPhaseCommit
from amino.dm.transactions import machine
from amino.dm.transactions.sql import recover
from amino.errors import Invalid, TransactionAborted
from tests.acceptance.figures import Figures, rounds, slack
from tests.dm.transactions.kills import kill_in_turn
from tests.dm.transactions.movers import Mover, Payer, bank_of, left_in
from tests.dm.transactions.wallet import Teller, Wallet
from tests.waiting import until

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.keeps("servers that were killed come back for the next test"),
]
amino_cluster = {"app_dirs": [Path(__file__).resolve().parents[3]], "session_ttl_s": 2, "servers": 3}
WALLETS = 6
EACH = 100
MOVERS = 8
KILLS = max(4, rounds())
COHORT = [AtLeastOnceRPC(), TwoPhaseCommit(timeout_s=2.0), PeriodicCheckpoint(every=1)]
REPLICATED = [AtLeastOnceRPC(), TwoPhaseCommit(timeout_s=2.0), ConsensusRSM(replicas=3)]


@pytest.fixture
def client(cluster):
    """A connection."""
    with cluster.connect() as connected:
        yield connected


def decisions_left(client):
    return client.registry.decisions(DecisionsRequest()).decisions


def kept(client):
    return [each for each in decisions_left(client) if each.outcome != "pending"]


def test_calls_on_two_microservices_take_effect_together(client):
    """Commit, rollback, an exception, a conflict, a reader that was outrun; and no decision is left behind."""
    one, two = (client.new(amino.spec(Wallet, dms=COHORT)) for _ in range(2))
    with client.transaction():
        one.add(-10)
        two.add(10)
        assert one.read() == 90
    assert (one.read(), two.read()) == (90, 110)
    with pytest.raises(ValueError, match="not enough"), client.transaction():
        two.add(500)
        one.add(-500)
    with client.transaction() as block:
        one.add(1)
        two.add(1)
        block.rollback()
    assert (one.read(), two.read()) == (90, 110)

    def outside(work):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join(20.0)

    with pytest.raises(TransactionAborted) as caught, client.transaction():
        one.add(1)
        two.add(1)
        outside(lambda: two.add(5))
    assert caught.value.reason == "conflict"
    with pytest.raises(TransactionAborted), client.transaction():
        seen = one.read()
        two.add(seen)
        outside(lambda: one.add(1))
    assert (one.read(), two.read()) == (91, 115)
    with client.transaction():
        assert one.read() + two.read() == 206
    assert decisions_left(client) == ()


def test_what_is_refused(client):
    """Services without the manager, nesting, chains that keep nothing; a class that cheats is found out by its vote."""
    one = client.new(amino.spec(Wallet, dms=COHORT))
    plain = client.new(amino.spec(Wallet, dms=[AtLeastOnceRPC()]))
    with pytest.raises(Invalid, match="its chain has no TwoPhaseCommit"), client.transaction():
        one.add(5)
        plain.add(-5)
    with client.transaction(), pytest.raises(Invalid, match="do not nest"), client.transaction():
        pass
    with pytest.raises(Invalid, match="nothing in its chain keeps each call"):
        client.new(amino.spec(Wallet, dms=[TwoPhaseCommit()]))
    cheated = pytest.raises(TransactionAborted, match="cheat, call 1 of the transaction, is not deterministic")
    with cheated, client.transaction():
        one.cheat()
    assert (one.read(), plain.read()) == (100, 100)


def test_a_method_can_be_a_transaction(client):
    """``@amino.transactional``: what it calls is atomic."""
    one, two = (client.new(amino.spec(Wallet, dms=COHORT)) for _ in range(2))
    teller = client.new(amino.spec(Teller, dms=[AtLeastOnceRPC(), ConsensusRSM(replicas=3)]))
    assert teller.move(one, two, 10) == 1
    with pytest.raises(ValueError, match="not enough"):
        teller.move(one, two, 1000)
    assert (one.read(), two.read()) == (90, 110)
    assert teller.move(two, one, 10) == 2
    assert (one.read(), two.read()) == (100, 100)


def promise_and_go(client, one, two, afterwards=lambda _: None):
    """Prepare a transfer of 10 from ``one`` to ``two``, as an initiator does that dies before it decides, or does ``afterwards``."""
    block = client.transaction()

    def work():
        block.begin()
        one.add(-10)
        two.add(10)
        assert drive(block._carry_out(machine.Begin()))[0] == "yes"
        for microservice in list(block._parts):
            assert drive(block._carry_out(machine.Prepare(microservice)))[0] == "yes"
        afterwards(block)

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_cohorts_whose_initiator_is_gone_learn_and_are_free(client):
    """Prepared and never told: after ``timeout_s`` they have it aborted, and others go on."""
    one, two = (client.new(amino.spec(Wallet, dms=COHORT)) for _ in range(2))
    promise_and_go(client, one, two).join(20.0)
    began = time.monotonic()
    assert (one.read(), two.read()) == (100, 100)
    assert 1.0 < time.monotonic() - began < 8.0 * slack()
    assert decisions_left(client) == ()


def test_a_transaction_that_begins_beside_a_promise_waits_a_moment_for_its_outcome(client):
    """What it would copy before is void with the commit: it copies what is there afterwards, and is not aborted for sure."""
    one, two = (client.new(amino.spec(Wallet, dms=COHORT)) for _ in range(2))
    committed = tries = 0
    while not committed and tries < 20:
        tries += 1
        promised = threading.Event()

        def decide(block, promised=promised):
            promised.set()
            threading.Event().wait(0.03)  # the other's first call comes while the promise stands
            assert drive(block._carry_out(machine.Decide(commit=True)))[0] == "yes"
            for microservice in list(block._parts):
                drive(block._carry_out(machine.Tell(microservice, commit=True)))
            drive(block._carry_out(machine.End()))

        thread = promise_and_go(client, one, two, decide)
        assert promised.wait(20.0)
        try:
            with client.transaction():
                two.add(1)
                one.add(-1)
            committed += 1
        except TransactionAborted:
            pass  # the machine was busy for longer than a transaction waits
        thread.join(20.0)
    assert committed
    assert (one.read(), two.read()) == (100 - 10 * tries - committed, 100 + 10 * tries + committed)


@pytest.mark.parametrize("chain", [COHORT, REPLICATED], ids=["checkpoint", "consensus"])
def test_money_is_conserved_while_servers_are_killed(cluster, client, chain):
    """Every committed transfer is in both wallets, every other in none; promises outlive their servers and are settled."""
    names = [
        f"wallet-{len(chain[2].to_spec().options)}-{chain[2].to_spec().name}-{number}".lower()
        for number in range(WALLETS)
    ]
    wallets = [client.new(amino.spec(Wallet, name=name, dms=chain), EACH) for name in names]
    stop = threading.Event()
    movers = [Mover(cluster, names, f"m{number}", stop) for number in range(MOVERS)]
    for mover in movers:
        mover.start()
    kill_in_turn(cluster, client, [names[number % WALLETS] for number in range(KILLS)], movers, 25.0)
    stop.set()
    for mover in movers:
        mover.join(60.0)
    assert [mover.problem for mover in movers] == [None] * MOVERS
    until(lambda: not kept(client), 30.0, lambda: f"decisions are left: {kept(client)}")
    assert kept(client) == []  # a pending one that nobody promised is swept later
    notes = [note for wallet in wallets for note in wallet.notes()]
    committed = {note for mover in movers for note in mover.committed}
    unknown = {note for mover in movers for note in mover.unknown}
    assert sum(wallet.read() for wallet in wallets) == WALLETS * EACH
    assert committed
    for note in committed:
        assert notes.count(note) == 2, f"{note} was committed and is in {notes.count(note)} wallets"
    assert set(notes) - committed <= unknown
    assert all(notes.count(note) == 2 for note in notes)
    told = f"of {len(committed)} committed, {KILLS} kills"
    Figures("TwoPhaseCommit").note(
        f"over {chain[2].to_spec().name}: wrong transfers", 0, "transfers", at_most=0, note=told
    )


def test_money_is_conserved_with_a_database(cluster, client, tmp_path):
    """What left the table is in the wallet, whoever was killed when."""
    engine = bank_of(tmp_path, 100000)
    wallet = client.new(amino.spec(Wallet, name="wallet-sql", dms=COHORT), 0)
    stop = threading.Event()
    payers = [Payer(cluster, engine, "wallet-sql", f"p{number}", stop) for number in range(4)]
    for payer in payers:
        payer.start()
    kill_in_turn(cluster, client, ["wallet-sql"] * rounds(), payers, 25.0)
    stop.set()
    for payer in payers:
        payer.join(60.0)
    assert [payer.problem for payer in payers] == [None] * len(payers)
    recover(client, engine, "bank")
    until(lambda: not client.registry.decisions(DecisionsRequest("bank")).decisions, 30.0, "decisions are left")
    committed = {note for payer in payers for note in payer.committed}
    assert wallet.read() + left_in(engine) == 100000
    assert committed
    assert committed <= set(wallet.notes())
    told = f"of {len(committed)} committed, {rounds()} kills"
    Figures("TwoPhaseCommit").note("with a SQL database: wrong transfers", 0, "transfers", at_most=0, note=told)
    engine.dispose()
