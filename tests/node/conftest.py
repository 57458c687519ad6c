"""One etcd for all tests of this folder: what differs between etcd's versions is tested with the coordination package."""

import asyncio
import shutil
import tempfile
from pathlib import Path

import pytest
from grpc.aio import init_grpc_aio

from amino.node.child import new_event_loop
from amino.node.embedded_etcd import EmbeddedEtcd
from tests.etcd_fixtures import an_etcd, memory_folder


@pytest.fixture(scope="session", autouse=True)
def grpc_poller():
    """Start gRPC's polling thread and uvloop's pipe, one per process and never ended, so that no single test has left them."""
    new_event_loop().close()

    async def begin():  # on a loop: whether this thread has one depends on the tests that ran before
        init_grpc_aio()

    asyncio.run(begin())


@pytest.fixture(scope="session")
def node_etcd():
    binary = an_etcd()
    loop = asyncio.new_event_loop()
    folder = Path(tempfile.mkdtemp(prefix="amino-test-etcd-", dir=memory_folder()))
    etcd = loop.run_until_complete(EmbeddedEtcd.start(binary=binary, folder=folder))
    yield etcd
    loop.run_until_complete(etcd.aclose())
    loop.close()
    shutil.rmtree(folder)


@pytest.fixture
def etcd_endpoints(node_etcd):
    return tuple(node_etcd.endpoints)
