"""The examples in the documents of the managers that store state run as they are, and say what they should."""

from __future__ import annotations

from pathlib import Path

import pytest

from amino.testing import LocalCluster
from tests.guides import printed_by

pytestmark = pytest.mark.real
amino_cluster = {"servers": 1}


@pytest.mark.parametrize(
    ("page", "printed"),
    [
        ("DurableSerializableRPC", "70\n"),
        ("DurableTransactions", "3\n"),
        ("ExplicitCheckpoint", "It was a dark horse.\n"),
        ("PeriodicCheckpoint", "10\n"),
    ],
    ids=lambda each: each.strip().replace(" ", "-"),
)
def test_the_example_runs(cluster: LocalCluster, tmp_path: Path, page: str, printed: str) -> None:
    """And prints what it should."""
    assert printed_by(f"dm/{page}", cluster.addresses[0], tmp_path) == (printed, "")
