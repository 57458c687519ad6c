"""What containers are given, without any container: which release a server finds first, and what can be broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from amino.testing.chaos.clusters.containers import ContainerCluster
from amino.testing.chaos.clusters.port import Ability


def test_a_server_finds_what_was_put_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server runs the other release once that was put where it looks first, and its image's once that is gone again."""
    release = tmp_path / "release"
    (release / "amino").mkdir(parents=True)
    (release / "amino" / "__init__.py").write_text("other = True\n", encoding="utf-8")
    cluster = ContainerCluster(2, release=release)
    monkeypatch.setattr(cluster, "_folder", tmp_path / "cluster")
    first = tmp_path / "cluster" / "first" / "s1"
    first.mkdir(parents=True)
    assert not cluster.runs_release("s1")
    cluster._put_first("s1", release)
    assert cluster.runs_release("s1")
    assert (first / "amino" / "__init__.py").read_text(encoding="utf-8") == "other = True\n"
    cluster._put_first("s1", None)
    assert not cluster.runs_release("s1")


def test_what_can_be_broken_follows_from_what_it_is_given() -> None:
    """Upgrades need another release, a full disk one of the store's own."""
    plain = ContainerCluster(2)
    assert Ability.DRAIN in plain.abilities
    assert not {Ability.RELEASES, Ability.DISK} & plain.abilities
    assert Ability.RELEASES in ContainerCluster(2, release=Path("somewhere")).abilities
