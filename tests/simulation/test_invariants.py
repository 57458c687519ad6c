"""Seeds under load and faults: the invariants hold; a seed that once found something stays here by name."""

import logging

import pytest

from amino.testing.simulation.run import run_seed

SAMPLE = range(1, 16)
"""What CI runs of the 500 seeds (`make soak-simulation`)."""


@pytest.fixture(autouse=True)
def _quiet():
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("seed", SAMPLE)
def test_the_invariants_hold(seed):
    """Invariants 1 to 6 and 8 hold for a cluster under load and faults, and at rest nothing is left over."""
    report = run_seed(seed, 120.0)
    assert report.findings == []
    assert report.replies > 200
    assert sum(report.faults.values()) > 10


def test_one_seed_is_one_history():
    """Load, faults and outcomes of a seed are the same in every run, to the last commit."""
    first, second = run_seed(21, 60.0), run_seed(21, 60.0)
    assert (first.trace, first.steps, first.outcomes) == (second.trace, second.steps, second.outcomes)
    assert first.trace != run_seed(22, 60.0).trace
