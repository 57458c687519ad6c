"""What applications are built from: refs, re-entrant calls, children, applications, own code, loss and operators."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import amino
from amino.contracts.services import CordonRequest, DrainRequest, PauseRequest
from amino.dm import AtLeastOnceRPC, ExplicitMigration, PeriodicCheckpoint, SerializableRPC
from amino.errors import StateLost
from amino.testing import LocalCluster
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.background import Background
from tests.acceptance.conftest import ROOT
from tests.acceptance.figures import Figures
from tests.acceptance.services import Caller, Counter
from tests.acceptance.test_server_loss import DURABLE, host_of

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(200)]
ROW = "programming model"
SERIAL = (AtLeastOnceRPC(), SerializableRPC())


def pair(client: amino.Cluster, dms: tuple[object, ...]) -> tuple[Caller, Caller]:
    """Return two callers that know each other, on two servers."""
    one = client.new(amino.spec(Caller, name="one", dms=[*dms, ExplicitMigration()]))
    two = client.new(amino.spec(Caller, name="two", dms=[*dms, ExplicitMigration()]), one)
    one.know(two)
    if host_of(client, "one") == host_of(client, "two"):
        client.move("two")
    return one, two


def test_re_entrant_calls(local: LocalCluster, client: amino.Cluster) -> None:
    """A calls B calls A, on two servers, passes serialising managers; under checkpoints only when it changes nothing."""
    one, _ = pair(client, SERIAL)
    with amino.deadline(5.0):
        assert one.ask(6) == 6
        assert one.peek(6) == 6
    client.delete("one")
    client.delete("two")
    one, _ = pair(client, DURABLE)
    with amino.deadline(5.0):
        assert one.peek(4) == 4
        assert one.ask_then_peek() == 1
        with pytest.raises(amino.Invalid, match="readonly"):
            one.ask(2)
        assert one.ask(1) == 1


def test_current_and_refs(local: LocalCluster, client: amino.Cluster) -> None:
    """A method knows where it runs, hands out its own ref, and refs travel as arguments, results and state."""
    caller = client.new(amino.spec(Caller, name="caller", dms=DURABLE))
    counter = client.new(amino.spec(Counter, name="counter", dms=DURABLE), 1)
    with amino.deadline(9.0):
        seen = caller.where()
    assert seen["server"] == host_of(client, "caller")
    assert seen["microservice"] == client.describe("caller").id
    assert 0 < seen["remaining_s"] <= 9.0
    assert caller.mine() == caller
    caller.know(counter)
    assert caller.add_to_other(4) == 5
    with pytest.raises(amino.Invalid, match="outside"):
        amino.current()


def test_refs_in_state_survive_a_failover(local: LocalCluster, client: amino.Cluster) -> None:
    """A ref in the state of an object that is restored elsewhere leads to its target, wherever that went."""
    counter = client.new(amino.spec(Counter, name="counter", dms=DURABLE), 0)
    caller = client.new(amino.spec(Caller, name="caller", dms=DURABLE))
    caller.know(counter)
    assert caller.add_to_other(1) == 1
    for name in ("caller", "counter"):
        server = local.server(host_of(client, name))
        before = server.kill_kernel()
        assert caller.add_to_other(1) == (2 if name == "caller" else 3)
        server.wait_serving(after=before)


def test_children(local: LocalCluster, client: amino.Cluster, audit: Audit, tmp_path: Path) -> None:
    """A method creates a microservice; retried after its process died half-way, it creates no second one."""
    maker = client.new(amino.spec(Caller, name="maker", dms=DURABLE))
    assert maker.make_child("child").add(1) == 11
    child = maker.make_child_and_die_once("once", str(tmp_path / "marker"))
    assert child.get() == 10
    assert sorted(each.name for each in eventually(client.find, lambda found: len(found) == 3, 5.0)) == [
        "child",
        "maker",
        "once",
    ]
    audit.await_consistent()


def test_applications(local: LocalCluster, client: amino.Cluster) -> None:
    """Racing callers of an application get one entry, which survives its server."""
    client.define_app("shop", amino.spec(Counter, dms=DURABLE), 100)
    racing = [Background(lambda: client.app("shop", Counter)) for _ in range(8)]
    entries = [each.outcome(20.0) for each in racing]
    assert len(set(entries)) == 1
    entry = entries[0]
    assert entry.add() == 101
    local.server(host_of(client, entry)).kill_kernel()
    assert client.app("shop", Counter).add() == 102


SCRIPT = """
    import sys
    import amino
    from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint

    STEP = 3

    class Base:
        def step(self):
            return STEP

    class Mine(Base):
        def __init__(self):
            self.value = 0
        def add(self):
            self.value += self.step()
            return self.value

    with amino.connect(*sys.argv[1:]) as cluster:
        mine = cluster.new(amino.spec(Mine, name="mine", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]))
        print(mine.add())
"""


def test_classes_of_a_script_survive_a_failover(local: LocalCluster, client: amino.Cluster, tmp_path: Path) -> None:
    """A class that exists in a script only runs on servers that never saw the script, after failovers and restarts too."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT))
    command = [sys.executable, str(script), *local.addresses]
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, timeout=60, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}
    )
    assert (ran.stdout.strip(), ran.returncode) == ("3", 0), ran.stderr
    script.unlink()
    mine = client.get("mine")
    value = 3
    homes = set()
    for _ in range(3):
        server = local.server(host_of(client, "mine"))
        homes.add(server.name)
        before = server.kill_kernel()
        value += 3
        assert mine.add() == value
        server.wait_serving(after=before)
    late = local.add_server()
    client.move("mine", late.name)
    assert mine.add() == value + 3
    assert len(homes) > 1


def test_on_loss(local: LocalCluster, client: amino.Cluster, figures: Figures) -> None:
    """Lost state is reported by default, with the remedy; ``recreate`` runs the constructor again."""
    fails = client.new(amino.spec(Counter, name="fails"), 5)
    again = client.new(amino.spec(Counter, name="again", dms=[AtLeastOnceRPC()], on_loss="recreate"), 5)
    fails.add()
    again.add()
    for name in ("fails", "again"):
        server = local.server(host_of(client, name))
        before = server.kill_kernel()
        server.wait_serving(after=before)
    assert again.get() == 5
    with pytest.raises(StateLost, match=r"restore.*delete|delete.*restore") as caught:
        fails.get()
    assert "fails" in str(caught.value) or client.describe("fails").id in str(caught.value)
    with pytest.raises(StateLost):
        client.get("fails")
    from amino.contracts.services import ByName

    assert client.registry.restore(ByName(name="fails")).restored_from == "construct"
    assert fails.get() == 5


def test_operators(local: LocalCluster, client: amino.Cluster, audit: Audit) -> None:
    """Cordon keeps new objects away, drain moves all away losing nothing, pause stops recovery until resume."""
    stubs = {
        f"c{number}": client.new(
            amino.spec(Counter, name=f"c{number}", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]), number
        )
        for number in range(9)
    }
    client.registry.cordon(CordonRequest("s1", cordon=True, why="test"))
    for server in local.servers.values():  # told by a watch, a moment later
        seen = eventually(
            lambda address=server.address: {
                each.record.name: each.cordoned for each in audit.members_at(address).servers
            },
            lambda cordoned: bool(cordoned["s1"]),
            5.0,
        )
        assert seen == {"s1": "test", "s2": "", "s3": ""}
    for number in range(6):
        assert host_of(client, client.new(amino.spec(Counter, on_loss="recreate"))) != "s1", number
    reply = client.registry.drain(DrainRequest("s1"))
    assert reply.left == ()
    assert not audit.replicas()["s1"]
    client.registry.cordon(CordonRequest("s1", cordon=False))
    for number, stub in enumerate(stubs.values()):
        assert stub.get() == number
    client.registry.pause(PauseRequest(paused=True))
    victim = local.server("s2")
    theirs = [name for name in stubs if host_of(client, name) == "s2"]
    assert theirs
    epochs = {ms_id: each.epoch for ms_id, each in audit.groups().items()}
    before = victim.kill_kernel()
    victim.wait_serving(after=before)
    with pytest.raises(amino.AminoError), amino.deadline(1.0):
        stubs[theirs[0]].get()
    assert {ms_id: each.epoch for ms_id, each in audit.groups().items()} == epochs
    client.registry.pause(PauseRequest(paused=False))
    for number, stub in enumerate(stubs.values()):
        assert stub.get() == number
    audit.await_consistent()
    drained = local.server("s3")
    drained.drain()
    gone = eventually(audit.incarnations, lambda found: "s3" not in found, 5.0)
    assert "s3" not in gone
    for number, stub in enumerate(stubs.values()):
        assert stub.add() == number + 1
    drained.start()
