"""What a cluster of processes is before it is started."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.clusters.processes import ProcessCluster


def test_a_cluster_that_is_not_started_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The matrix asks what can be broken of clusters that it never starts: no folder is made for their clocks."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    cluster = ProcessCluster(2, devices=1, clocks=True, disk_mib=8)
    assert {Ability.CLOCK, Ability.DEVICES} <= cluster.abilities
    assert cluster.devices == ("d1",)
    assert not list(tmp_path.iterdir())
