"""The dashboard of a real cluster: what servers of flesh and blood do is what the page shows."""

import asyncio
import contextlib
import re
import threading
import time

import pytest

import amino
from amino.cli import application
from amino.config import DashboardConfig
from amino.dm import AtLeastOnceRPC, ConsensusRSM, ExplicitCheckpoint, PeriodicCheckpoint
from amino.testing import LocalCluster
from tests.dashboard.browser import browsing, find_browser
from tests.dashboard.conftest import PATIENCE_S, TOKEN, Asker, Looker
from tests.node.conftest import grpc_poller, node_etcd
from tests.node.counter import Counter

__all__ = ["grpc_poller", "node_etcd"]
pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(180),
    pytest.mark.keeps(
        "the module's cluster starts processes again in the middle of a test, and ends them with the module"
    ),
]
HERE = __file__.rpartition("tests")[0]


class Url:
    """Stands for a dashboard in another process."""

    def __init__(self, url):
        self.url = url


@pytest.fixture(scope="module")
def local(node_etcd):
    with LocalCluster(
        3, etcd_endpoints=node_etcd.endpoints, app_dirs=[HERE], cluster="seen", session_ttl_s=2,
        dashboard=DashboardConfig("127.0.0.1:0", TOKEN),
    ) as running:  # fmt: skip
        yield running


@pytest.fixture(scope="module")
def url(local):
    """Where the dashboard of the first server is; it says so in its log."""
    return re.search(r"the dashboard is at (\S+)", local.server("s1").log_path.read_text())[1]


@pytest.fixture
def asker(url):
    return Asker(Url(url))


@pytest.fixture
def client(local):
    with local.connect() as connected:
        yield connected


@pytest.fixture
def three(client):
    """A counter with checkpoints on demand, one with a checkpoint each call, one on three servers; deleted after."""
    suffix = f"{time.monotonic_ns() % 10**9}"
    chains = {
        f"told-{suffix}": [AtLeastOnceRPC(), ExplicitCheckpoint()],
        f"safe-{suffix}": [AtLeastOnceRPC(), PeriodicCheckpoint(every=1)],
        f"group-{suffix}": [AtLeastOnceRPC(), ConsensusRSM()],
    }
    stubs = {name: client.new(amino.spec(Counter, name=name, dms=dms)) for name, dms in chains.items()}
    for stub in stubs.values():
        assert stub.add() == 1
    yield stubs
    for name in stubs:
        with contextlib.suppress(amino.NotFound):
            client.delete(name)


async def row_of(looker, name, fits=lambda row: True):
    """Read on until there is a row of that name that fits."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            found = next((row for row in looker.rows.values() if row["name"] == name and fits(row)), None)
            if found is not None:
                return found
            await looker.next()


async def test_actions_do_what_they_say(asker, three):
    """A move and a checkpoint asked for at the dashboard are made; the stream tells of the move."""
    name, stub = next((name, stub) for name, stub in three.items() if name.startswith("told"))
    looker = await Looker.open(asker)
    row = await row_of(looker, name, lambda row: row["state"] == "active")
    source = row["groups"][0]["replicas"][0]["server"]
    target = next(one for one in ("s1", "s2", "s3") if one != source)
    moved = await asker.act(f'{{"action": "move", "microservice": "{row["id"]}", "server": "{target}"}}'.encode())
    assert (moved.status, moved.json) == (200, {"done": f"moved to {target}"})
    at_target = await row_of(
        looker, name, lambda row: [one["server"] for one in row["groups"][0]["replicas"]] == [target]
    )
    assert at_target["groups"][0]["epoch"] == 2
    stored = await asker.act(f'{{"action": "checkpoint", "microservice": "{row["id"]}"}}'.encode())
    assert stored.status == 200, stored.body
    told = (await asker.ask("GET", f"/api/microservices/{row['id']}")).json
    assert len(told["description"]["checkpoints"]) == 1
    refused = await row_of(looker, next(name for name in three if name.startswith("group")))
    refusal = await asker.act(f'{{"action": "checkpoint", "microservice": "{refused["id"]}"}}'.encode())
    assert refusal.status == 400
    assert await asyncio.to_thread(stub.add) == 2
    await looker.aclose()


async def test_latency_is_measured_while_somebody_looks(asker, client, three):
    """The first look begins the measuring at the replica's server, wherever that is; later ones tell what calls took."""
    stub = next(stub for name, stub in three.items() if name.startswith("safe"))
    ms_id = (await asyncio.to_thread(client.describe, stub)).id
    path = f"/api/microservices/{ms_id}"
    [first] = (await asker.ask("GET", path)).json["latency"].values()
    assert first.get("calls", 0) == 0
    for _ in range(20):
        await asyncio.to_thread(stub.add)
    [seen] = (await asker.ask("GET", path)).json["latency"].values()
    assert seen["calls"] >= 20
    assert 0 < seen["p50_ms"] <= seen["p99_ms"] <= seen["max_ms"]


def test_a_command_line_that_watches(local, three, capsys):
    """``amino top --once`` shows all there is; ``amino events`` tells what happened."""
    name = next(name for name in three if name.startswith("safe"))
    where = ["-a", local.addresses[0], "--cluster", "seen"]
    with pytest.raises(SystemExit) as ended:
        application.run(["top", "--once", *where])
    shown = capsys.readouterr().out
    assert not ended.value.code
    assert name in shown
    assert "3 servers" in shown
    with pytest.raises(SystemExit):
        application.run(["events", "--kind", "server-joined", "-o", "json", *where])
    assert capsys.readouterr().out.count('"server-joined"') >= 1  # who joins first has nobody to tell of it


@pytest.mark.skipif(find_browser() is None, reason="no chromium on this machine")
async def test_a_killed_server_in_the_browser(local, url, client, three, tmp_path):
    """A kernel process is killed: the page shows a failover, and all is well again, while calls go on."""
    told, *stubs = three.values()
    await asyncio.to_thread(client.delete, told)  # it has no checkpoint, so it could be lost for good
    spec = amino.spec(Counter, dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
    more = [await asyncio.to_thread(client.new, spec) for _ in range(12)]
    done = threading.Event()

    def load():
        while not done.is_set():
            for stub in (*stubs, *more):
                stub.add()

    victim = local.server("s2")
    before = victim.incarnation
    calling = asyncio.ensure_future(asyncio.to_thread(load))
    try:
        async with browsing() as page:
            await page.go(url)
            await page.until("document.getElementById('health').dataset.mood === 'good'")
            await page.picture(tmp_path / "before.png")
            victim.kill_kernel()
            await page.until("[...document.querySelectorAll('#events b')].some(e => e.textContent === 'server-lost')")
            await page.picture(tmp_path / "after.png")
            await asyncio.to_thread(victim.wait_serving, before)
            await page.until("document.getElementById('health').dataset.mood === 'good'")
            await page.until("document.querySelectorAll('.panel:not(.lost)').length === 3")
            await page.picture(tmp_path / "healed.png")
            assert not page.problems
    finally:
        done.set()
        await calling
        for stub in more:
            await asyncio.to_thread(client.delete, stub)
