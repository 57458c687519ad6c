"""What may change on a running microservice, and its document at each step."""

from __future__ import annotations

import pytest

from amino.contracts.documents import DmSpec, GroupDocument, MicroserviceSpec, Phase, Placement, ReplicaDocument
from amino.contracts.levels import Level
from amino.errors import Invalid
from amino.oms import change_machine, group_machine
from amino.oms.group_machine import Instantiate, Retire, View, Write

SPEC = MicroserviceSpec("shop:Cart", name="cart", dms=(DmSpec("SerializableRPC"),), labels={"tier": "a"})
THREE = (Level("ConsensusRSM", 0, "replicated", 3, 2),)


def changed(**fields):
    """Return the plan for ``SPEC`` with other fields."""
    return change_machine.plan(
        SPEC, MicroserviceSpec(**{**{f: getattr(SPEC, f) for f in SPEC.__struct_fields__}, **fields})
    )


def replica(name="r1", server="s1", **fields):
    """Return a confirmed replica."""
    return ReplicaDocument(name, server, 7, **{"confirmed": True, **fields})


def single(**fields):
    """Return the document of one replica that serves."""
    return GroupDocument(phase=Phase.ACTIVE, epoch=4, replicas=(replica(),), constructed=True, **fields)


def group(**fields):
    """Return the document of three replicas, the second one primary."""
    three = tuple(replica(f"r{n}", f"s{n}") for n in (1, 2, 3))
    return GroupDocument(
        phase=Phase.ACTIVE, epoch=4, replicas=three, primary="r2", in_sync=("r1", "r2", "r3"), constructed=True,
        kind="replicated", wanted=3, min_in_sync=2, **fields,
    )  # fmt: skip


def view(*servers):
    """Return a view in which ``servers`` live."""
    return View("m1", dict.fromkeys(servers, 7), recovery="checkpoint")


def test_nothing_differs():
    """An equal spec changes nothing."""
    assert changed() == change_machine.Plan(())


def test_differences_are_told_in_words():
    """Each difference is a line; managers and code need the replica built again, the rest does not."""
    plan = changed(dms=(DmSpec("PeriodicCheckpoint", {"every": 1}),), code="ab" * 32)
    assert plan.changes == (
        "dms: [SerializableRPC] -> [PeriodicCheckpoint(every=1)]",
        "code: by import path -> abababababab",
    )
    assert plan.rebuild
    plan = changed(on_loss="recreate", labels={}, placement=Placement(spread=("rack",)))
    assert plan.changes == ("placement", "onLoss: fail -> recreate", "labels: tier=a -> none")
    assert not plan.rebuild


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"cls": "shop:Order"}, "the class of a running microservice cannot change from 'shop:Cart' to 'shop:Order'"),
        ({"name": "basket"}, "the name of a running"),
        ({"application": "shop"}, "the application of a running"),
    ],
)
def test_what_cannot_change_is_refused_with_the_remedy(fields, said):
    """Class, name and application stay."""
    with pytest.raises(Invalid, match=said):
        changed(**fields)


def test_one_replica_becomes_a_group():
    """It is the primary and alone in sync; the rest join it, as in any group that lacks replicas."""
    after = change_machine.changed(change_machine.intended(single()), THREE, "store")
    assert (after.kind, after.wanted, after.min_in_sync, after.primary, after.in_sync) == (
        "replicated", 3, 2, "r1", ("r1",),
    )  # fmt: skip
    assert (after.epoch, after.generation, after.changing, after.store_id) == (5, 1, False, "store")
    assert isinstance(group_machine.next_step(after, view("s1", "s2", "s3")), group_machine.Add)


def test_a_group_becomes_one_replica():
    """The primary stays; the others are dropped from their servers."""
    after = change_machine.changed(change_machine.intended(group()), (), "")
    assert [one.id for one in after.replicas] == ["r2"]
    assert (after.kind, after.primary, after.in_sync, after.epoch) == ("", "", (), 5)
    step = group_machine.next_step(after, view("s1", "s2", "s3"))
    assert isinstance(step, Retire)
    assert [one.id for one in step.replicas] == ["r1", "r3"]


@pytest.mark.parametrize("document", [single(), group()], ids=["single", "group"])
def test_a_change_that_nobody_carries_on_is_given_up(document):
    """Whoever looks next raises the epoch and has the replica resume; the rest of the group is left alone."""
    intended = change_machine.intended(document)
    assert group_machine.state_of(intended) == "changing"
    step = group_machine.next_step(intended, view("s1", "s2", "s3"))
    assert isinstance(step, Write)
    back = step.document
    assert (back.changing, back.epoch, back.generation) == (False, 5, 0)
    resume = group_machine.next_step(back, view("s1", "s2", "s3"))
    assert isinstance(resume, Instantiate)
    assert (resume.replica.id, resume.source) == (change_machine.keeper(document).id, "resume")
    assert len(back.replicas) == len(document.replicas)


def test_a_change_whose_server_is_lost_is_given_up_and_recovered_from():
    """The intent goes first, then the group recovers as it would have."""
    step = group_machine.next_step(change_machine.intended(single()), view("s2"))
    assert isinstance(step, Write)
    step = group_machine.next_step(step.document, view("s2"))
    assert isinstance(step, group_machine.Place)
    assert step.source == "checkpoint"


def test_a_change_of_the_record_alone_keeps_the_epoch():
    """Calls under way are not disturbed."""
    after = change_machine.noted(single())
    assert (after.epoch, after.generation) == (4, 1)


SHARDS = (Level("DHT", 0, "shards", 3), Level("ConsensusRSM", 1, "replicated", 2, 1))


def test_a_group_becomes_the_first_shard():
    """Its primary is shard 0, which owns everything; the shards that are wanted beside it are then made and filled."""
    root = change_machine.intended(group())
    where = change_machine.paths(root, SHARDS)
    after = change_machine.documents(root, root, where, SHARDS, "")
    above, shard = after["/"], after["/0"]
    assert (above.kind, above.children, above.wanted, above.replicas, above.epoch, above.generation) == (
        "shards", ("0",), 3, (), 5, 1,
    )  # fmt: skip
    assert [one.id for one in above.leftovers] == ["r1", "r3"]
    assert (shard.kind, shard.primary, shard.in_sync, shard.wanted, shard.epoch, shard.leftovers) == (
        "replicated", "r2", ("r2",), 2, 5, (),
    )  # fmt: skip
    assert not above.changing
    assert not shard.changing


def test_the_last_shard_becomes_the_root():
    """At an epoch above both, so that no call of before is taken; the shard's document goes."""
    root = GroupDocument(phase=Phase.ACTIVE, epoch=9, kind="shards", children=("4",), constructed=True, generation=2)
    shard = change_machine.intended(single())
    after = change_machine.documents(root, shard, change_machine.paths(root, ()), (), "")
    assert after["/4"] is None
    assert (after["/"].epoch, after["/"].generation, after["/"].kind, after["/"].children) == (10, 3, "", ())


def test_a_shard_changes_its_inner_managers():
    """It stays where it is; the root notes the generation and how many shards are wanted."""
    root = GroupDocument(phase=Phase.ACTIVE, epoch=9, kind="shards", children=("4",), wanted=1, constructed=True)
    after = change_machine.documents(root, group(), change_machine.paths(root, SHARDS), SHARDS, "")
    assert after.keys() == {"/", "/4"}
    assert (after["/"].epoch, after["/"].wanted, after["/"].children, after["/"].generation) == (9, 3, ("4",), 1)
    assert (after["/4"].epoch, after["/4"].wanted) == (5, 2)


def test_numbers_of_shards_and_replicas_are_scaled():
    """Nothing is built again for them."""
    before = MicroserviceSpec("shop:Cart", dms=(DmSpec("DHT", {"shards": 2}), DmSpec("ConsensusRSM")))
    after = MicroserviceSpec("shop:Cart", dms=(DmSpec("DHT"), DmSpec("ConsensusRSM", {"replicas": 5})))
    plan = change_machine.plan(before, after)
    assert (plan.rebuild, plan.counts) == (False, True)
