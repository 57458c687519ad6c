"""What a caller is told of a group that cannot be called, without waiting."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from amino.aio.clock import RealClock
from amino.contracts.documents import GroupDocument, MicroserviceRecord, MicroserviceSpec, Phase, ReplicaDocument
from amino.contracts.services import LocateRequest
from amino.errors import StateLost
from amino.oms.directory import Found
from amino.oms.locating import Locator

HERE = ReplicaDocument("1-a", "s1", 11, confirmed=True)
ROOT = GroupDocument(phase=Phase.ACTIVE, kind="shards", children=("0", "1"), constructed=True)
GROUPS = {
    "/": Found(ROOT, 1),
    "/0": Found(GroupDocument(phase=Phase.ACTIVE, replicas=(HERE,)), 2),
    "/1": Found(GroupDocument(phase=Phase.LOST, reason="its server is lost"), 3),
}


class Directory:
    """Knows one microservice of two shards, one of them lost."""

    def __init__(self, groups: dict[str, Found] = GROUPS, stored: Found | None = None) -> None:
        self._groups = groups
        self._stored = stored

    async def read(self, _: str) -> Found:
        """Return the group at the root as etcd has it."""
        assert self._stored is not None
        self._groups = {**self._groups, "/": self._stored}
        return self._stored

    def pulse(self, *_: str) -> Any:
        """Never tells of news."""
        return contextlib.nullcontext()

    def group(self, _: str, path: str = "/") -> Found:
        """Return a group."""
        return self._groups[path]

    def groups(self, _: str) -> dict[str, Found]:
        """Return all."""
        return self._groups

    def paths(self, _: str) -> list[str]:
        """Return those below the root."""
        return [path for path in self._groups if path != "/"]

    async def compare(self, _: str, __: str) -> None:
        """Has lost nothing."""

    def lives(self, server: str, incarnation: int) -> bool:
        """One server does."""
        return (server, incarnation) == ("s1", 11)

    def server(self, _: str) -> Any:
        """Return it."""
        return SimpleNamespace(incarnation=11, record=SimpleNamespace(address="a:1"))


class Records:
    """Has the record."""

    def __init__(self, generation: int = 0) -> None:
        self._generation = generation

    async def get(self, _: str, __: int) -> MicroserviceRecord:
        """Return it."""
        return MicroserviceRecord(MicroserviceSpec("m:C"), generation=self._generation)


async def test_the_loss_of_one_shard_is_told_to_whoever_asks_for_it_at_once() -> None:
    """Who wants the lost shard gets ``StateLost``, also without patience; who wants another one gets its place."""
    directory: Any = Directory()
    records: Any = Records()
    locator = Locator(directory, records, directory, RealClock())
    with pytest.raises(StateLost, match="/1 has lost its state"):
        await locator.locate(LocateRequest(microservice="m", stale={"/1": 0}))
    found = await locator.locate(LocateRequest(microservice="m", stale={"/0": 0}))
    assert found.groups["/0"].replicas[0].server == "s1"


async def test_the_loss_of_all_shards_is_told_without_waiting() -> None:
    """Who asks for the whole learns that no shard is left, however patient it is."""
    directory: Any = Directory({"/": GROUPS["/"], "/1": GROUPS["/1"]})
    records: Any = Records()
    locator = Locator(directory, records, directory, RealClock())
    with pytest.raises(StateLost, match="/1 has lost its state"):
        await locator.locate(LocateRequest(microservice="m", wait_s=1000.0))


async def test_chain_and_groups_of_a_location_belong_together() -> None:
    """Seed 5186 of live-change: a server whose watch was behind told a chain with shards, and no shards; the caller divided by 0."""
    before = Found(GroupDocument(phase=Phase.ACTIVE, replicas=(HERE,), constructed=True), 1)
    directory: Any = Directory({**GROUPS, "/": before}, Found(msgspec.structs.replace(ROOT, generation=1), 9))
    records: Any = Records(generation=1)
    locator = Locator(directory, records, directory, RealClock())
    found = await locator.locate(LocateRequest(microservice="m"))
    assert found.groups["/"].children == ("0", "1")
