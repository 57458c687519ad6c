"""One etcd for all tests of this folder: what differs between etcd's versions is tested with the coordination package."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from grpc.aio import init_grpc_aio

from amino.node.embedded_etcd import EmbeddedEtcd
from tests.etcd_fixtures import etcd_binaries, memory_folder


@pytest.fixture(scope="session", autouse=True)
def grpc_poller():
    """Start gRPC's polling thread, one per process and never ended, so that no single test has left it behind."""

    async def begin():  # on a loop: whether this thread has one depends on the tests that ran before
        init_grpc_aio()

    asyncio.run(begin())


@pytest.fixture(scope="session")
def node_etcd():
    if not etcd_binaries():
        pytest.skip("no etcd binary: install etcd or set AMINO_ETCD_BINARIES")
    loop = asyncio.new_event_loop()
    folder = Path(tempfile.mkdtemp(prefix="amino-test-etcd-", dir=memory_folder()))
    etcd = loop.run_until_complete(EmbeddedEtcd.start(binary=etcd_binaries()[0], folder=folder))
    yield etcd
    loop.run_until_complete(etcd.aclose())
    loop.close()
    shutil.rmtree(folder)


@pytest.fixture
def etcd_endpoints(node_etcd):
    return tuple(node_etcd.endpoints)
