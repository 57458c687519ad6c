"""A folder pushed with ``amino app push``: its classes run on servers that never saw it, and survive the loss of one."""

from __future__ import annotations

import subprocess
import sys

import pytest

from amino.testing import LocalCluster

pytestmark = pytest.mark.real

_MODELS = """
class Line:
    def __init__(self, text):
        self.text = text
"""
_LEDGER = """
from pushedshop.models import Line

class Ledger:
    def __init__(self, first):
        self.lines = [Line(first)]
    def add(self, text):
        self.lines.append(Line(text))
        return len(self.lines)
    def texts(self):
        return [line.text for line in self.lines]
    def last(self):
        return self.lines[-1]
    def take(self, line):
        assert type(line) is Line, type(line)
        self.lines.append(line)
    def swap(self, other):
        line = other.last()
        assert type(line) is Line, type(line)
        return line.text
"""


@pytest.fixture
def shop(tmp_path):
    """A source folder with a package of two modules."""
    package = tmp_path / "source" / "pushedshop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(_MODELS)
    (package / "ledger.py").write_text(_LEDGER)
    return package.parent


_MANIFEST = """
apiVersion: amino.run/v1
kind: Microservice
metadata: {name: NAME}
spec:
  class: pushedshop.ledger:Ledger
  code: SHA256
  args: [NAME]
  dms:
    - AtLeastOnceRPC: {}
    - PeriodicCheckpoint: {every: 1}
"""


def _amino(address: str, *arguments: str) -> str:
    command = [sys.executable, "-m", "amino.cli", *arguments, "--address", address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_pushed_folder_runs_and_its_state_survives_a_failover(shop, monkeypatch):
    """State made of the bundle's own classes is restored on another server; nested calls and clients read them too."""
    monkeypatch.syspath_prepend(str(shop))  # the client has the package as plain modules, servers have the bundle only
    with LocalCluster(servers=2) as cluster, cluster.connect() as client:
        address = cluster.addresses[0]
        sha256 = _amino(address, "app", "push", str(shop)).split()[-1]
        for name in ("ledger", "other"):
            manifest = shop / f"{name}.yaml"
            manifest.write_text(_MANIFEST.replace("NAME", name).replace("SHA256", sha256))
            _amino(address, "apply", "-f", str(manifest))
        ledger, other = client.get("ledger"), client.get("other")
        assert ledger.add("b") == 2
        home = client.describe("ledger").groups["/"].replicas[0].server
        cluster.server(home).kill_kernel()
        assert ledger.add("c") == 3
        assert ledger.texts() == ["ledger", "b", "c"]
        assert ledger.swap(other) == "other"
        line = ledger.last()
        assert (type(line).__name__, line.text) == ("Line", "c")
        ledger.take(line)
        assert ledger.texts() == ["ledger", "b", "c", "c"]
