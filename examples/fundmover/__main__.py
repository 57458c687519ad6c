"""Moves money between a wallet in Amino and a bank account in SQL: both change, or neither."""

from __future__ import annotations

import tempfile
from pathlib import Path

import sqlalchemy as sa

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, TwoPhaseCommit
from amino.dm.transactions.sql import SqlParticipant, recover
from amino.testing import LocalCluster
from fundmover.bank import balance_of, open_account, withdraw
from fundmover.wallet import Wallet

CHAIN = [AtLeastOnceRPC(), TwoPhaseCommit(timeout_s=1.0), PeriodicCheckpoint(every=1)]


class Crash(BaseException):
    """The mover dies."""


class CrashingParticipant(SqlParticipant):
    """Dies right after the bank has committed, before anybody else was told."""

    async def commit(self, transaction: str) -> None:
        await super().commit(transaction)
        raise Crash


def move(cluster: amino.Cluster, wallet: Wallet, bank: SqlParticipant, amount: int) -> None:
    """From the bank into the wallet."""
    with cluster.transaction(bank):
        wallet.add(amount)
        withdraw(bank.connection, "ada", amount)


def show(what: str, wallet: Wallet, engine: sa.Engine) -> None:
    with engine.connect() as connection:
        print(f"{what}: wallet {wallet.read()}, bank {balance_of(connection, 'ada')}")


def main(engine: sa.Engine, cluster: amino.Cluster) -> None:
    open_account(engine, "ada", 100)
    wallet = cluster.get_or_create(amino.spec(Wallet, name="wallet", dms=CHAIN))
    show("at first", wallet, engine)
    move(cluster, wallet, SqlParticipant(engine, "bank"), 30)
    show("moved 30", wallet, engine)
    try:
        move(cluster, wallet, SqlParticipant(engine, "bank"), 500)
    except ValueError as error:
        show(f"moved nothing, {error}", wallet, engine)
    try:
        move(cluster, wallet, CrashingParticipant(engine, "bank"), 10)
    except Crash:
        print("the mover died after the bank had committed; the wallet keeps its promise and waits")
    print(f"recovery asks the bank: {', '.join(recover(cluster, engine, 'bank').values())}")
    show("moved 10", wallet, engine)


with tempfile.TemporaryDirectory() as folder:
    engine = sa.create_engine(f"sqlite:///{Path(folder) / 'bank.db'}")
    with LocalCluster(servers=2, app_dirs=[Path(__file__).resolve().parents[1]]) as local, local.connect() as cluster:
        main(engine, cluster)
    engine.dispose()
