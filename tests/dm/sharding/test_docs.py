"""The example in the document of ``DHT`` runs as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from amino.testing import LocalCluster
from tests.guides import printed_by

pytestmark = pytest.mark.real
amino_cluster = {"servers": 1}


def test_the_example_runs(cluster: LocalCluster, tmp_path: Path) -> None:
    """And prints what it should."""
    assert printed_by("dm/DHT", cluster.addresses[0], tmp_path) == ("2 100\n2 100\n", "")
