"""The machine, one decision at a time; whole lives are in the golden traces, everything at once in the simulation."""

from __future__ import annotations

import pytest

from amino.dm.replication import effects as does
from amino.dm.replication.machine import Machine, Role
from amino.dm.replication.messages import Append, Entry, Resigned, SnapshotHeader, SnapshotWanted
from amino.dm.replication.state import PROMISES_MAX
from amino.dm.replication.view import Options, View
from tests.dm.replication.stage import OPTIONS, Stage, group, member


def entries(*indexes, epoch=1, size=1):
    """Return entries of those indexes."""
    return tuple(Entry(epoch, index, b"x" * size) for index in indexes)


def append(sequence, previous, found=(), *, epoch=1, previous_epoch=1, inherited=0, commit=0, sender="r1", to="r2"):
    """Return an append to r2."""
    return Append(
        epoch,
        member(sender),
        member(to),
        sequence,
        previous,
        previous_epoch if previous else 0,
        inherited,
        commit,
        found,
    )


def follower(options=OPTIONS):
    """Return r2 as an in-sync follower of r1 with an empty log."""
    machine = Machine(member("r2"), options, state_at=0)
    assert machine.document(View(1, 1, (member("r1"), member("r2")), "r1", ("r1", "r2")), 0.0) == []
    return machine


def answers(effects):
    """Return the messages sent."""
    return [effect.message for effect in effects if isinstance(effect, does.Send)]


# -- followers


def test_late_and_repeated_appends_change_nothing():
    """An append that comes twice, or after a newer one, truncates nothing and is acknowledged as it was."""
    machine = follower()
    first, second = append(1, 0, entries(1, 2)), append(2, 2, entries(3, 4))
    assert answers(machine.message(first, 0.0))[0].match == 2
    assert answers(machine.message(second, 0.0))[0].match == 4
    assert answers(machine.message(first, 0.0))[0].match == 2
    assert machine.log_end == 4


def test_a_gap_is_not_filled():
    """Entries that do not follow on the log are refused with where it ends."""
    machine = follower()
    machine.message(append(1, 0, entries(1)), 0.0)
    (answer,) = answers(machine.message(append(2, 3, entries(4)), 0.0))
    assert (answer.end, machine.log_end) == (1, 1)


def test_differences_are_truncated():
    """A primary of a newer epoch replaces what is not committed; leftovers beyond its own log go at its first word."""
    machine = follower()
    machine.message(append(1, 0, entries(1, 2, 3), commit=1), 0.0)
    machine.message(append(1, 2, epoch=2, inherited=2, sender="r3"), 0.0)
    assert machine.log_end == 2
    (answer,) = answers(machine.message(append(2, 2, entries(3, epoch=2), epoch=2, inherited=2, sender="r3"), 0.0))
    assert (answer.match, machine.log_end) == (3, 3)
    (answer,) = answers(machine.message(append(3, 3, epoch=3, previous_epoch=1, inherited=3, sender="r4"), 0.0))
    assert answer.end == 1


def test_what_is_committed_is_never_truncated():
    """A primary that lacks a committed entry is a broken promise, which the machine does not survive."""
    machine = follower()
    machine.message(append(1, 0, entries(1, 2), commit=2), 0.0)
    with pytest.raises(AssertionError, match="invariant 3"):
        machine.message(append(1, 1, epoch=2, inherited=1, sender="r3"), 0.0)


def test_only_committed_entries_are_applied_once_in_order():
    """Entries are handed out when the commit index passes them, never twice."""
    machine = follower()
    assert not [e for e in machine.message(append(1, 0, entries(1, 2, 3)), 0.0) if isinstance(e, does.Apply)]
    applied = [e for e in machine.message(append(2, 3, commit=2), 0.0) if isinstance(e, does.Apply)]
    assert applied == [does.Apply(entries(1, 2))]
    assert not [e for e in machine.message(append(2, 3, commit=2), 0.0) if isinstance(e, does.Apply)]


def test_the_commit_index_covers_only_what_is_known_to_be_equal():
    """A commit index beyond the entries that were compared is not believed for those after them."""
    machine = follower()
    machine.message(append(1, 0, entries(1, 2, 3)), 0.0)
    machine.message(append(2, 1, commit=9), 0.0)
    assert machine.commit_index == 1


def test_older_epochs_are_refused():
    """An append or a heartbeat of an older epoch is refused; the append's sender is told the newer one."""
    machine = follower()
    machine.document(View(3, 2, (member("r2"), member("r3")), "r3", ("r2", "r3")), 0.0)
    (answer,) = answers(machine.message(append(1, 0, entries(1)), 0.0))
    assert (answer.epoch, machine.log_end) == (3, 0)
    assert not machine.heartbeat("s1", 1, 1, 0.0)
    assert machine.heartbeat("s3", 1, 3, 0.0)


def test_a_follower_with_too_much_unapplied_takes_no_more():
    """Beyond the byte bound entries are not taken until some are applied; nothing is lost by that."""
    machine = follower(Options(log_bytes_max=100))
    machine.message(append(1, 0, entries(1, 2, size=80), commit=2), 0.0)
    (answer,) = answers(machine.message(append(2, 2, entries(3)), 0.0))
    assert (answer.match, machine.log_end) == (2, 2)
    for index in (1, 2):
        machine.applied(index, 0, 0.0)
    (answer,) = answers(machine.message(append(3, 2, entries(3)), 0.0))
    assert answer.match == 3


def test_before_the_first_document_nothing_is_believed():
    """A machine that has seen no document answers nobody."""
    machine = Machine(member("r2"), OPTIONS, state_at=None)
    assert machine.message(append(1, 0, entries(1)), 0.0) == []
    assert not machine.heartbeat("s1", 1, 1, 0.0)
    assert machine.role is Role.JOINING


def test_a_document_older_than_the_replica_does_not_discard_it():
    """A joiner ignores documents from before it was listed, and obeys those after that do not list it any more."""
    machine = Machine(member("r2"), OPTIONS, state_at=None)
    assert machine.document(View(1, 4, (member("r1"),), "r1", ("r1",)), 0.0) == []
    assert machine.document(View(1, 5, (member("r1"), member("r2")), "r1", ("r1",)), 0.0) == []
    (effect,) = machine.document(View(1, 6, (member("r1"),), "r1", ("r1",)), 0.0)
    assert isinstance(effect, does.Discard)
    assert machine.role is Role.DISCARDED
    assert machine.tick(1.0) == machine.message(append(1, 0), 1.0) == []


def test_promises_are_forgotten_when_they_have_ended():
    """However many primaries there were, few promises are kept, and never one that still holds is dropped."""
    machine = follower()
    for number in range(3 * PROMISES_MAX):
        assert machine.heartbeat(f"s{number}", 1, 1, float(number))
    promised = machine._state.promised
    assert len(promised) <= PROMISES_MAX
    assert ("s47", 1, 1) in promised


def test_a_joiner_keeps_what_its_server_may_have_promised_before():
    """An earlier replica of the group on its server may have given a lease: who joined just now waits it out too."""
    stage = Stage(View(1, 1, (member("r1"), member("r2")), "r1", ("r1",)), state_at={"r1": 0})
    stage.show("r1", "r2")
    stage.talk()
    stage.rewrite(epoch=2, primary="r2", in_sync=("r2",), replicas=(member("r2"),))
    stage.show("r2")
    for now, role in ((10.5, Role.TAKING_OVER), (10.51, Role.PRIMARY)):
        stage.at(now)
        stage.do("r2", "tick")
        assert stage.machines["r2"].role is role


def test_a_joiner_that_promised_nothing_is_no_heir_while_the_old_primary_may_read():
    """Who takes over, and cannot serve yet, adds no joiner: if it died, the joiner would serve at once, beside the old primary."""
    stage = Stage(View(1, 1, tuple(map(member, ("r1", "r2", "r3"))), "r1", ("r1", "r2")), state_at={"r1": 0, "r2": 0})
    stage.show("r1", "r2", "r3")
    stage.talk()
    stage.at(11.0)
    stage.beat("r1", "r2")
    stage.say("r1 is cut off from all but its clients, and was from r3 for long")
    stage.rewrite(epoch=2, primary="r2", in_sync=("r2",), replicas=(member("r2"), member("r3")))
    stage.show("r2", "r3")
    stage.talk("r2", "r3")
    for now, adds in ((11.01, False), (11.5, False), (11.51, True)):
        stage.at(now)
        stage.beat("r2", "r3")
        stage.do("r2", "tick")
        assert (stage.edit is not None) is adds
        assert (stage.do("r1", "may_read", 0) is None) is (now < 11.5)


def test_who_resigns_releases_what_was_promised_to_that_primacy_only():
    """What its server was promised in another epoch, by whichever replica, still has to be waited for; twice does no harm."""
    machine = follower()
    for epoch in (1, 3):
        assert machine.heartbeat("s1", 1, epoch, 10.0)
    resigned = Resigned(4, member("r1"), 1)
    for _ in range(2):
        assert machine.message(resigned, 10.1) == []
    assert list(machine._state.promised) == [("s1", 1, 3)]
    assert not machine.heartbeat("s1", 1, 3, 10.1)  # of before the document that it has seen
    assert machine._state.free_at() > 10.5


def test_a_primary_that_is_listed_no_more_resigns_before_it_is_discarded():
    """Taken out of the group, it still tells its successor; without a successor it tells nobody."""
    for primary, told in (("r2", [Resigned(2, member("r1"), 1)]), ("", [])):
        stage = group("r1", "r2")
        effects = stage.machines["r1"].document(View(2, 2, (member("r2"),), primary, ("r2",)), 10.1)
        assert isinstance(effects[0], does.Deposed)
        assert isinstance(effects[-1], does.Discard)
        assert [(one.to, one.message) for one in effects[1:-1]] == [(member("r2"), one) for one in told]


def test_a_primary_that_stops_resigns_to_all():
    """Who leaves its server in good order need not have seen who follows; it answers nothing then, and a later document counts."""
    stage = group("r1", "r2", "r3")
    machine = stage.machines["r1"]
    sent = [(one.to, one.message) for one in machine.stop()]
    assert sent == [(member(other), Resigned(2, member("r1"), 1)) for other in ("r2", "r3")]
    assert machine.may_read(0, 10.0) is machine.may_write() is not None
    assert machine.stop() == stage.machines["r2"].stop() == []
    assert stage.machines["r2"].message(sent[0][1], 10.1) == []
    promoted_view = View(2, 2, (member("r2"), member("r3")), "r2", ("r2",))
    assert does.Serving(2) in stage.machines["r2"].document(promoted_view, 10.1)
    machine.document(View(3, 3, (member("r1"), member("r2")), "r1", ("r1",)), 10.2)
    assert machine.role is Role.PRIMARY


def test_a_primary_hurries_while_somebody_joins():
    """Calls may wait for that: in a group below its minimum, nothing else makes it tick sooner than four times a second."""
    stage = Stage(View(1, 1, (member("r1"), member("r2")), "r1", ("r1", "r2")), state_at={"r1": 0, "r2": 0})
    stage.show("r1", "r2")
    stage.talk()
    stage.beat("r1", "r2")
    assert (stage.machines["r1"].role, stage.machines["r1"].hurried) == (Role.PRIMARY, False)
    assert not stage.machines["r2"].hurried
    stage.rewrite(replicas=(member("r1"), member("r2"), member("r3")))
    stage.show("r1")
    assert stage.machines["r1"].hurried
    stage.rewrite(in_sync=("r1", "r2", "r3"))
    stage.show("r1")
    assert not stage.machines["r1"].hurried


# -- snapshots


def test_a_snapshot_of_another_time_is_not_wanted():
    """A snapshot for another incarnation, of an older epoch, or behind the state is dropped."""
    machine = follower()
    machine.message(append(1, 0, entries(1, 2), commit=2), 0.0)
    for index in (1, 2):
        machine.applied(index, 0, 0.0)
    r1 = member("r1")
    for header in (
        SnapshotHeader(1, r1, member("r2"), 2, 1),
        SnapshotHeader(0, r1, member("r2"), 9, 0),
        SnapshotHeader(1, r1, member("r2", 2), 9, 1),
    ):
        assert machine.snapshot_arrived(header, 0.0) == []


def test_a_snapshot_replaces_a_log_that_is_behind_and_keeps_one_that_is_ahead():
    """After it is installed the log goes on from the snapshot, with the entries that follow it if they are there."""
    for have, end in (((1, 2, 3), 3), ((), 2)):
        machine = follower()
        machine.message(append(1, 0, entries(*have)), 0.0)
        header = SnapshotHeader(1, member("r1"), member("r2"), 2, 1)
        assert machine.snapshot_arrived(header, 0.0) == [does.Install(header)]
        assert machine.snapshot_arrived(header, 0.0) == []
        machine.installed(header, 0.0)
        assert (machine.log_end, machine.applied_index, machine.commit_index) == (end, 2, 2)


def test_a_diverged_replica_keeps_asking():
    """Until a snapshot comes, it asks for one at every tick, acknowledges entries and applies none."""
    machine = follower()
    machine.message(append(1, 0, entries(1), commit=1), 0.0)
    effects = machine.applied(1, 99, 0.0)
    assert does.Diverged(1, 0, 99) in effects
    assert isinstance(answers(effects)[0], SnapshotWanted)
    assert isinstance(answers(machine.tick(1.0))[0], SnapshotWanted)
    (acknowledged,) = machine.message(append(2, 1, entries(2), commit=2), 0.0)
    assert acknowledged.message.match == 2


def test_a_replica_behind_the_log_gets_a_snapshot():
    """A replica whose next entry is no longer kept gets a snapshot, and entries from there."""
    stage = group("r1", "r2")
    stage.machines["r1"]._state.options = Options(snapshot_every=1, log_bytes_max=50)
    stage.rewrite(replicas=(*stage.view.replicas, member("r3")))
    stage.enter(member("r3"), 0)
    stage.show("r1", "r3")
    stage.lose("r1", "r3")
    for number in range(40):
        stage.write("r1", f"entry {number}")
        stage.talk("r1", "r2")
    stage.lose("r1", "r3")
    stage.at(10.2)
    stage.do("r1", "tick")
    stage.talk()
    assert stage.did("r3", does.Install)
    assert stage.machines["r3"].applied_index == 40


# -- primaries


def test_calls_that_wait_too_long_end_as_unknown_and_no_more_are_let_in():
    """After append_timeout_s the caller is told; new writes are refused until the entry is committed after all."""
    stage = group("r1", "r2")
    stage.write("r1", "one")
    stage.at(10.49)
    stage.do("r1", "tick")
    assert not stage.did("r1", does.TimedOut)
    stage.at(10.5)
    stage.do("r1", "tick")
    assert stage.did("r1", does.TimedOut) == [does.TimedOut(1)]
    assert stage.machines["r1"].may_write() is not None
    stage.talk()
    stage.beat("r1", "r2")
    stage.do("r1", "tick")
    assert stage.acknowledged("r1") == 1
    assert stage.machines["r1"].may_write() is None


def test_batches_accumulate_while_one_is_under_way():
    """What is executed meanwhile goes as one batch once the last one is acknowledged."""
    stage = group("r1", "r2")
    for text in ("one", "two", "three", "four"):
        stage.write("r1", text)
    assert len(stage.under_way["r1", "r2"]) == 1
    stage.deliver("r1", "r2")
    stage.deliver("r2", "r1")
    (batch,) = stage.under_way["r1", "r2"]
    assert [entry.index for entry in batch.entries] == [2, 3, 4]


def test_writes_are_refused_while_too_much_is_uncommitted():
    """The log of what is not committed is bounded too."""
    stage = group("r1", "r2")
    stage.machines["r1"]._state.options = Options(log_bytes_max=3)
    stage.write("r1", "four")
    assert "not yet committed" in stage.machines["r1"].may_write()


def test_nobody_but_a_serving_primary_takes_calls():
    """A follower, and a machine that is no primary any more, refuse writes and reads; what ran has no index."""
    stage = group("r1", "r2")
    assert stage.machines["r2"].may_write() == stage.machines["r2"].may_read(0, 10.0) == "not the primary"
    assert stage.machines["r2"].executed(b"x", 0, 10.0) == (None, [])
    stage.rewrite(epoch=2, primary="r2")
    stage.show("r1")
    assert stage.machines["r1"].role is Role.DEPOSED
    assert stage.machines["r1"].executed(b"x", 0, 10.0) == (None, [])
    assert stage.did("r1", does.Deposed) == [does.Deposed(2)]


def test_reads_wait_for_what_was_executed_before_them():
    """A read of a state that holds an uncommitted entry is not answered."""
    stage = group("r1", "r2")
    stage.write("r1", "one")
    assert "not committed" in stage.machines["r1"].may_read(1, 10.0)
    stage.talk()
    assert stage.machines["r1"].may_read(1, 10.0) is None
    assert "s2" in stage.machines["r1"].may_read(1, 10.5)


def test_a_heartbeat_of_another_incarnation_gives_no_lease():
    """An acknowledgement counts for the incarnation that the document lists."""
    stage = group("r1", "r2")
    stage.do("r1", "peer_acknowledged", "s2", 2, 11.0)
    assert stage.machines["r1"].may_read(0, 10.6) is not None
    stage.do("r1", "peer_acknowledged", "s2", 1, 10.6)
    assert stage.machines["r1"].may_read(0, 10.6) is None


def test_an_idle_group_notices_a_silent_member():
    """Without any write, a member whose server acknowledges no heartbeat is taken out, so that reads go on."""
    stage = group("r1", "r2", "r3")
    stage.at(10.45)
    stage.beat("r1", "r2")
    stage.at(10.55)
    stage.do("r1", "tick")
    assert stage.edit is not None
    assert stage.edit.in_sync == ("r1", "r2")


def test_one_edit_at_a_time_and_again_after_a_pause():
    """While an edit is under way none is asked for; after an unknown outcome it is repeated, a little later."""
    stage = group("r1", "r2", "r3")
    stage.do("r1", "server_lost", "s3", 1, proven=False)
    stage.do("r1", "tick")
    stage.do("r1", "tick")
    assert len(stage.did("r1", does.Edit)) == 1
    stage.do("r1", "edit_unknown")
    stage.do("r1", "tick")
    assert len(stage.did("r1", does.Edit)) == 1
    stage.at(10.11)
    stage.do("r1", "tick")
    assert stage.did("r1", does.Edit) == [does.Edit(("r1", "r2"), 1, 1)] * 2


def test_a_wrong_hint_is_taken_back():
    """A server that a list missed, and that acknowledges a heartbeat later, is not lost any more."""
    stage = group("r1", "r2", "r3")
    stage.do("r1", "server_lost", "s3", 1, proven=False)
    stage.beat("r1", "r2", "r3")
    stage.do("r1", "tick")
    assert stage.edit is None


def test_an_unsettled_edit_is_settled_even_if_it_is_no_longer_wanted():
    """When the silent member answers again before the outcome is known, an edit with the old set settles the matter."""
    stage = group("r1", "r2", "r3")
    stage.do("r1", "server_lost", "s3", 1, proven=False)
    stage.do("r1", "tick")
    stage.do("r1", "edit_unknown")
    stage.beat("r1", "r2", "r3")
    stage.at(10.2)
    stage.do("r1", "tick")
    assert stage.did("r1", does.Edit)[-1].in_sync == ("r1", "r2", "r3")
    stage.land(answered="r1")
    stage.at(10.4)
    stage.beat("r1", "r2", "r3")
    stage.do("r1", "tick")
    assert len(stage.did("r1", does.Edit)) == 2


def test_below_the_least_number_writes_wait_and_the_slot_leader_hears_of_it():
    """A primary alone serves reads, refuses writes, and reports once a second."""
    stage = Stage(View(1, 1, (member("r1"),), "r1", ("r1",)), state_at={"r1": 0})
    stage.show("r1")
    assert stage.machines["r1"].may_read(0, 10.0) is None
    assert "min_in_sync=2" in stage.machines["r1"].may_write()
    for tenth in range(31):
        stage.at(10 + tenth / 10)
        stage.do("r1", "tick")
    reports = stage.did("r1", does.Report)
    assert [report.kind for report in reports] == ["short"] * 3


def test_a_snapshot_leaves_only_when_it_is_committed():
    """A snapshot that holds uncommitted entries is kept back until they are committed."""
    stage = group("r1", "r2")
    stage.rewrite(replicas=(*stage.view.replicas, member("r3")))
    stage.enter(member("r3"), None)
    stage.show("r1", "r3")
    stage.write("r1", "one")
    stage.talk("r1", "r3")
    assert stage.did("r1", does.TakeSnapshot)
    assert not stage.did("r1", does.SendSnapshot)
    stage.talk()
    assert [effect.header.index for effect in stage.did("r1", does.SendSnapshot)] == [1]
    assert stage.machines["r3"].applied_index == 1


def test_a_snapshot_that_cannot_be_taken_is_tried_again():
    """When taking or sending fails the joiner is asked again, and asks again."""
    stage = group("r1", "r2")
    stage.rewrite(replicas=(*stage.view.replicas, member("r3")))
    stage.enter(member("r3"), None)
    stage.show("r1", "r3")
    stage.deliver("r1", "r3")
    wanted = stage.under_way["r3", "r1"].popleft()
    machine = stage.machines["r1"]
    assert machine.message(wanted, 10.0) == [does.TakeSnapshot(member("r3"))]
    assert machine.message(wanted, 10.0) == []
    (probe,) = machine.snapshot_ended(member("r3"), 10.0)
    assert isinstance(probe.message, Append)
    assert machine.snapshot_ended(member("r3"), 10.0) == []
    assert machine.snapshot_taken(member("r3"), 0, 10.0) == []


def test_a_role_is_shown():
    """The representation says who it is, as what, and how far."""
    stage = group("r1", "r2")
    assert repr(stage.machines["r1"]) == "<r1@s1.1 primary epoch 1 commit 0 of 0>"
    assert stage.machines["r2"].role is Role.FOLLOWER
