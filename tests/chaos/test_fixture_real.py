"""The fixture ``chaos`` of the pytest plugin: it breaks a real cluster, proves it, and leaves it whole."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import NotFound
from amino.testing.chaos.workloads.services import Cells

if TYPE_CHECKING:
    from amino.testing import LocalCluster
    from amino.testing.chaos.handle import Chaos

pytestmark = [
    pytest.mark.real,
    pytest.mark.slow,
    pytest.mark.timeout(170),
    pytest.mark.keeps("the module's cluster goes on, with the processes that were started again"),
]
amino_cluster = {"servers": 3, "session_ttl_s": 2, "network": True}
KEPT = (AtLeastOnceRPC(timeout_s=30), SerializableRPC(), PeriodicCheckpoint(every=1))


def test_what_breaks_is_proved_and_undone(cluster: LocalCluster, chaos: Chaos) -> None:
    """Each fault has happened and is undone when cause returns, and what was kept is still there."""
    with cluster.connect() as connection:
        cells = connection.new(amino.spec(Cells, name="cells", dms=KEPT))
        chaos.await_rest()
        for number, (kind, lasts_s) in enumerate((("kill-kernel", 0.0), ("isolate", 2.5), ("freeze-server", 0.5))):
            cells.write("key", str(number))
            record = chaos.cause(kind, "primary", lasts_s)
            assert record.verified
            assert record.healed_s >= record.began_s + lasts_s
            assert cells.read("key") == str(number)


def test_a_storm_ends_with_its_block(cluster: LocalCluster, chaos: Chaos) -> None:
    """Faults drawn from a seed happen in the background; after the block the cluster is whole and nothing more happens.

    Without a microservice, too: the coordinator is then the server that would coordinate most.
    """
    looked = threading.Event()
    with cluster.connect() as connection, contextlib.suppress(NotFound):
        connection.delete("cells")  # of the other test, if that ran before
    with chaos.storm(seed=3, kinds={"kill-kernel": 1, "freeze-server": 1}):
        while not chaos.records:
            looked.wait(0.05)
    count = len(chaos.records)
    chaos.await_rest(1.0)
    assert len(chaos.records) == count
    assert all(server.is_serving for server in cluster.servers.values())
