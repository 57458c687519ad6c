"""``SqlParticipant``: the SQL commit is the decision, and its row says so."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import sqlalchemy as sa

from amino.aio.mode import drive
from amino.contracts.decisions import Decision, DecisionList
from amino.dm.transactions.sql import DECISIONS, SqlParticipant, prune, recover
from amino.errors import Invalid, OutcomeUnknown, TransactionAborted


@pytest.fixture
def engine(tmp_path):
    """A database with one table."""
    made = sa.create_engine(f"sqlite:///{tmp_path / 'x.db'}", connect_args={"timeout": 0.1})
    with made.begin() as connection:
        connection.execute(sa.text("create table notes (n integer primary key)"))
    yield made
    made.dispose()


def notes(engine):
    with engine.connect() as connection:
        return [row[0] for row in connection.execute(sa.text("select n from notes order by n"))]


def rows(engine):
    with engine.connect() as connection:
        return dict(connection.execute(sa.select(DECISIONS.c.id, DECISIONS.c.outcome)).all())


def note(participant, number):
    participant.connection.execute(sa.text(f"insert into notes values ({number})"))


def cluster_of(*transactions):
    """Stand in for a cluster with pending decisions; wishes end in ``wishes``."""
    wishes = {}
    listed = DecisionList(tuple(Decision(each, "pending", 7, (), "bank") for each in transactions))
    registry = SimpleNamespace(
        decisions=lambda request: listed, decide=lambda request: wishes.update({request.transaction: request.wish})
    )
    return SimpleNamespace(registry=registry, wishes=wishes)


def test_commit_and_rollback(engine):
    """The row goes with the transaction; a rollback leaves nothing."""
    one, two = SqlParticipant(engine, "bank"), SqlParticipant(engine, "bank")
    note(one, 1)
    drive(one.prepare("t1"))
    drive(one.commit("t1"))
    note(two, 2)
    drive(two.rollback())
    drive(two.rollback())
    assert notes(engine) == [1]
    assert rows(engine) == {"t1": "committed"}


def test_recovery_asks_for_the_row_and_fences_who_has_none(engine):
    """A mover that comes to life again after recovery aborted runs into the row and commits nothing."""
    late, done = SqlParticipant(engine, "bank"), SqlParticipant(engine, "bank")
    drive(done.prepare("done"))
    drive(done.commit("done"))
    cluster = cluster_of("done", "late")
    assert recover(cluster, engine, "bank") == {"done": "committed", "late": "aborted"}
    assert cluster.wishes == {"done": "commit", "late": "abort"}
    assert recover(cluster, engine, "bank") == {"done": "committed", "late": "aborted"}
    note(late, 5)
    with pytest.raises(TransactionAborted, match="bank refuses to commit") as caught:
        drive(late.prepare("late"))
    assert caught.value.reason == "veto"
    assert notes(engine) == []


def test_a_commit_whose_answer_is_lost_is_asked_for(engine, monkeypatch):
    """By its row: there, it is committed; not there, it never will be."""
    for committed in (True, False):
        participant = SqlParticipant(engine, "bank")
        transaction = f"t-{committed}"
        drive(participant.prepare(transaction))
        commit = participant.connection.commit

        def lose(commit=commit, committed=committed):
            if committed:
                commit()
            raise sa.exc.OperationalError("commit", {}, Exception("lost"))

        monkeypatch.setattr(participant.connection, "commit", lose)
        if committed:
            drive(participant.commit(transaction))
        else:
            with pytest.raises(TransactionAborted, match="did not commit"):
                drive(participant.commit(transaction))
    assert rows(engine) == {"t-True": "committed", "t-False": "aborted"}


def test_a_database_that_cannot_be_asked_leaves_it_unknown(tmp_path):
    """Neither committed nor aborted is said."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'y.db'}", connect_args={"timeout": 0.05})
    SqlParticipant(engine, "bank")
    with engine.connect() as blocking:
        blocking.execute(sa.text("begin immediate"))
        with pytest.raises(OutcomeUnknown, match="run recover"):
            recover(cluster_of("t"), engine, "bank")
    engine.dispose()


def test_rows_are_pruned_and_names_asked_for(engine):
    """Old rows go; a participant without a name could never be recovered."""
    participant = SqlParticipant(engine, "bank")
    drive(participant.prepare("t1"))
    drive(participant.commit("t1"))
    assert prune(engine, 3600) == 0
    assert prune(engine, -1) == 1
    with pytest.raises(Invalid, match="needs a name"):
        SqlParticipant(engine, "")
