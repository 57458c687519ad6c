"""Thousands of microservices on real servers, one of which is lost while more are made: how soon the page shows what happens."""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.aio.clock import RealClock
from amino.config import DashboardConfig
from amino.contracts.services import Empty
from amino.dashboard.board import Board
from amino.dm import AtLeastOnceRPC, ConsensusRSM, PeriodicCheckpoint
from amino.testing import LocalCluster
from bench.create import rate
from bench.stats import p50, p99
from tests.acceptance.figures import Figures, in_full
from tests.dashboard.browser import Page, browsing, find_browser
from tests.dashboard.conftest import TOKEN, Asker, Looker
from tests.dashboard.made_up import MadeUp
from tests.dashboard.stopwatch import Stopwatch
from tests.dashboard.test_page import HEALTH, HEALTHY
from tests.dashboard.test_real_cluster import Url
from tests.etcd_fixtures import an_etcd
from tests.node.counter import Counter

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(find_browser() is None, reason="no chromium on this machine"),
]
ROOT = Path(__file__).resolve().parents[2]
PICTURES = ROOT / "build"
FIGURES = Figures("dashboard with a failover under way")
MICROSERVICES = in_full(1_000, 10_000)
GROUPS = 10
"""So many of them are replicated, and a tenth of all is checkpointed; the others are made anew where they are lost."""
MADE_WHILE = in_full(10, 40)
PATIENCE_S = 240.0
BAR_S = in_full(None, 1.0)
VICTIM = "s2"
FAILED_OVER = {"recovered", "restored", "promoted", "replaced"}
COUNT = re.compile(r"^([\d,]+) microservices")
ACTIVE, RECOVERING = (
    f"Number(document.querySelector('[data-state={state}]').textContent.replace(/\\D/g, ''))"
    for state in ("active", "recovering")
)
COUNTED = "Number(document.getElementById('map-note').textContent.split(' ')[0].replace(/\\D/g, ''))"
NOTED = (
    "window.stopwatch.texts.some(one => one.id === 'map-note' && "
    "Number(one.text.split(' ')[0].replace(/\\D/g, '')) >= {})"
)
AT_VICTIM = (
    "Number([...document.querySelectorAll('.panel')].find(e => e.querySelector('.name').textContent === "
    f"'{VICTIM}')?.querySelector('.load').textContent.split(' ')[0].replace(/\\D/g, '') || 0)"
)


@pytest.fixture(scope="module")
def local() -> Iterator[LocalCluster]:
    """Three servers; the first has the dashboard."""
    dashboard = DashboardConfig("127.0.0.1:0", TOKEN)
    with LocalCluster(3, app_dirs=[ROOT], session_ttl_s=3, etcd_binary=an_etcd(), dashboard=dashboard) as running:
        yield running


@pytest.fixture
def client(local: LocalCluster) -> Iterator[amino.Cluster]:
    """A connection."""
    with local.connect() as connected:
        yield connected


@pytest.fixture
async def page() -> AsyncIterator[Page]:
    """A browser of the test's own."""
    async with browsing() as opened:
        yield opened


def spec_of(number: int) -> amino.Spec[Counter]:
    """Return how the microservice of that number is kept."""
    name = f"counter-{number:05}"
    if number < GROUPS:
        return amino.spec(Counter, name=name, dms=[AtLeastOnceRPC(), ConsensusRSM()])
    if number % 10 == 0:
        return amino.spec(Counter, name=name, dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)])
    return amino.spec(Counter, name=name, dms=[AtLeastOnceRPC()], on_loss="recreate")


def fill(client: amino.Cluster) -> dict[int, Any]:
    """Make them all, 64 at a time; returns those whose state outlives a server, each called once."""
    stubs: dict[int, Any] = {}

    def make(number: str) -> None:
        stub = client.new(spec_of(int(number)))
        if int(number) < GROUPS or int(number) % 100 == 0:
            stubs[int(number)] = stub
            assert stub.add() == 1

    rate(make, [str(number) for number in range(MICROSERVICES)])
    return stubs


def shown_after(texts: list[tuple[float, str]], count: int) -> float:
    """Return when the page first showed that there are ``count`` microservices, or more."""
    for shown, text in texts:
        found = COUNT.match(text)
        if found and int(found[1].replace(",", "")) >= count:
            return shown
    raise AssertionError(f"the page never showed {count} microservices; last {texts[-1:]}")


async def until_settled(page: Page, watch: Stopwatch, total: int) -> float:
    """Wait until the page shows that everything is active again; returns since when nothing recovers any more."""
    async with asyncio.timeout(PATIENCE_S):
        while not (await page.ask(f"{COUNTED} === {total} && {ACTIVE} === {total}") and await watch.settled()):  # noqa: ASYNC110 - the page tells nobody
            await asyncio.sleep(0.2)
    return await watch.settled()


class Listener:
    """Reads the stream beside the page, to tell the server's share of the time."""

    def __init__(self, looker: Looker) -> None:
        self._looker = looker
        self.took: list[float] = []

    async def listen(self) -> None:
        """Note for each event how long ago it happened, for ever."""
        while True:
            kind, told = await self._looker.next()
            now = time.time()
            self.took += [now - event["at"] for event in told] if kind == "events" else []


async def test_the_page_keeps_up_with_a_failover(local: LocalCluster, client: amino.Cluster, page: Page) -> None:
    """A server is lost and microservices are made meanwhile: all events, the loss, and each new one come to be shown."""
    with FIGURES.together():
        url = re.search(r"the dashboard is at (\S+)", local.server("s1").log_path.read_text())[1]  # type: ignore[index]
        began = time.perf_counter()
        stubs = await asyncio.to_thread(fill, client)
        FIGURES.note("microservices", MICROSERVICES, note=f"made in {time.perf_counter() - began:.0f} s, 64 at a time")

        began = time.perf_counter()
        looker = await Looker.open(Asker(Url(url)))
        await looker.until("whole")
        FIGURES.note("the whole picture, until the server has told it", time.perf_counter() - began, "s")
        assert len(looker.rows) == MICROSERVICES

        began = time.perf_counter()
        await page.go(url)
        await page.until(f"{HEALTHY} && document.getElementById('table-note').textContent === '{MICROSERVICES:,}'")
        FIGURES.note("the page opened, until all is drawn", time.perf_counter() - began, "s")
        watch = await Stopwatch.begin(page)
        FIGURES.note("longest block of the page's thread while it loads", await watch.blocked_s(), "s", at_most=BAR_S)
        PICTURES.mkdir(exist_ok=True)
        await page.picture(PICTURES / "dashboard-before.png")

        listener = Listener(looker)
        listening = asyncio.ensure_future(listener.listen())
        made: list[float] = []

        async def make(prefix: str, number: int) -> None:
            for each in range(number):
                spec = amino.spec(Counter, name=f"{prefix}-{each}", on_loss="recreate")
                await asyncio.to_thread(client.new, spec)
                made.append(time.time())
                await asyncio.sleep(0.1)  # the pace of those who make them; nothing is waited for

        try:
            await make("quiet", 5)
            quiet = await slowest_shown(page, watch, made)
            FIGURES.note("a creation, until it is on the map: slowest while all is quiet", quiet, "s", at_most=BAR_S)

            total = MICROSERVICES + len(made) + MADE_WHILE
            lost = time.time()
            local.server(VICTIM).kill()
            making = asyncio.ensure_future(make("meanwhile", MADE_WHILE))
            await page.until(f"{HEALTH}.includes('{VICTIM} just lost')")
            await watch.watch_for(f"{RECOVERING} === 0 && {AT_VICTIM} <= {GROUPS}")
            await page.until("window.stopwatch.events.some(one => one.kind === 'server-lost')")
            posing = time.time()  # nothing else is drawn while a picture is taken
            await page.picture(PICTURES / "dashboard-failover.png")
            posed = time.time()
            await making
            settled = await until_settled(page, watch, total)
            await page.picture(PICTURES / "dashboard-after.png")
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
            await looker.aclose()
        await judge(client, page, watch, lost, settled, made, (posing, posed))
        took = listener.took
        FIGURES.note(
            "an event, until the server has told it: slowest",
            max(took),
            "s",
            note=f"of {len(took)}; p50 {p50(took):.2f} s",
        )
    assert not page.problems
    for stub in stubs.values():
        assert await asyncio.to_thread(stub.add) == 2


async def test_what_an_update_costs_the_server() -> None:
    """A made-up failover of 80 of 100 replicas is told once, whole; the figure is the processor time of making that."""
    source = MadeUp(3, time.time)
    source.fill(MICROSERVICES)
    stream = Board(source, RealClock(), actions=False).stream()
    async for message in stream:
        if message.startswith(b"event: history"):
            break
    touched = source.fail_over(VICTIM)
    began = time.process_time()
    told, count = [], 0
    async for message in stream:
        told.append(message)
        count += message.count(b'"cls":') if message.startswith(b"event: rows") else 0
        if count >= len(set(touched)):
            break
    FIGURES.note("processor time of the server for telling a failover", time.process_time() - began, "s", at_most=BAR_S,
                 note=f"{len(touched)} groups among {MICROSERVICES} microservices, made up, in one moment")  # fmt: skip
    await stream.aclose()
    rows = [row for one in told if one.startswith(b"event: rows") for row in json.loads(one.split(b"\ndata: ")[1])]
    assert {row["id"] for row in rows} == set(touched)
    assert len(rows) == len(set(touched))


async def slowest_shown(page: Page, watch: Stopwatch, made: list[float]) -> float:
    """Return the longest time from a creation's acknowledgement to the page showing it; waits for the last."""
    await page.until(NOTED.format(MICROSERVICES + len(made)))
    texts = await watch.texts("map-note")
    return max(max(0.0, shown_after(texts, MICROSERVICES + number) - at) for number, at in enumerate(made, 1))


async def judge(
    client: amino.Cluster,
    page: Page,
    watch: Stopwatch,
    lost: float,
    settled: float,
    made: list[float],
    posing: tuple[float, float],
) -> None:
    """Note how soon the page showed the loss, what followed, and what was made meanwhile."""
    noticed, loss_shown = min(one for one in await watch.events("server-lost") if one[0] > lost)
    told = [shown for shown, text in await watch.texts("health-text") if f"{VICTIM} just lost" in text]
    failed_over = [
        event.at
        for event in (await asyncio.to_thread(client.registry.events, Empty())).events
        if event.kind in FAILED_OVER and event.at > lost
    ]
    seen = [(at, shown) for at, shown in await watch.events() if at > lost]
    apart = [(at, shown) for at, shown in seen if at > posing[1] or shown < posing[0]]
    every = [shown - at for at, shown in apart or seen]
    FIGURES.note("SIGKILL of supervisor and kernel process, until the cluster notices", noticed - lost, "s")
    FIGURES.note("the loss, until the headline shows it", max(0.0, told[0] - noticed), "s", at_most=BAR_S)
    FIGURES.note("the loss, until its event is shown", loss_shown - noticed, "s", at_most=BAR_S)
    FIGURES.note("an event during the failover, until it is shown: slowest", max(every), "s", at_most=BAR_S,
                 note=f"of {len(every)}; p50 {p50(every):.2f} s, p99 {p99(every):.2f} s")  # fmt: skip
    FIGURES.note("failing over, from the first to the last event of it", max(failed_over) - noticed, "s")
    FIGURES.note("the last event of it, until the map shows all as active", max(0.0, settled - max(failed_over)), "s",
                 at_most=BAR_S)  # fmt: skip
    FIGURES.note("a creation, until it is on the map: slowest during the failover", await slowest_shown(page, watch, made), "s",
                 at_most=BAR_S, note=f"of {len(made)}")  # fmt: skip
    FIGURES.note("longest block of the page's thread during the failover", await watch.blocked_s(lost, settled), "s",
                 at_most=BAR_S)  # fmt: skip
