"""The bank: a table in a SQL database that knows nothing of Amino."""

from __future__ import annotations

import sqlalchemy as sa

METADATA = sa.MetaData()
ACCOUNTS = sa.Table(
    "accounts",
    METADATA,
    sa.Column("owner", sa.String(40), primary_key=True),
    sa.Column("balance", sa.Integer, nullable=False),
)


def open_account(engine: sa.Engine, owner: str, balance: int) -> None:
    METADATA.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(ACCOUNTS).values(owner=owner, balance=balance))


def balance_of(connection: sa.Connection, owner: str) -> int:
    return int(connection.execute(sa.select(ACCOUNTS.c.balance).where(ACCOUNTS.c.owner == owner)).scalar_one())


def withdraw(connection: sa.Connection, owner: str, amount: int) -> None:
    here = balance_of(connection, owner)
    if here < amount:
        raise ValueError(f"only {here} in the bank")
    connection.execute(sa.update(ACCOUNTS).where(ACCOUNTS.c.owner == owner).values(balance=here - amount))
