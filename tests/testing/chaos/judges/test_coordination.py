"""The judge of sessions and epochs: on changes of a simulated cluster, and on planted ones."""

from __future__ import annotations

import msgspec
import pytest

from amino.contracts.documents import GroupDocument, decode, encode
from amino.dm import ConsensusRSM
from amino.testing.chaos.judges.coordination import sessions_and_epochs
from amino.testing.chaos.record import KeyEvent
from tests.testing.chaos.workloads.world import recorded


@pytest.fixture(scope="module")
def changes():
    """What a simulated cluster wrote to etcd while its servers crashed."""
    return recorded("counter", [ConsensusRSM()], seconds=20, crashes=3).events


def test_a_real_run_follows_the_rules(changes):
    """Crashes end sessions, replicas move, epochs rise, and nothing is wrong."""
    verdict = sessions_and_epochs(changes)
    assert verdict.ok, verdict
    assert verdict.figures["ended"] >= 3
    assert verdict.figures["documents"] > 10


def replaced(changes, change):
    """Return the changes with the last one of a group replaced."""
    place = max(place for place, event in enumerate(changes) if event.key.startswith("groups/"))
    event = changes[place]
    document = decode(event.value, GroupDocument, event.key)
    other = msgspec.structs.replace(event, value=encode(change(document)))
    return [*changes[:place], other, *changes[place + 1 :]]


def test_an_epoch_that_goes_back_is_caught(changes):
    """A document of an older epoch breaks invariant 2."""
    verdict = sessions_and_epochs(
        replaced(changes, lambda document: msgspec.structs.replace(document, epoch=document.epoch - 1))
    )
    assert "invariant 2" in verdict.text
    assert not verdict.ok


def test_a_primary_changed_without_an_epoch_is_caught(changes):
    """Another primary in the same epoch breaks invariant 2."""
    verdict = sessions_and_epochs(
        replaced(changes, lambda document: msgspec.structs.replace(document, primary="other"))
    )
    assert "within an epoch" in verdict.text


def test_a_replica_taken_from_a_living_server_is_caught(changes):
    """Leaving out a confirmed replica of a server that holds its key breaks invariant 1."""

    def rob(document):
        return msgspec.structs.replace(document, replicas=(), leftovers=())

    assert "invariant 1" in sessions_and_epochs(replaced(changes, rob)).text


def test_a_living_server_that_is_buried_is_caught(changes):
    """A tombstone of an incarnation that holds its key, and one that comes back from its grave, break invariant 8."""
    last = changes[-1].revision
    server = next(event for event in reversed(changes) if event.key.startswith("servers/") and event.kind == "put")
    grave = KeyEvent(f"tombstones/{server.key.partition('/')[2]}/{server.create_revision}", "put", last + 1, last + 1)
    verdict = sessions_and_epochs([*changes, grave, msgspec.structs.replace(server, revision=last + 2)])
    assert "buried while it held its key" in verdict.text
    assert "which had been buried" in verdict.text


def test_without_a_whole_log_nothing_is_proved(changes):
    """No change, changes out of order, and changes that cannot be read are failures that say so."""
    assert sessions_and_epochs([]).text.startswith("could not judge")
    assert sessions_and_epochs(changes[::-1]).text.startswith("could not judge")
    unreadable = KeyEvent("groups/0/x/", "put", changes[-1].revision + 1, value=b"\xc1")
    assert sessions_and_epochs([*changes, unreadable]).text.startswith("could not judge")


def test_after_a_gap_only_what_is_known_is_judged(changes):
    """What happened while the watch had lost its place is no finding; an epoch that went back over the gap is one."""
    groups = [event for event in changes if event.key.startswith("groups/")]
    last, revision = groups[-1], changes[-1].revision
    document = decode(last.value, GroupDocument, last.key)

    def later(document):
        return msgspec.structs.replace(last, revision=revision + 1, value=encode(document))

    robbed = msgspec.structs.replace(document, replicas=(), leftovers=())
    gap = KeyEvent("", "gap", revision + 1)
    gone = KeyEvent("names/x", "delete", revision + 9)
    assert not sessions_and_epochs([*changes, later(robbed)]).ok
    verdict = sessions_and_epochs([*changes, gap, gone, later(robbed)])
    assert verdict.ok, verdict
    assert verdict.figures["gaps"] == 1
    back = msgspec.structs.replace(document, epoch=document.epoch - 1)
    assert "invariant 2" in sessions_and_epochs([*changes, gap, gone, later(back)]).text
