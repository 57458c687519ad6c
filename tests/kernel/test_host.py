"""Commands of slot leaders are carried out whole."""

from __future__ import annotations

import asyncio
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest

from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec, ReplicaDocument
from amino.contracts.kernel_service import Fence, InstantiateRequest, RetireRequest
from amino.dm.chain import ComposedServerChain
from amino.errors import ConstructionFailed
from amino.kernel.host import Host
from tests.kernel.world import Around


class Plain:
    """A user's class."""

    def __init__(self) -> None:
        """Be."""

    def get(self) -> int:
        """Answer."""
        return 1


class Broken:
    """A user's class that cannot be made."""

    def __init__(self) -> None:
        """Fail."""
        raise ValueError("no")


class Confirmer:
    """Confirms when the test says so."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.may = asyncio.Event()

    async def confirm(self, *_: Any) -> int:
        """Wait for the test; the write has landed then."""
        self.asked.set()
        await self.may.wait()
        return 11


def no_groups() -> Any:
    """Groups that nobody asks about."""
    return SimpleNamespace(open=lambda *_: None, add=lambda *_: None, remove=lambda *_: None)


class Parts:
    """Implements ``kernel.host.Parts`` as far as needed."""

    def __init__(self, cls: type) -> None:
        self.cls = cls

    async def load_class(self, spec: MicroserviceSpec) -> type:
        """Return the class."""
        return self.cls

    def find_class(self, spec: MicroserviceSpec) -> None:
        """No bundle."""

    inline = True

    def server_chain(self, spec: MicroserviceSpec, context: Any) -> ComposedServerChain:
        """Return an empty chain."""
        return ComposedServerChain([], context)

    def checkpoints(self, target: Any) -> Any:
        """There are none."""

    async def arguments(self, record: MicroserviceRecord) -> bytes:
        """No arguments."""
        return b"\x00"

    async def run(self, function: Any) -> Any:
        """Run it here."""
        return function()

    def group_key(self, microservice: str, path: str) -> str:
        """Return some key."""
        return f"{microservice}{path}"

    def event(self, *_: str) -> None:
        """Nobody listens."""


class Valid:
    """A session that holds."""

    def valid(self) -> bool:
        """Always."""
        return True


def request() -> InstantiateRequest:
    document = GroupDocument(replicas=(ReplicaDocument("r1", "s1", 7),))
    return InstantiateRequest(
        "m1", "/", "r1", MicroserviceRecord(MicroserviceSpec("x:Plain")), document, Fence(1, 2, 3)
    )


@pytest.fixture
async def confirmer():
    """When confirmations happen."""
    return Confirmer()


async def test_a_leader_that_stops_waiting_leaves_no_confirmed_replica_without_its_object(confirmer):
    """Found under load: the confirmation landed in etcd, the cancelled command dropped the object."""
    host = Host(parts=Parts(Plain), surroundings=Around(), confirmer=confirmer, validity=Valid(), groups=no_groups())
    sender = asyncio.ensure_future(host.instantiate(request()))
    await confirmer.asked.wait()
    sender.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sender
    confirmer.may.set()
    again = await host.instantiate(request())  # idempotent: waits for the one under way
    assert again.document_revision == 11
    assert host.find("m1", "/").state == "serving"
    await host.retire(RetireRequest("m1", "/", "r1", Fence(1, 2, 4)))
    assert host.find("m1", "/") is None
    await host.aclose()


async def test_a_dropped_object_frees_the_users_object_at_once(confirmer):
    """State may be large, and what still refers to the kernel object waits for the cyclic collector, which is in no hurry."""
    host = Host(parts=Parts(Plain), surroundings=Around(), confirmer=confirmer, validity=Valid(), groups=no_groups())
    confirmer.may.set()
    await host.instantiate(request())
    shell = host.find("m1", "/")
    instance = weakref.ref(shell.instance)
    gc.disable()
    try:
        await host.retire(RetireRequest("m1", "/", "r1", Fence(1, 2, 4)))
        assert instance() is None
    finally:
        gc.enable()
    assert shell.state == "gone"
    await host.aclose()


async def test_a_constructor_that_raises_leaves_nothing(confirmer):
    """The error names class and cause."""
    host = Host(parts=Parts(Broken), surroundings=Around(), confirmer=confirmer, validity=Valid(), groups=no_groups())
    with pytest.raises(ConstructionFailed, match="no"):
        await host.instantiate(request())
    assert len(host) == 0
    await host.aclose()
