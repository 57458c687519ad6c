"""Fixtures that give tests a real etcd, once per binary that is there.

Owns finding the binaries: ``AMINO_ETCD_BINARIES`` (colon-separated), else ``etcd`` on the path and
``.tools/etcd35/usr/bin/etcd``. Leaves processes to ``amino.node.embedded_etcd``.
Invariants: data lives in memory where the system has ``/dev/shm``; every member is ended with its fixture.
Failure behaviour: without any binary the tests that need one are skipped, with the reason.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import grpc.aio
import pytest
import pytest_asyncio

from amino.coordination.etcd import EtcdStore
from amino.errors import Invalid
from amino.node.embedded_etcd import EmbeddedEtcd

_NO_ETCD = "no etcd binary: install etcd or set AMINO_ETCD_BINARIES"


def etcd_binaries() -> list[str]:
    """Return the etcd programs to test on."""
    named = os.environ.get("AMINO_ETCD_BINARIES")
    if named:
        return named.split(":")
    local = Path(__file__).parents[1] / ".tools" / "etcd35" / "usr" / "bin" / "etcd"
    found = [shutil.which("etcd"), str(local) if local.exists() else None]
    return [binary for binary in found if binary is not None]


def an_etcd() -> str:
    """Return the first etcd program to test on; skips the test where there is none."""
    binaries = etcd_binaries()
    if not binaries:
        pytest.skip(_NO_ETCD)
    return binaries[0]


_BINARIES = etcd_binaries()
_MISSING = pytest.param("", marks=pytest.mark.skip(reason=_NO_ETCD))
BINARY_PARAMS = [pytest.param(binary, id=f"etcd{index}") for index, binary in enumerate(_BINARIES)] or [_MISSING]


def memory_folder() -> str | None:
    """Return a folder kept in memory, None where there is none."""
    return "/dev/shm" if os.path.isdir("/dev/shm") else None


@pytest.fixture
def etcd_folder() -> Iterator[Path]:
    """A folder for one test's etcd data."""
    folder = Path(tempfile.mkdtemp(prefix="amino-test-etcd-", dir=memory_folder()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def grpc_running() -> Iterator[None]:
    """Keep gRPC's process-wide parts (poller, wake-up pipes) up, so that no test is blamed for them."""
    loop = asyncio.new_event_loop()
    server, store = loop.run_until_complete(_connected())
    yield
    loop.run_until_complete(store.aclose())
    loop.run_until_complete(server.stop(None))
    loop.close()


async def _connected() -> tuple[grpc.aio.Server, EtcdStore]:
    server = grpc.aio.server()
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    store = await EtcdStore.open([f"127.0.0.1:{port}"])
    with pytest.raises(Invalid):  # it is no etcd; all that counts is the connection
        await store.get("/")
    return server, store


@pytest.fixture(scope="session", params=BINARY_PARAMS)
def etcd_binary(request: pytest.FixtureRequest, grpc_running: None) -> str:
    """Each etcd binary in turn."""
    return request.param


@pytest.fixture(scope="session")
def shared_etcd(etcd_binary: str) -> Iterator[EmbeddedEtcd]:
    """One member for all tests that do it no harm and use their own prefix; per binary."""
    loop = asyncio.new_event_loop()  # not the tests' loops: it outlives them
    folder = Path(tempfile.mkdtemp(prefix="amino-test-etcd-", dir=memory_folder()))
    etcd = loop.run_until_complete(EmbeddedEtcd.start(binary=etcd_binary, folder=folder))
    yield etcd
    loop.run_until_complete(etcd.aclose(at_once=True))
    loop.close()
    shutil.rmtree(folder)


@pytest_asyncio.fixture
async def etcd_one(etcd_binary: str, etcd_folder: Path) -> AsyncIterator[EmbeddedEtcd]:
    """One member of a test's own, per binary."""
    etcd = await EmbeddedEtcd.start(binary=etcd_binary, folder=etcd_folder)
    yield etcd
    await etcd.aclose(at_once=True)


@pytest_asyncio.fixture
async def etcd_three(etcd_binary: str, etcd_folder: Path) -> AsyncIterator[EmbeddedEtcd]:
    """Three members of a test's own, per binary."""
    etcd = await EmbeddedEtcd.start(members=3, binary=etcd_binary, folder=etcd_folder)
    yield etcd
    await etcd.aclose(at_once=True)
