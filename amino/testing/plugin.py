"""The pytest plugin: ``cluster``, a ``LocalCluster`` for the tests of a module; ``chaos``, which breaks it; ``history``, what they saw.

Owns the fixtures. Leaves everything else to ``local_cluster`` and ``chaos``, imported only when a fixture is used.
Invariant: a test session that does not use them pays nothing for the plugin.
Failure behaviour: without an etcd the tests that need a cluster are skipped, with the remedy as the reason.

A module chooses its cluster by ``amino_cluster = {"servers": 1, "session_ttl_s": 2}``: arguments of ``LocalCluster``, and
``"network": True`` for one whose ways ``chaos`` can cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amino.testing.chaos.handle import Chaos
    from amino.testing.chaos.recording import TestHistory
    from amino.testing.local_cluster import LocalCluster
    from amino.testing.proxy import FaultyNetwork


@pytest.fixture(scope="module")
def amino_network(request: pytest.FixtureRequest) -> Iterator[FaultyNetwork | None]:
    """The network of the module's cluster, None unless ``amino_cluster`` asks for one."""
    if not getattr(request.module, "amino_cluster", {}).get("network"):
        yield None
        return
    from amino.testing.proxy import FaultyNetwork

    with FaultyNetwork() as network:
        yield network


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest, amino_network: FaultyNetwork | None) -> Iterator[LocalCluster]:
    """A running ``LocalCluster``, one per module; servers a test killed for good are started again for the next module."""
    from amino.errors import Invalid
    from amino.testing.local_cluster import LocalCluster

    options: dict[str, Any] = {**getattr(request.module, "amino_cluster", {})}
    options.pop("network", None)
    names = [f"s{number}" for number in range(1, options.get("servers", 3) + 1)]
    if amino_network is not None:
        options["servers"] = 0
    local = LocalCluster(**options)
    try:
        local.start()
    except Invalid as error:
        if "etcd" not in error.message:
            raise
        pytest.skip(f"no cluster: {error}")
    try:
        if amino_network is not None:
            for name in names:
                amino_network.add_server(local, name, wait=False)
            for name in names:
                local.server(name).wait_serving()
        yield local
    finally:
        local.stop()


@pytest.fixture
def chaos(cluster: LocalCluster, amino_network: FaultyNetwork | None) -> Iterator[Chaos]:
    """What breaks the module's ``cluster``; whatever a test has broken is undone when the test ends."""
    from amino.testing.chaos.handle import Chaos

    with Chaos(cluster, amino_network) as handle:
        yield handle


@pytest.fixture
def history(tmp_path: Path) -> TestHistory:
    """Records calls of workers and checks what judges say of them; see ``docs/chaos.md``."""
    from amino.testing.chaos.recording import TestHistory

    return TestHistory(tmp_path)
