"""The server that leads a microservice's slot is killed in the middle of everything: somebody finishes or undoes it."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

import amino
from amino.contracts.services import CreateRequest, Empty
from amino.dm import AtLeastOnceRPC, ExplicitMigration, PeriodicCheckpoint, SerializableRPC
from amino.errors import AlreadyExists, AminoError, ConstructionFailed, Invalid, NotFound
from amino.ids import new_id, slot_of
from amino.testing import LocalCluster
from amino.wire import codec
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.background import Background, let_last
from tests.acceptance.figures import Figures, rounds
from tests.acceptance.services import Counter
from tests.acceptance.test_server_loss import host_of

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(590)]
ROW = "loss of a slot's leader"
SEED = 20
DMS = (AtLeastOnceRPC(), ExplicitMigration(), PeriodicCheckpoint(every=1), SerializableRPC())
TAKES_S = {"create": 0.03, "delete": 0.03, "move": 0.04, "recover": 0.12}


def leader_of(client: amino.Cluster, ms_id: str) -> str:
    """Return the server that leads the slot, once one does."""
    slot = slot_of(ms_id)
    return eventually(
        lambda: next(each.leader for each in client.registry.slots(Empty()).slots if each.slot == slot), bool, 10.0
    )


def kill_at(local: LocalCluster, name: str, moment_s: float) -> Callable[[], int]:
    """Return what kills a server's kernel process after a moment."""

    def kill() -> int:
        let_last(moment_s)
        return local.server(name).kill_kernel()

    return kill


def serve_all(local: LocalCluster, before: dict[str, int]) -> None:
    """Wait until every server serves, those that were killed as a later incarnation."""
    for name, server in local.servers.items():
        server.wait_serving(after=before.get(name, 0))


def make(client: amino.Cluster, name: str, value: int) -> Any:
    stub = client.new(amino.spec(Counter, name=name, dms=DMS), 0)
    assert stub.add(value) == value
    return stub


@pytest.mark.parametrize("step", ["create", "delete", "move", "recover"])
def test_the_leader_dies(local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures, step: str) -> None:
    """At random moments of an operation; afterwards it is done or undone, state is whole, and nothing is orphaned."""
    moments = random.Random(f"{SEED} {step}")
    done = 0
    for number in range(rounds(10)):
        name = f"{step}-{number}"
        moment_s = moments.uniform(0.0, 1.5 * TAKES_S[step])
        if step == "create":
            done += _create(local, client, name, moment_s)
        else:
            stub = make(client, name, 10 + number)
            done += {"delete": _delete, "move": _move, "recover": _recover}[step](local, client, name, stub, moment_s)
        audit.await_consistent()
    for each in client.find():
        client.delete(each.name)
    audit.await_consistent()
    assert not audit.groups()
    assert done, "no operation ever finished: this tests nothing"
    figures.note(f"killed while it leads a {step}: orphans", 0, "objects", at_most=0,
                 note=f"{rounds(10)} random moments; {done} finished, {rounds(10) - done} undone or refused")  # fmt: skip


def _create(local: LocalCluster, client: amino.Cluster, name: str, moment_s: float) -> bool:
    ms_id = new_id()
    leader = leader_of(client, ms_id)
    before = {leader: local.server(leader).incarnation}
    request = CreateRequest(ms_id, amino.spec(Counter, name=name, dms=DMS).document, codec.pack(None))
    created = Background(lambda: client.registry.create(request))
    kill_at(local, leader, moment_s)()
    outcome = created.outcome(40.0)
    serve_all(local, before)
    if isinstance(outcome, AminoError):
        assert not isinstance(outcome, (AlreadyExists, Invalid, ConstructionFailed)), f"refused, not undone: {outcome}"
        try:
            client.delete(name)
        except NotFound:
            return False
        return False
    assert outcome.microservice == ms_id
    assert client.get(name, Counter).add(3) == 3
    return True


def _delete(local: LocalCluster, client: amino.Cluster, name: str, stub: Any, moment_s: float) -> bool:
    ms_id = stub.__amino_reference__.microservice
    leader = leader_of(client, ms_id)
    before = {leader: local.server(leader).incarnation}
    deleted = Background(lambda: client.delete(name))
    kill_at(local, leader, moment_s)()
    outcome = deleted.outcome(40.0)
    serve_all(local, before)
    assert outcome is None or isinstance(outcome, NotFound), outcome
    with pytest.raises(NotFound):
        client.get(name)
    return True


def _move(local: LocalCluster, client: amino.Cluster, name: str, stub: Any, moment_s: float) -> bool:
    ms_id = stub.__amino_reference__.microservice
    value = stub.get()
    leader, home = leader_of(client, ms_id), host_of(client, name)
    before = {leader: local.server(leader).incarnation}
    target = next(each for each in local.servers if each != home)
    moved = Background(lambda: client.move(name, target))
    kill_at(local, leader, moment_s)()
    outcome = moved.outcome(40.0)
    serve_all(local, before)
    assert isinstance(outcome, (str, AminoError)), outcome
    assert stub.add() == value + 1, "state was lost or doubled on the way"
    return isinstance(outcome, str)


def _recover(local: LocalCluster, client: amino.Cluster, name: str, stub: Any, moment_s: float) -> bool:
    ms_id = stub.__amino_reference__.microservice
    value = stub.get()
    leader = leader_of(client, ms_id)
    if host_of(client, name) == leader:
        client.move(name)
    home = host_of(client, name)
    assert home != leader
    before = {each: local.server(each).incarnation for each in (leader, home)}
    local.server(home).kill_kernel()
    kill_at(local, leader, moment_s)()
    assert stub.add() == value + 1, "state was lost or doubled"
    serve_all(local, before)
    return True
