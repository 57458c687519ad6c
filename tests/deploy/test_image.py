"""What the image is made of: locked, by hash, and fit for what Amino says it needs. Building it is for machines with Docker."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCK = (ROOT / "deploy" / "docker" / "requirements.lock").read_text()
LINUX = {"platform_system": "Linux", "platform_python_implementation": "CPython", "python_version": "3.11", "extra": ""}


def locked():
    """Return the locked version of each package."""
    pairs = re.findall(r"^([A-Za-z0-9._-]+)==([^ ]+)", LOCK, re.MULTILINE)
    assert len(pairs) == len(dict(pairs))
    return {name.lower(): version for name, version in pairs}


def test_the_lock_fits_what_amino_needs():
    """Every dependency, and those of the extras that the image has, is locked at a version within its range."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    versions = locked()
    for text in [*project["dependencies"], *extras["s3"], *extras["operator"]]:
        wanted = Requirement(text)
        if wanted.marker is None or wanted.marker.evaluate(LINUX):
            assert wanted.name.lower() in versions, text
            assert wanted.specifier.contains(versions[wanted.name.lower()]), text


def test_every_file_is_known_by_its_hash():
    """No package is locked without the hashes of its files, and none comes from an address of its own."""
    entries = re.split(r"^(?=[A-Za-z0-9._-]+==)", LOCK, flags=re.MULTILINE)[1:]
    assert len(entries) == len(locked())
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "://" not in LOCK
