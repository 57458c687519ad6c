"""Fixtures of the tests of replication on real clusters."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.testing import FaultyNetwork, LocalCluster
from tests.dm.replication.real_world import World
from tests.etcd_fixtures import an_etcd

ROOT = Path(__file__).resolve().parents[3]
TTL_S = 2


@pytest.fixture
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    """Servers ``s1`` to ``s3`` (or as many as the parameter says) on a network that can be broken, and a client."""
    options: dict[str, Any] = {"servers": 3, **getattr(request, "param", {})}
    names = [f"s{number}" for number in range(1, options.pop("servers") + 1)]
    labels = options.pop("server_labels", {})
    with (
        FaultyNetwork() as network,
        LocalCluster(0, etcd_binary=an_etcd(), app_dirs=[ROOT], session_ttl_s=TTL_S, **options) as local,
    ):
        for name in names:
            network.add_server(local, name, labels=labels.get(name, {}))
        with amino.connect(*network.addresses) as client:
            yield World(network, local, client)
