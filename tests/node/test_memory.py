"""How much memory there is: of a container with a limit of its own, what is left of that."""

from __future__ import annotations

from pathlib import Path

import pytest

from amino.node.memory import available_memory


def group(folder: Path, **files: str) -> None:
    """Write the files of a control group; ``_`` stands for ``.``."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("memory_", "memory.", 1)).write_text(content, encoding="utf-8")


def own(folder: Path, *lines: str) -> Path:
    """Write what the system says of a process's control groups."""
    file = folder / "own"
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return file


def test_a_container_is_short_of_its_own_limit(tmp_path: Path) -> None:
    """Nearly all of a container's limit is used: memory is short, however much the machine has; cached files do not count."""
    groups = tmp_path / "groups"
    group(groups, memory_max="1000\n", memory_current="980\n", memory_stat="anon 970\ninactive_file 10\n")
    mine = own(tmp_path, "0::/")
    assert available_memory(groups, mine) == pytest.approx(0.03)
    group(groups, memory_current="500\n", memory_stat="inactive_file 100\n")
    assert available_memory(groups, mine) <= 0.6


def test_the_tightest_group_above_counts(tmp_path: Path) -> None:
    """A group without a limit is limited by the one above it; so it is in the first version of control groups."""
    groups = tmp_path / "groups"
    group(groups / "slice" / "service", memory_max="max\n", memory_current="10\n")
    group(groups / "slice", memory_max="1000\n", memory_current="960\n", memory_stat="")
    assert available_memory(groups, own(tmp_path, "0::/slice/service")) == pytest.approx(0.04)
    first = tmp_path / "first"
    group(
        first / "memory" / "box",
        memory_limit_in_bytes="1000\n",
        memory_usage_in_bytes="990\n",
        memory_stat="inactive_file 0\ntotal_inactive_file 20\n",
    )
    group(first / "memory", memory_limit_in_bytes="9223372036854771712\n", memory_usage_in_bytes="5000\n")
    assert available_memory(first, own(tmp_path, "5:cpu:/box", "4:memory:/box", "0::/")) == pytest.approx(0.03)


def test_what_cannot_be_read_limits_nothing(tmp_path: Path) -> None:
    """Without control groups, or with a limit beyond the machine, the machine's memory counts."""
    assert 0.0 < available_memory(tmp_path / "none", tmp_path / "neither") <= 1.0
    groups = tmp_path / "groups"
    group(groups, memory_max=f"{1 << 62}\n", memory_current=f"{(1 << 62) - 1}\n")
    assert available_memory(groups, own(tmp_path, "0::/")) > 0.0
    assert 0.0 < available_memory() <= 1.0
