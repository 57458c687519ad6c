"""The client component that chooses a replica for each read."""

from __future__ import annotations

import random
from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from amino.aio.mode import drive
from amino.contracts.calls import Call, RequestId
from amino.dm import ConsensusRSMP2P
from amino.dm.replication.nearby import Reader
from amino.errors import Invalid
from amino.marks import READONLY


class Replicas:
    """Answers after a time that depends on the place asked; -1 is the primary."""

    def __init__(self, took_s: dict[int, float]) -> None:
        self.took_s = took_s
        self.now = 0.0
        self.asked: Counter[int] = Counter()
        self.clock = SimpleNamespace(monotonic=lambda: self.now)
        self.random = random.Random(1)

    async def forward(self, call: Call) -> str:
        """Answer."""
        self.asked[call.spread] += 1
        self.now += self.took_s.get(call.spread, 0.1)
        return "read"


def read(replicas: Any, reader: Reader) -> None:
    call = Call("m", "get", (), {}, READONLY, RequestId("c", "m", 1), 1e12)
    drive(reader.on_call(call, replicas.forward))


@pytest.mark.parametrize("nearest", [-1, 0, 3])
def test_reads_settle_on_the_replica_that_answers_fastest(nearest: int) -> None:
    """The primary too, if that is it: on its own device no read has to travel (reads once avoided the primary)."""
    replicas = Replicas({nearest: 0.001})
    reader = Reader(replicas, nearest=True)  # type: ignore[arg-type]
    for _ in range(500):
        read(replicas, reader)
    assert replicas.asked[nearest] > 350, replicas.asked


def test_reads_that_need_no_nearest_go_round() -> None:
    """Never to the primary on purpose: that is what the others are for."""
    replicas = Replicas({})
    reader = Reader(replicas, nearest=False)  # type: ignore[arg-type]
    for _ in range(60):
        read(replicas, reader)
    assert min(replicas.asked) >= 0
    assert max(replicas.asked.values()) == 1


def test_options_of_the_group_on_devices() -> None:
    """State is shipped by default, the level asks for devices, and reads go nearby only if they may be old."""
    manager = ConsensusRSMP2P()
    assert (manager.replicas, manager.min_in_sync, manager.replicate) == (3, 2, "state")
    level = manager.level(0)
    assert (level.kind, level.members, level.devices) == ("replicated", 3, True)
    assert manager.client(Replicas({})) is None  # type: ignore[arg-type]
    assert ConsensusRSMP2P(read_staleness_s=1.0).client(Replicas({})) is not None  # type: ignore[arg-type]
    with pytest.raises(Invalid, match="min_in_sync=4 is more than replicas=3"):
        ConsensusRSMP2P(min_in_sync=4)
