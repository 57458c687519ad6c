"""The store on S3, against moto's server: the conformance suite, and what an operator is told."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import sys
import threading
import time
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec.asyn
import pytest

from amino.checkpoint.access import StoreAccess
from amino.checkpoint.identity import identify
from amino.checkpoint.object_store import ObjectStore
from amino.checkpoint.store import CheckpointStore, open_store
from amino.dm import DurableSerializableRPC
from amino.errors import CorruptCheckpoint, OutcomeUnknown, StoreFailed
from tests.checkpoint.test_stores import Conformance
from tests.dm.durable_world import World
from tests.dm.test_durable_serializable import Ledger

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore:.*utcnow.*:DeprecationWarning")]


@pytest.fixture(scope="module", autouse=True)
def _fsspec_thread() -> None:
    fsspec.asyn.get_loop()  # it lives as long as the process, so no test is blamed for it


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    give_up = time.monotonic() + 60
    while True:
        try:
            with urllib.request.urlopen(f"{url}/moto-api/", timeout=1):
                break
        except OSError:
            assert server.poll() is None
            assert time.monotonic() < give_up
            threading.Event().wait(0.05)  # a foreign process announces its readiness to nobody
    yield url
    server.terminate()
    server.wait(20)


def _options(endpoint: str) -> dict[str, Any]:
    return {"endpoint_url": endpoint, "key": "test", "secret": "test", "client_kwargs": {"region_name": "us-east-1"}}


@pytest.fixture
def bucket(endpoint: str) -> str:
    name = f"b{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(f"{endpoint}/{name}", method="PUT")
    with urllib.request.urlopen(request, timeout=10):
        return name


@pytest.fixture
def store(endpoint: str, bucket: str) -> Iterator[CheckpointStore]:
    opened = open_store(f"s3://{bucket}/amino", cluster="c1", options=_options(endpoint))
    yield opened
    opened.close()


class TestS3(Conformance):
    """The suite on S3."""


def test_clusters_and_identity(store: CheckpointStore, endpoint: str, bucket: str) -> None:
    """A store on S3 has an identity of its own; another cluster in the same bucket has another."""
    other = open_store(f"s3://{bucket}/amino", cluster="c2", options=_options(endpoint))
    assert identify(store) == identify(store)
    assert identify(other) != identify(store)
    assert store.url == f"s3://{bucket}/amino/c1"
    other.close()


def test_a_missing_bucket(endpoint: str) -> None:
    """A bucket that does not exist is not an empty store."""
    store = open_store("s3://no-such-bucket-here", options=_options(endpoint))
    for attempt in (lambda: store.write("k", [b"x"]), lambda: store.read("k"), lambda: store.exists("k")):
        with pytest.raises(StoreFailed, match="create") as failure:
            attempt()
        assert failure.value.details["kind"] == "gone"
    store.close()


def test_an_endpoint_that_is_away() -> None:
    """Nothing listening there is an error within bounds, without secrets in the message."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    start = time.monotonic()
    options = {**_options(f"http://127.0.0.1:{port}"), "secret": "s3cr3t"}
    with pytest.raises(StoreFailed, match="check endpoint and network") as failure:
        open_store("s3://bucket/x", options=options, timeout_s=2.0)
    assert failure.value.details["kind"] == "unreachable"
    assert "s3cr3t" not in str(failure.value)
    assert time.monotonic() - start < 20


async def test_used_from_a_loop(store: CheckpointStore) -> None:
    """Through its access the store serves a loop, many operations at once."""
    access = StoreAccess(store)
    await asyncio.gather(*[access.write(f"f/{n}", b"%d" % n) for n in range(20)])
    assert await asyncio.gather(*[access.read(f"f/{n}") for n in range(20)]) == [b"%d" % n for n in range(20)]
    await access.aclose()
    assert isinstance(store, ObjectStore)


def test_durable_calls(store: CheckpointStore, tmp_path: Path) -> None:
    """One object per group of calls: all there after a loss, a fenced writer never acknowledges, a gap is reported."""

    async def main() -> None:
        async with World(tmp_path, Ledger, DurableSerializableRPC(snapshot_every=20), store=store) as world:
            await asyncio.gather(*(world.call("write", n, sequence=n) for n in range(1, 13)))
            lost = await world.lose()
            with pytest.raises(OutcomeUnknown, match="sealed"):
                await world.call("write", 99, sequence=99, target=lost)
            assert sorted(world.target.instance.lines) == list(range(1, 13))
            for n in range(13, 60):
                await world.call("write", n, sequence=n)
            await world.lose()
            assert sorted(world.target.instance.lines) == list(range(1, 60))
            for n in range(60, 64):
                await world.call("write", n, sequence=n)
            objects = [file for file in store.list("checkpoints/") if ".log/" in file.key]
            newest = max(objects, key=lambda file: int(file.key.rpartition("/")[0].split("/")[-1].split("-")[1]))
            store.delete(newest.key.rpartition("/")[0] + "/0000000002")
            with pytest.raises(CorruptCheckpoint, match="missing"):
                await world.lose()

    asyncio.run(main())


@pytest.fixture(autouse=True)
def _quiet() -> None:
    logging.getLogger("botocore").setLevel(logging.ERROR)
