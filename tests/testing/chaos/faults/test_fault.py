"""What holds of every fault: several at once, and how long undoing may take."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from amino.errors import NotFound
from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.faults import FAULTS, Nemesis, Scene, Shape, make
from amino.testing.chaos.faults.fault import Fault, Together


class Unfolding(Fault):
    """A fault that takes a while to cause, on a clock of its own."""

    kind = "unfolding"
    unfolds = True

    def __init__(self, times: list[float]) -> None:
        super().__init__(None, "all")  # type: ignore[arg-type]
        self.times = times

    @classmethod
    def targets(cls, shape: Shape) -> list[str]:
        """Return it."""
        return ["all"]

    async def inject(self) -> None:
        """Take five seconds."""
        self.times[0] += 5.0

    async def happened(self) -> bool:
        """It has."""
        return True

    async def heal(self) -> None:
        """Take one second."""
        self.times[0] += 1.0


class Instant(Unfolding):
    """The same, if it counted only from its end."""

    kind = "instant"
    unfolds = False


@pytest.mark.parametrize(("kind", "began_s"), [(Unfolding, 3.0), (Instant, 8.0)])
async def test_when_a_fault_began(kind: type[Unfolding], began_s: float) -> None:
    """What goes on while it is caused began when that began; what is there at once, when it was there for certain."""
    times = [3.0]
    nemesis = Nemesis(None, lambda: times[0], rest_s=0.0)  # type: ignore[arg-type]
    record = await nemesis.cause(kind(times), 0.0)
    assert record.verified
    assert (record.began_s, record.healed_s) == (began_s, 9.0)


class Restless:
    """A cluster of two servers, and its view: it never comes to rest, and one log cannot be read."""

    servers, devices = ("s1", "s2"), ()

    async def await_rest(self, _servers: int, _timeout_s: float, _devices: int) -> list[str]:
        """Say what is missing."""
        return ["ms/: 0 of 1 replicas are there"]

    async def last_lines(self, server: str) -> str:
        """Return the log of s1."""
        if server == "s2":
            raise NotFound("no container")
        return "placing ms"


async def test_why_there_is_no_rest_is_noted() -> None:
    """What is missing, and how the log of each server ends, for whoever reads the report when the cluster is gone."""
    there = Restless()
    nemesis = Nemesis(SimpleNamespace(cluster=there, view=there), lambda: 7.0, rest_s=1.0)  # type: ignore[arg-type]
    await nemesis.cause(Unfolding([7.0]), 0.0)
    first, log, unreadable = nemesis.notes
    assert first.endswith("ms/: 0 of 1 replicas are there")
    assert log == "the log of s1 ends: placing ms"
    assert "no container" in unreadable


def test_several_at_once() -> None:
    """Faults that happen together unfold if one of them does, and have the time of all to be undone."""
    scene: Scene = None  # type: ignore[assignment]
    both = make(scene, "kill-kernel+rolling-restart", "s1+all")
    assert isinstance(both, Together)
    assert both.unfolds
    assert both.heals_within_s == sum(one.heals_within_s for one in both.parts)


def test_who_cannot_roll() -> None:
    """One server alone has nobody to drain to, and without another release there is no upgrade."""
    alone = Shape(("s1",), 1, frozenset(Ability), 2.0)
    assert not FAULTS["rolling-restart"].targets(alone)
    assert Ability.RELEASES in FAULTS["rolling-upgrade"].needs
