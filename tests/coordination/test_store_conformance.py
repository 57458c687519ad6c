"""Both stores keep the promises of the port: one suite, run on memory and on every etcd at hand, with and without uvloop."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Awaitable
from contextlib import closing

import pytest

from amino.aio.clock import Clock
from amino.coordination.etcd import EtcdStore
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Store
from amino.ids import new_id
from amino.node.embedded_etcd import EmbeddedEtcd
from amino.testing.store_conformance import STORE_CASES, Case, Environment
from tests.coordination.virtual import run_virtual

pytestmark = pytest.mark.parametrize("case", STORE_CASES, ids=lambda case: case.__name__)
LOOPS = ["asyncio", *(["uvloop"] if importlib.util.find_spec("uvloop") else [])]


def test_memory(case: Case) -> None:
    """The memory store does what the case says."""

    async def main(clock: Clock) -> None:
        etcd = MemoryEtcd(clock)

        async def open_other() -> Store:
            return MemoryStore(etcd, clock=clock, name="other")

        store = MemoryStore(etcd, clock=clock)
        await case(Environment(store, open_other, f"/test/{case.__name__}/"))
        await store.aclose()

    run_virtual(main)


@pytest.mark.real
@pytest.mark.parametrize("loop_name", LOOPS)
def test_etcd(case: Case, loop_name: str, shared_etcd: EmbeddedEtcd) -> None:
    """The etcd store does what the case says."""
    with closing(_new_loop(loop_name)) as loop:
        loop.run_until_complete(_on_etcd(case, shared_etcd))
        loop.run_until_complete(loop.shutdown_asyncgens())


@pytest.fixture(scope="module", autouse=True)
def _libuv() -> None:
    """Have libuv open its process-wide signal pipe now, so that no test is blamed for it."""
    for name in LOOPS:
        _new_loop(name).close()


def _new_loop(name: str) -> asyncio.AbstractEventLoop:
    if name == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


async def _on_etcd(case: Case, etcd: EmbeddedEtcd) -> None:
    def open_other() -> Awaitable[Store]:
        return EtcdStore.open(etcd.endpoints)

    store = await EtcdStore.open(etcd.endpoints)
    await case(Environment(store, open_other, f"/test/{new_id()}/"))
    await store.aclose()
    if left := asyncio.all_tasks() - {asyncio.current_task()}:
        _, left = await asyncio.wait(left, timeout=1)  # gRPC's own, of calls that were cancelled a moment ago
    assert not left
