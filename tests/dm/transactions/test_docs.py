"""The examples in the documents of the transaction managers run as they are."""

from __future__ import annotations

import pytest

from tests.guides import printed_by

pytestmark = pytest.mark.real
amino_cluster = {"servers": 1}


@pytest.mark.parametrize(
    ("page", "printed"),
    [("OptimisticTransactions", "4\n"), ("LockingTransactions", "['2a']\n"), ("TwoPhaseCommit", "7 3\n")],
    ids=lambda each: each[:9],
)
def test_the_example_runs(cluster, tmp_path, page, printed):
    """And prints what it should."""
    assert printed_by(f"dm/{page}", cluster.addresses[0], tmp_path) == (printed, "")
