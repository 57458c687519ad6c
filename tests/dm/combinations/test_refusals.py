"""Every pair of managers is taken, or refused with names, rule and a remedy that works."""

from __future__ import annotations

import re

import pytest

from amino.dm import ConsensusRSM, LoadBalancedMasterSlave, OptimisticTransactions, TwoPhaseCommit
from amino.dm.base import Trait
from amino.dm.registry import builtin
from tests.dm.combinations.stacks import SAMPLE, Stack, example, pairs, refusal, title

REFUSED = [pair for pair in pairs() if refusal(pair)]
RULES = [trait.value for trait in Trait] + [
    "it manages the whole object",
    "each wants to be the one that orders",
    "would restore a shard without which keys it owns",
    "brings back earlier states at one replica",
    "each of them would write the checkpoints of the one object",
]


def _remedies(pair: Stack, said: str) -> list[Stack]:
    """Return the stacks that the remedy in ``said`` names; each must be accepted."""
    first, second = pair
    names = "|".join(builtin())
    if re.search(rf"(?:put|name) {type(second).__name__} first", said):
        return [(second, first)]
    after = re.search(r"put (.*?) after it", said)
    if after is not None:
        kept = [example(name) for name in re.findall(names, after[1])]
        return [(TwoPhaseCommit(), manager) for manager in kept]
    if "can be named once" in said or "name one of them" in said:
        alone: list[Stack] = [(one,) for one in pair]
        return [(*one, ConsensusRSM()) if isinstance(one[0], TwoPhaseCommit) else one for one in alone]
    use = re.search(r"Use (\w+).*? after (\w+)", said)
    if use is not None:
        return [(example(use[2]), example(use[1]))]
    return []


@pytest.mark.parametrize("pair", REFUSED, ids=title)
def test_a_pair_is_refused_with_names_rule_and_a_remedy_that_works(pair: Stack) -> None:
    """The error names what cannot stand together and why, and what it advises is accepted."""
    said = refusal(pair)
    assert {type(one).__name__ for one in pair} & set(re.findall(r"\w+", said)), said
    if TwoPhaseCommit() not in pair or "keeps each call" not in said:  # it is refused whatever the other is
        assert all(type(one).__name__ in said for one in pair), said
    assert any(rule in said for rule in RULES), said
    remedies = _remedies(pair, said)
    assert remedies, f"no remedy in: {said}"
    assert [title(stack) for stack in remedies if refusal(stack)] == [], said


def test_no_two_managers_are_refused_for_nothing() -> None:
    """Beside a manager and itself, every refusal is by a rule between what the two declare; most pairs are taken."""
    distinct = [pair for pair in REFUSED if type(pair[0]) is not type(pair[1])]
    assert len(distinct) < len(pairs()) / 2
    plain = {"AtLeastOnceRPC", "ExplicitMigration", "SerializableRPC"}
    touched = {type(one).__name__ for pair in distinct for one in pair if TwoPhaseCommit() not in pair}
    assert not touched & plain


@pytest.mark.parametrize("stack", SAMPLE, ids=title)
def test_stacks_that_people_use_are_never_refused(stack: Stack) -> None:
    """They are accepted as they stand."""
    assert refusal(stack) == ""


def test_a_master_that_answers_before_its_slaves_keeps_no_promise() -> None:
    """``LoadBalancedMasterSlave(sync=False)`` may lose what was acknowledged, so it is no base for ``TwoPhaseCommit``."""
    assert refusal((TwoPhaseCommit(), LoadBalancedMasterSlave())) == ""
    said = refusal((TwoPhaseCommit(), LoadBalancedMasterSlave(sync=False)))
    assert "nothing in its chain keeps each call" in said


def test_logs_and_replicas_are_refused_in_either_order_with_the_same_remedy() -> None:
    """Undoing a failed call at one replica is not followed by the others, whichever stands first: checkpoints are advised."""
    for pair in (("DurableSerializableRPC", "ConsensusRSM"), ("ConsensusRSM", "DurableTransactions")):
        said = refusal(tuple(map(example, pair)))
        assert "whichever stands first" in said
        assert "Use PeriodicCheckpoint without rollback_on_error after ConsensusRSM" in said
    assert refusal((OptimisticTransactions(), ConsensusRSM(), example("PeriodicCheckpoint"))) == ""
