"""A cluster in which releases are mixed, of Amino and of the application: rolled forward and back under load."""

from __future__ import annotations

import logging
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.node.child_process import python_environment
from amino.testing import LocalCluster
from bench.callers import Callers
from chaos import releases
from tests.acceptance.figures import Figures
from tests.etcd_fixtures import etcd_binaries
from tests.node.rolling import judge as everywhere
from tests.node.rolling import roll

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(240)]

MODULE = "a_shop_of_releases"
FIRST = """
import amino

class Counter:
    def __init__(self):
        self.value = 0
    def add(self):
        self.value += 1
        return self.value
    @amino.readonly
    def release(self):
        return amino.__file__
"""
SECOND = """
class Counter:
    __amino_version__ = 1
    def __init__(self):
        self.halves = 0
    def add(self):
        self.halves += 2
        return self.halves // 2
    def release(self):
        return "second"
    @classmethod
    def __amino_upgrade__(cls, state, version):
        assert version == 0, version
        return {"halves": state["value"] * 2}
"""
BOTH_WAYS = (
    SECOND
    + """
    @classmethod
    def __amino_downgrade__(cls, state, version):
        return {"value": state["halves"] // 2}
"""
)
OTHER_CLIENT = """
    import sys, amino
    name, *addresses = sys.argv[1:]
    stop = []
    import threading
    threading.Thread(target=lambda: stop.append(sys.stdin.read()), daemon=True).start()
    with amino.connect(*addresses) as cluster:
        counter = cluster.get(name)
        done = 0
        while not stop:
            done += 1
            assert counter.add() == done, (counter, done)
    print(done, amino.__file__)
"""


@pytest.fixture
def shops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """Folders with the releases of an application; the client has the first."""
    folders = {}
    for name, source in {"first": FIRST, "second": SECOND, "both": BOTH_WAYS}.items():
        folders[name] = tmp_path / name
        folders[name].mkdir()
        (folders[name] / f"{MODULE}.py").write_text(source)
    monkeypatch.syspath_prepend(str(folders["first"]))
    monkeypatch.delitem(sys.modules, MODULE, raising=False)
    return folders


def start(shop: Path) -> LocalCluster:
    """Return a cluster whose servers have that release of the application."""
    return LocalCluster(3, app_dirs=[shop], session_ttl_s=3, etcd_binary=etcd_binaries()[0])


def counters(client: amino.Cluster, number: int) -> list[Any]:
    """Make counters, with chains that keep their state in different ways."""
    cls = __import__(MODULE).Counter
    chains: list[list[Any]] = [[], [SerializableRPC()], [AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]]
    return [client.new(amino.spec(cls, name=f"c{each}", dms=chains[each % len(chains)])) for each in range(number)]


def judge(callers: Callers, made: list[Any]) -> None:
    """No call failed while releases were mixed, and each counter has counted every call once."""
    adds = [counter.add for counter in made]
    everywhere(callers, adds, Figures("releases"), "failed calls while releases were mixed")


@pytest.mark.parametrize("name", releases.known())
def test_releases_of_amino_mixed_under_load(
    name: str, tmp_path: Path, shops: dict[str, Path], request: pytest.FixtureRequest
) -> None:
    """Servers become another release one by one and come back, under clients of both; no call fails, no state is lost."""
    other = releases.make(name, tmp_path / "other")
    request.node.user_properties.append(("other release", other.made_of))
    logging.getLogger("amino.tests").warning("the other release: %s", other.made_of)
    with start(shops["first"]) as local, local.connect() as client:
        made = counters(client, 6)
        client.new(amino.spec(__import__(MODULE).Counter, name="of-the-other-client"))
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", textwrap.dedent(OTHER_CLIENT), "of-the-other-client", *local.addresses],
            env=python_environment(other.folder), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            text=True,
        )  # fmt: skip
        with Callers([counter.add for counter in made]) as callers:
            roll(local, release=other.folder)
            homes = {counter.release() for counter in made}
            assert homes == {str(other.folder / "amino" / "__init__.py")}, "the servers do not run the other release"
            roll(local)
            assert {counter.release() for counter in made} == {amino.__file__}
        said, complaints = process.communicate("stop", timeout=30)
        judge(callers, made)
        assert process.returncode == 0, complaints
        done, where = said.split()
        assert int(done) > 10
        assert where.startswith(str(other.folder))


def test_releases_of_an_application_mixed_under_load(shops: dict[str, Path]) -> None:
    """Servers get a class with another form of state one by one and go back; objects move both ways, no call fails."""
    with start(shops["first"]) as local, local.connect() as client:
        made = counters(client, 6)
        with Callers([counter.add for counter in made]) as callers:
            roll(local, app_dirs=[shops["both"]])
            assert {counter.release() for counter in made} == {"second"}
            roll(local, app_dirs=[shops["first"]])
            assert {counter.release() for counter in made} == {amino.__file__}
        judge(callers, made)


def test_a_checkpoint_of_a_later_class_restores_an_earlier_one(shops: dict[str, Path]) -> None:
    """The server with the later class is lost for good; its objects come back where only the earlier class is."""
    with start(shops["first"]) as local, local.connect() as client:
        counter = counters(client, 3)[2]
        home = local.server(home_of(client, "c2"))
        home.drain()
        home.wait_ended()
        home.start(app_dirs=[shops["both"]])
        client.move("c2", home.name)
        assert counter.release() == "second"
        with Callers([counter.add]) as callers:
            assert callers.first_good_after(time.perf_counter(), 10.0) is not None
            home.kill()
            assert callers.first_good_after(time.perf_counter(), 20.0) is not None
        assert counter.release() == amino.__file__
        judge(callers, [counter])


def test_state_goes_to_no_earlier_class_that_cannot_read_it(shops: dict[str, Path]) -> None:
    """Without a downgrade, moves choose a server with the later class, and ``describe`` says why not the other."""
    with start(shops["first"]) as local, local.connect() as client:
        [counter] = counters(client, 1)
        others = [server for server in local.servers.values() if server.name != home_of(client, "c0")]
        for server in others:
            server.drain()
            server.wait_ended()
            server.start(app_dirs=[shops["second"]])
        earlier = home_of(client, "c0")
        client.move("c0")
        assert home_of(client, "c0") != earlier
        with Callers([counter.add]) as callers:
            for _ in range(3):
                client.move("c0")
                assert home_of(client, "c0") != earlier
            with pytest.raises(amino.NoEligibleServer, match=r"state is of version 1 .* declares none"):
                client.move("c0", earlier)
        judge(callers, [counter])
        lines = client.describe("c0").explanation
        assert any(line.startswith(earlier) and "state is of version 1" in line for line in lines), lines


def home_of(client: amino.Cluster, name: str) -> str:
    """Return the server that has a counter."""
    return client.describe(name).groups["/"].replicas[0].server
