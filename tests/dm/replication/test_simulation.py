"""The simulated group: promises kept under every kind of fault, and broken when a rule is removed.

``AMINO_SEEDS=5000`` runs that many seeds instead of a sample; so does ``python -m tests.dm.replication.simulation``.
"""

from __future__ import annotations

import os
from itertools import count

import pytest

from amino.dm.replication.view import ALL_RULES
from tests.dm.replication.oracle import Oracle, Violation
from tests.dm.replication.simulation import PROFILES, REMOVED, Removed, run, without

SEEDS = int(os.environ.get("AMINO_SEEDS", "40"))
SEARCHED_MAX = 600


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.timeout(3600)
def test_promises_are_kept(profile):
    """No acknowledged write is lost, logs agree, reads are linearizable, and the group recovers once it is healed."""
    done = {"writes": 0, "reads": 0, "takeovers": 0, "lost": 0}
    for seed in range(SEEDS):
        world = run(seed, profile)
        done["writes"] += world.oracle.writes
        done["reads"] += world.oracle.reads
        done["takeovers"] += world.takeovers
        done["lost"] += world.lost
    assert done["writes"] > 5 * SEEDS
    assert done["reads"] > 20 * SEEDS
    assert done["takeovers"] > 2 * SEEDS
    assert done["lost"] < 0.1 * SEEDS


@pytest.mark.parametrize("removed", REMOVED, ids=lambda removed: removed.rule)
def test_a_removed_rule_is_missed(removed: Removed):
    """Without the rule a seed breaks a promise; with all rules the same seed breaks none."""
    for seed in count(removed.seed):
        assert seed < removed.seed + SEARCHED_MAX, "no seed misses the rule any more"
        try:
            run(seed, removed.profile, without(removed.rule))
        except AssertionError as error:
            if "did not recover" in str(error):
                continue
            break
    run(seed, removed.profile)


def test_one_seed_is_one_run():
    """The same seed does the same again."""
    first, again = run(7), run(7)
    assert (first.now, first.oracle.truth) == (again.now, again.oracle.truth)


def test_every_rule_is_removed():
    """No rule is there that the simulation does not need."""
    assert {removed.rule for removed in REMOVED} == set(ALL_RULES.__dataclass_fields__)


@pytest.mark.parametrize(
    "break_it",
    [
        lambda oracle, call: oracle.committed("r", 1, 1, b"other"),
        lambda oracle, call: oracle.committed("r", 3, 1, b"gap"),
        lambda oracle, call: oracle.wrote(call, 1, (1, 5)),
        lambda oracle, call: oracle.wrote(oracle.began(b"a", "write"), 2, oracle.states[1]),
        lambda oracle, call: oracle.read(call, 1, (0, 0)),
        lambda oracle, call: oracle.read(call, 2, (1, 5)),
        lambda oracle, call: oracle.read(oracle.began(b"c", "read"), 1, oracle.states[1]),
    ],
)
def test_the_oracle_sees(break_it):
    """Each kind of broken promise is noticed by what judges the simulation."""
    oracle = Oracle()
    oracle.committed("r", 1, 1, b"a")
    oracle.wrote(oracle.began(b"a", "write"), 2, oracle.states[1])
    with pytest.raises(Violation):
        break_it(oracle, oracle.began(b"b", "read"))
