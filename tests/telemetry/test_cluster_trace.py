"""A call through a real cluster, as a collector sees it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import amino
from amino.aio.mode import drive
from amino.dm import AtLeastOnceRPC, SerializableRPC
from amino.telemetry import names
from amino.testing import LocalCluster
from amino.testing.collector import Collector

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]
STEPS = [
    names.CLIENT_CALL,
    names.CLIENT_DM,
    names.TRANSPORT,
    names.SERVER_CALL,
    names.SERVER_DM,
    names.METHOD,
]


@pytest.fixture
def collector(monkeypatch):
    """A collector that this process and all it starts export to."""
    for variable in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(variable)
    made = Collector()
    drive(made.start())
    for key, value in made.environment().items():
        monkeypatch.setenv(key, value)
    yield made
    drive(made.aclose())


def test_a_call_through_two_managers_is_one_trace(collector):
    """Client, manager, link, server, manager and method are one trace, each the child of the one before."""
    from bench.workload import Counter

    with LocalCluster(servers=1, app_dirs=[ROOT]) as cluster, cluster.connect() as client:
        counter = client.new(amino.spec(Counter, name="traced", dms=[AtLeastOnceRPC(), SerializableRPC()]), 0)
        assert counter.add(2) == 2
        drive(collector.wait_for(lambda c: c.named(names.CLIENT_CALL, method="Counter.add") and c.named(names.METHOD)))
        drive(collector.wait_for(lambda c: c.named(names.SERVER_CALL) and c.metric(names.CALLS)))
    (method,) = collector.named(names.METHOD, method="add")
    assert collector.ancestry(method) == STEPS
    (served,) = collector.named(names.SERVER_CALL, method="Counter.add")
    (called,) = collector.named(names.CLIENT_CALL, method="Counter.add")
    assert (served.service, called.service) == ("amino-server", "amino-client")
    assert (served.kind, called.kind) == ("server", "client")
    sides = {point.attributes[names.SIDE] for point in collector.metric(names.CALLS)}
    assert names.SIDE_SERVER in sides
