"""The examples in the guides to locks, timers and events run as they are."""

from __future__ import annotations

import pytest

from tests.guides import printed_by

pytestmark = pytest.mark.real
amino_cluster = {"servers": 1}


@pytest.mark.parametrize(
    ("page", "printed"), [("locks", "5\n"), ("timers", "1\n"), ("events", "sold {'item': 'tea', 'number': 1}\n")]
)
def test_the_example_runs(cluster, tmp_path, page, printed):
    """And prints what it should."""
    assert printed_by(page, cluster.addresses[0], tmp_path) == (printed, "")
