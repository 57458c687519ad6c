"""Etcd is lost with all its data: one command brings every checkpointed microservice back."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.contracts.kernel_service import Empty
from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    DurableSerializableRPC,
    DurableTransactions,
    ExplicitCheckpoint,
    PeriodicCheckpoint,
    TwoPhaseCommit,
)
from amino.testing import LocalCluster
from bench.create import rate
from tests.acceptance.figures import Figures, in_full
from tests.dm.transactions.wallet import Wallet
from tests.etcd_fixtures import an_etcd
from tests.node.counter import Counter, Holder, Tally
from tests.waiting import until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_S = 90.0
COHORT_S = 30.0
"""After so long a participant asks; etcd is lost well before."""
KEYS = [f"key-{number}" for number in range(12)]
FIGURES = Figures("total loss of etcd")
MANY = [f"many-{number}" for number in range(in_full(20, 1_000))]


@pytest.fixture(scope="module")
def local():
    """Three servers."""
    with LocalCluster(3, app_dirs=[ROOT], session_ttl_s=2, etcd_binary=an_etcd()) as running:
        yield running


def rebuild(local: LocalCluster, *options: str) -> tuple[int, dict[str, dict[str, Any]]]:
    """Run the command; returns its exit code and its rows by name."""
    command = ["-m", "amino.cli", "rebuild", "-o", "json", "--wait", str(int(PATIENCE_S))]
    where = ["--etcd", local.etcd_endpoints[0], "--store", (local.folder / "checkpoints").as_uri()]
    done = subprocess.run(
        [sys.executable, *command, *where, *options], capture_output=True, text=True, check=False, timeout=240
    )
    assert done.stdout, done.stderr
    return done.returncode, {row["name"]: row for row in json.loads(done.stdout)}


def lose_etcd(local: LocalCluster) -> None:
    """Lose it, and wait until all servers have noticed and serve as new incarnations."""
    before = {name: server.kernel_pid for name, server in local.servers.items()}
    local.etcd.lose()

    def all_new() -> bool:
        return all(one.is_serving and one.kernel_pid != before[name] for name, one in local.servers.items())

    until(all_new, PATIENCE_S, "servers did not start over")


def ids_of(client: amino.Cluster, names: set[str]) -> set[str]:
    """Return all ids as soon as those of ``names`` are listed, none before."""
    found = {one.name: one.id for one in client.find()}
    return set(found.values()) if names <= set(found) else set()


@pytest.mark.keeps("etcd and the kernel processes are new ones after it")
def test_everything_with_a_checkpoint_comes_back(local: LocalCluster) -> None:
    """Each acknowledged, checkpointed write is there, a repeated request runs once, and stubs of before go on working."""
    again = AtLeastOnceRPC(timeout_s=PATIENCE_S)
    with local.connect() as client:
        hits = client.new(amino.spec(Counter, name="hits", dms=[again, PeriodicCheckpoint(every=1)]))
        said = client.new(amino.spec(Counter, name="said", dms=[ExplicitCheckpoint()]))
        ledger = client.new(amino.spec(Counter, name="ledger", dms=[again, DurableSerializableRPC(snapshot_every=4)]))
        copies = client.new(
            amino.spec(Counter, name="copies", dms=[again, ConsensusRSM(), PeriodicCheckpoint(every=1)])
        )
        shards = client.new(amino.spec(Tally, name="shards", dms=[again, DHT(shards=2), PeriodicCheckpoint(every=1)]))
        booked = client.new(amino.spec(Counter, name="booked", dms=[again, DurableTransactions(snapshot_every=4)]))
        logs = client.new(
            amino.spec(Tally, name="logs", dms=[again, DHT(shards=2), DurableSerializableRPC(snapshot_every=4)])
        )
        holder = client.new(amino.spec(Holder, name="holder", dms=[again, PeriodicCheckpoint(every=1)]))
        changed = client.new(amino.spec(Counter, name="changed", dms=[again]))
        plain = client.new(amino.spec(Counter, name="plain"))
        holder.hold(hits)
        for _ in range(10):
            for one in (hits, ledger, booked, copies, changed, plain):
                one.add()
        said.add(7)
        amino.control(said, ExplicitCheckpoint).checkpoint()
        said.add(100)  # in no checkpoint
        for key in KEYS:
            shards.add(key)
            logs.add(key)
        client.scale(shards, shards=3)
        for key in KEYS:
            shards.add(key)
        client.apply(amino.spec(Counter, name="changed", dms=[again, PeriodicCheckpoint(every=1)]))
        many: dict[str, Any] = {}

        def make_and_call(name: str) -> None:
            many[name] = client.new(amino.spec(Counter, name=name, dms=[again, PeriodicCheckpoint(every=1)]))
            many[name].add()

        rate(make_and_call, MANY)
        names = {"hits", "said", "ledger", "booked", "copies", "shards", "logs", "holder", "changed", *MANY}
        ids = until(lambda: ids_of(client, {*names, "plain"}), PATIENCE_S, "what was made is not found")

        lose_etcd(local)
        with pytest.raises(amino.AminoError), amino.deadline(5.0):
            hits.add()  # nobody knows it
        began = time.perf_counter()
        code, rows = rebuild(local)
        took_s = time.perf_counter() - began
        assert code == 0, rows
        assert {row["outcome"] for row in rows.values()} == {"written"}
        assert set(rows) == names
        assert {row["id"] for row in rows.values()} < ids

        with amino.deadline(PATIENCE_S):
            assert [one.add() for one in (hits, ledger, booked, copies, changed)] == [11] * 5
            assert said.add() == 8
            assert [shards.add(key) for key in KEYS] == [3] * len(KEYS)
            assert [logs.add(key) for key in KEYS] == [2] * len(KEYS)
            assert holder.add_there() == 12
            assert client.get("hits", Counter).add() == 13
        answers: dict[str, int] = {}
        rate(lambda name: answers.update({name: many[name].add()}), MANY)
        wrong = [name for name, answer in answers.items() if answer != 2]
        FIGURES.note("checkpointed microservices brought back by the command", len(rows), "microservices")
        FIGURES.note("the command, until all are active", took_s, "s", note="python -m amino.cli rebuild")
        FIGURES.note(
            "of these missing, or without an acknowledged, checkpointed call", len(names - set(rows)) + len(wrong),
            "microservices", at_most=0,
        )  # fmt: skip
        until(lambda: client.describe("shards").groups["/"].children == ("0", "1", "2"), PATIENCE_S)
        epochs = {group.epoch for one in client.find() for group in client.describe(one.name).groups.values()}
        assert min(epochs) >= 1_000_000
        with pytest.raises(amino.AminoError):
            plain.add()
        client.scale(shards, shards=4)
        assert [shards.add(key) for key in KEYS] == [4] * len(KEYS)

        code, rows = rebuild(local)
        assert code == 0, rows
        assert {row["outcome"] for row in rows.values()} == {"exists"}
        assert hits.add() == 14
        rate(client.delete, list(rows))


@pytest.mark.keeps("etcd and the kernel processes are new ones after it")
def test_a_promise_whose_decision_is_lost_is_kept_until_somebody_settles_it(local: LocalCluster) -> None:
    """Both participants have promised, their initiator is dead, the decision is gone: nobody guesses."""
    cohort = [AtLeastOnceRPC(timeout_s=PATIENCE_S), TwoPhaseCommit(timeout_s=COHORT_S), PeriodicCheckpoint(every=1)]
    with local.connect() as client:
        wallets = [client.new(amino.spec(Wallet, name=name, dms=cohort), 100) for name in ("giver", "taker")]
        command = ["-m", "tests.dm.transactions.initiator", local.addresses[0], "Decide", "moved", "giver", "taker"]
        dead = subprocess.run([sys.executable, *command], cwd=ROOT, check=False, timeout=60)
        assert dead.returncode == -signal.SIGKILL
        local.etcd.kill(0)
        lose_etcd(local)
        code, rows = rebuild(local)
        assert code == 0, rows
        assert {"giver", "taker"} <= set(rows)

        def in_doubt() -> set[str]:
            events = client.registry.events(Empty()).events
            texts = [event.text for event in events if event.kind == "transaction-in-doubt"]
            return {text.removeprefix("transaction: ").partition(",")[0] for text in texts if "lost with etcd" in text}

        (transaction,) = until(in_doubt, PATIENCE_S, "nobody said that a transaction is in doubt")
        with amino.deadline(3.0), pytest.raises(amino.AminoError):
            wallets[0].read()
        settle = ["settle", transaction, "commit", "--etcd", local.etcd_endpoints[0]]
        done = subprocess.run([sys.executable, "-m", "amino.cli", *settle], check=False, timeout=60)
        assert done.returncode == 0
        until(lambda: [wallet.read() for wallet in wallets] == [99, 101], PATIENCE_S, "it was not carried out")
        for name in ("giver", "taker"):
            client.delete(name)


@pytest.mark.keeps("etcd and the servers are new processes after it")
def test_a_restored_backup_of_etcd_follows_the_store(local: LocalCluster, tmp_path: Path) -> None:
    """It knows neither the newest checkpoints nor the newest epoch; what comes back is what was acknowledged last."""
    data, backup = local.folder / "etcd" / "m0" / "data", tmp_path / "backup"
    with local.connect() as client, amino.deadline(2 * PATIENCE_S):
        again = AtLeastOnceRPC(timeout_s=PATIENCE_S)
        hits = client.new(amino.spec(Counter, name="kept", dms=[again, PeriodicCheckpoint(every=1)]))
        old = [hits.add() for _ in range(3)]
        local.etcd.kill(0)
        shutil.copytree(data, backup)
        local.etcd.start(0)
        assert [hits.add() for _ in range(3)] == [old[-1] + 1, old[-1] + 2, old[-1] + 3]
        until(lambda: client.move("kept"), PATIENCE_S, "it could not be moved")
        assert hits.add() == old[-1] + 4
        for server in local.servers.values():
            server.kill()
            server.wait_ended()
        local.etcd.kill(0)
        shutil.rmtree(data)
        shutil.copytree(backup, data)
        local.etcd.start(0)
        code, rows = rebuild(local, "--etcd-restored")
        assert code == 0, rows
        assert (rows["kept"]["outcome"], rows["kept"]["state"]) == ("written", "recovering")
        for server in local.servers.values():
            server.start()
        assert hits.add() == old[-1] + 5
        code, rows = rebuild(local)
        assert code == 0, rows
        assert (rows["kept"]["outcome"], rows["kept"]["state"]) == ("exists", "active")
        client.delete("kept")
