"""Other releases of Amino, for clusters in which releases are mixed: the one of the previous commit, and a made-up next one.

Owns making a folder that holds another release's package. Leaves running it to ``LocalServer.start(release=...)`` and clusters.
Invariants: no network is used; what a release was made of is said, in the test's id and in ``Release.made_of``.
Failure behaviour: without the previous commit (a shallow clone, no repository) ``known()`` does not name it; the made-up
next release needs the present sources only.
"""

from __future__ import annotations

import ast
import importlib.util
import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import amino

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path(amino.__file__).resolve().parent
NEXT = "next"
MESSAGES = ("contracts/*.py", "rpc/handshake.py", "rpc/system.py")


@dataclass(frozen=True)
class Release:
    """A folder that has the package ``amino`` of another release.

    Args:
        made_of: what it is, in words, for whoever reads a test's output.
    """

    folder: Path
    made_of: str


def known() -> list[str]:
    """Return the releases that can be made here: ``commit-<sha>`` if there is an earlier commit, and ``next``."""
    commit = _previous()
    return [*([f"commit-{commit[:12]}"] if commit else []), NEXT]


def make(name: str, folder: Path) -> Release:
    """Make the release that ``known`` calls ``name``, below ``folder``."""
    return _next(folder) if name == NEXT else _of_commit(name.removeprefix("commit-"), folder)


@cache
def _previous() -> str:
    """Return the newest commit whose package is another than this one, empty if it is not here."""
    if PACKAGE.parent != ROOT:
        return ""  # an installed wheel
    if _git("diff", "--quiet", "HEAD", "--", "amino") is None:  # changes that are not committed yet
        return _git("rev-parse", "HEAD") or ""
    changed = _git("log", "-1", "--format=%H", "--", "amino")
    return (_git("rev-parse", "--verify", "--quiet", f"{changed}^") or "") if changed else ""


def _git(*arguments: str) -> str | None:
    """Return what git says, None if it fails."""
    try:
        done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _of_commit(commit: str, folder: Path) -> Release:
    archive = subprocess.run(["git", "-C", str(ROOT), "archive", commit], capture_output=True, check=True).stdout
    sources, home = folder / "sources", folder / "release"
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(sources, filter="data")
    if importlib.util.find_spec("hatchling") is None:
        shutil.copytree(sources / "amino", home / "amino")
        return Release(
            home, f"the package of commit {commit}, as its wheel has it (no hatchling here to build the wheel)"
        )
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder / "wheel")]
    subprocess.run(command, cwd=sources, check=True, capture_output=True)
    [wheel] = (folder / "wheel").glob("*.whl")
    zipfile.ZipFile(wheel).extractall(home)
    return Release(home, f"{wheel.name}, built from commit {commit}")


def _next(folder: Path) -> Release:
    """A release that changed what releases may change: every message and record has a field more, and sends it always."""
    home = folder / "release"
    shutil.copytree(PACKAGE, home / "amino", ignore=shutil.ignore_patterns("__pycache__"))
    count = 0
    for pattern in MESSAGES:
        for module in sorted((home / "amino").glob(pattern)):
            text, added = _with_more_fields(module.read_text(encoding="utf-8"))
            module.write_text(text, encoding="utf-8")
            count += added
    assert count > 50, "the messages have moved"
    return Release(home, f"the present sources, with a field more in each of {count} messages and records")


def _with_more_fields(source: str) -> tuple[str, int]:
    lines = source.splitlines()
    structs = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and any(ast.unparse(base) == "msgspec.Struct" for base in node.bases)
    ]
    for node in reversed(structs):
        assert node.end_lineno is not None
        lines.insert(node.end_lineno, '    of_the_next_release: str = "news"')
        lines[node.lineno - 1] = lines[node.lineno - 1].replace(", omit_defaults=True", "")
    return "\n".join(lines) + "\n", len(structs)
