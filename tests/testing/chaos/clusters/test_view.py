"""What the view takes for whole, of documents and servers as etcd has them."""

from __future__ import annotations

import asyncio
import os
import threading
from types import SimpleNamespace

import pytest

from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument
from amino.testing.chaos.clusters.view import ClusterView, _not_whole

DEVICES = {"d1": 11, "d2": 12, "d3": 13}
SERVERS = {"s1": 1, "s2": 2}


def group(*places: str, devices: bool = False, wanted: int = 3) -> GroupDocument:
    live = SERVERS | DEVICES
    replicas = tuple(ReplicaDocument(f"r{name}", name, live[name], confirmed=True) for name in places)
    return GroupDocument(
        phase=Phase.ACTIVE,
        replicas=replicas,
        primary=replicas[0].id,
        in_sync=tuple(one.id for one in replicas),
        kind="replicated",
        wanted=wanted,
        min_in_sync=2,
        devices=devices,
    )


def test_a_group_on_devices_is_whole_with_those_there_are() -> None:
    """It has a replica on every device up to the number wanted; with fewer than must be in sync, servers stand in."""
    assert not _not_whole(group("d1", "d2", "d3", devices=True), SERVERS | DEVICES, 3)
    assert "2 of 3" in _not_whole(group("d1", "d2", devices=True), SERVERS | DEVICES, 3)
    assert not _not_whole(group("d1", "s1", devices=True), {**SERVERS, "d1": 11}, 1)
    assert not _not_whole(group("s1", "s2", devices=True), SERVERS, 0)
    assert "1 of 3" in _not_whole(group("s1", devices=True), SERVERS, 0)


def test_a_group_on_servers_does_not_wait_for_devices() -> None:
    """With fewer servers than replicas are wanted it is whole, however many devices there are."""
    assert not _not_whole(group("s1", "s2"), SERVERS | DEVICES, 3)
    assert "1 of 3" in _not_whole(group("s1"), SERVERS | DEVICES, 3)


def test_where_a_missing_replica_should_be_is_told() -> None:
    """Its server, and whether that is another incarnation by now."""
    assert "; rs2 on s2@2, which is gone" in _not_whole(group("s1", "s2"), {"s1": 1, "s2": 9}, 0)


async def test_looking_at_processes_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker says nothing of any container while it starts one, and workers run on the loop that samples are taken on."""
    asked, answer = threading.Event(), threading.Event()

    def pid(*_: object) -> int:
        asked.set()
        assert answer.wait(20.0), "the loop waited for this"
        return os.getpid()

    async def nothing(*_: object) -> dict[str, int]:
        return {}

    async def none(*_: object) -> int:
        return 0

    view = ClusterView([])
    monkeypatch.setattr(view, "groups", nothing)
    monkeypatch.setattr(view, "count_keys", none)
    sample = asyncio.ensure_future(view.figures(SimpleNamespace(servers=("s1",), pid=pid)))  # type: ignore[arg-type]
    await asyncio.to_thread(asked.wait, 20.0)
    answer.set()
    assert (await sample)["s1 threads"] >= 1
