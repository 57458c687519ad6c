"""The image built twice, every layer from nothing: the same files, byte by byte."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.deploy.composed import ROOT, need_containers

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(600)]
GIVEN_BY_DOCKER = ("/proc/", "/sys/", "/dev/", "/etc/hosts", "/etc/hostname", "/etc/resolv.conf", "/.dockerenv")
LOOK = """
import hashlib, json, os, stat
found = {}
for folder, names, files in os.walk("/"):
    names[:] = [one for one in names if os.path.join(folder, one) not in ("/proc", "/sys", "/dev")]
    for name in names + files:
        path = os.path.join(folder, name)
        about = os.lstat(path)
        kind = stat.S_IFMT(about.st_mode)
        content = os.readlink(path) if kind == stat.S_IFLNK else ""
        if kind == stat.S_IFREG:
            with open(path, "rb") as file:
                content = hashlib.sha256(file.read()).hexdigest()
        at = about.st_mtime if path.startswith("/amino/") else 0
        found[path] = [about.st_mode, about.st_uid, about.st_gid, at, content]
print(json.dumps(found))
"""


def built(tag: str) -> dict[str, list[object]]:
    """Build the image anew and return mode, owner, time (of what is Amino's) and content of each file in it."""
    environment = {**os.environ, "PYTHON": sys.executable, "FRESH": "1"}
    build = ["sh", str(ROOT / "deploy" / "docker" / "build.sh"), tag]
    done = subprocess.run(build, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    look = ["docker", "run", "--rm", "--network", "none", "--user", "0", "--entrypoint", "python3", tag, "-c", LOOK]
    try:
        found = subprocess.run(look, capture_output=True, text=True, check=True).stdout
    finally:
        subprocess.run(["docker", "image", "rm", "--force", tag], capture_output=True, check=True)
    listed: dict[str, list[object]] = json.loads(found)
    return {path: about for path, about in listed.items() if not path.startswith(GIVEN_BY_DOCKER)}


def test_two_builds_have_the_same_files():
    """What is in the image follows from the sources and the locked wheels alone, not from when or in which order it was made."""
    need_containers()
    first, second = built("amino-again:first"), built("amino-again:second")
    assert any(path.startswith("/amino/lib/") and path.endswith(".pyc") for path in first)
    assert sorted(first) == sorted(second)
    assert {path: about for path, about in first.items() if about != second[path]} == {}
