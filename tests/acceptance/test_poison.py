"""Objects whose method or restore kills their process: quarantined after three, the rest served, and releasable."""

from __future__ import annotations

from pathlib import Path

import pytest

import amino
from amino.contracts.services import ByName, EventsRequest
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.errors import Quarantined
from amino.testing import LocalCluster
from bench.callers import Callers
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.background import Background
from tests.acceptance.figures import Figures
from tests.acceptance.services import BadRestore, Counter, Poison
from tests.acceptance.test_server_loss import DURABLE, host_of

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(300)]
ROW = "poison"
DEATHS_MAX = 3
RETRIED = (AtLeastOnceRPC(), PeriodicCheckpoint(every=1))


def serve_all(local: LocalCluster) -> None:
    for server in local.servers.values():
        server.wait_serving()


def test_a_method_that_kills_its_process(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures
) -> None:
    """A retrying caller kills three processes, not more; then the object is quarantined and the rest is served."""
    poison = client.new(amino.spec(Poison, name="poison", dms=RETRIED))
    other = client.new(amino.spec(Counter, name="other", dms=DURABLE))
    assert poison.fine() == 1
    first = audit.groups()
    with Callers([other.add]) as callers:
        boom = Background(poison.boom).outcome(40.0)
    assert isinstance(boom, Quarantined), boom
    for word in ("boom", "release"):
        assert word in str(boom)
    assert [each.error for each in callers.seen if each.error] == []
    assert [each.result for each in callers.seen] == list(range(1, len(callers.seen) + 1))
    with pytest.raises(Quarantined):
        poison.fine()
    document = audit.groups()[client.describe("poison").id]
    assert document.deaths == {"boom": DEATHS_MAX}
    assert document.epoch - first[client.describe("poison").id].epoch == DEATHS_MAX - 1
    kinds = eventually(lambda: [event.kind for event in client.registry.events(EventsRequest()).events],
                       lambda kinds: "quarantined" in kinds, 5.0)  # fmt: skip
    assert "quarantined" in kinds
    client.registry.release(ByName(name="poison"))
    assert poison.fine() == 2, "its state is what was acknowledged"
    serve_all(local)
    assert other.add() == len(callers.seen) + 1
    figures.note("method: processes killed before quarantine", sum(document.deaths.values()), "processes", at_most=3)
    figures.note(
        "method: longest call to another object",
        max(each.took for each in callers.seen),
        "s",
        note="no bar: three servers die within a second, and may all be down",
    )


def test_a_restore_that_kills_its_process(
    local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures, tmp_path: Path
) -> None:
    """A restore that crashes is tried on three processes; released after it is mended, the state is there."""
    switch = tmp_path / "bad"
    bad = client.new(amino.spec(BadRestore, name="bad", dms=RETRIED), str(switch))
    other = client.new(amino.spec(Counter, name="other", dms=DURABLE))
    assert bad.add() == 1
    serve_all(local)
    switch.touch()
    with Callers([other.add]) as callers:
        local.server(host_of(client, "bad")).kill_kernel()
        outcome = Background(bad.add).outcome(40.0)
    assert isinstance(outcome, Quarantined), outcome
    assert [each.error for each in callers.seen if each.error] == []
    document = audit.groups()[client.describe("bad").id]
    assert max(document.deaths.values()) == DEATHS_MAX
    switch.unlink()
    eventually(lambda: [server.is_serving for server in local.servers.values()], all, 30.0)
    client.registry.release(ByName(name="bad"))
    assert bad.add() == 2
    figures.note("restore: processes killed before quarantine", max(document.deaths.values()), "processes", at_most=3)
