"""``AtLeastOnceRPC``: repeats what is unknown, never an application error, never past the deadline."""

from __future__ import annotations

import asyncio
import random

import pytest

from amino.contracts.calls import Call, Raised, RequestId
from amino.dm import AtLeastOnceRPC
from amino.errors import Invalid, NotExecuted, OutcomeUnknown, Overloaded


class World:
    """A context whose time passes only by waiting."""

    def __init__(self) -> None:
        self.now = 100.0
        self.slept: list[float] = []
        self.random = random.Random(1)
        self.clock = self
        self.microservice = "m"

    def monotonic(self) -> float:
        """Seconds."""
        return self.now

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds


class Script:
    """The rest of the chain: does one thing after the other, taking ``takes_s`` for each."""

    def __init__(self, world: World, *outcomes, takes_s: float = 0.0) -> None:
        self.world = world
        self.outcomes = list(outcomes)
        self.takes_s = takes_s
        self.sent: list[float] = []

    async def __call__(self, call: Call):
        self.sent.append(self.world.now)
        call.first_sent = call.first_sent or self.world.now
        self.world.now += self.takes_s
        outcome = self.outcomes.pop(0) if len(self.outcomes) > 1 else self.outcomes[0]
        if isinstance(outcome, OutcomeUnknown):
            call.attempt += 1
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome


def run(manager: AtLeastOnceRPC, script: Script, deadline_s: float = 30.0):
    call = Call("m", "f", (), {}, 0, RequestId("c", "m", 1), script.world.now + deadline_s)
    return asyncio.run(manager.client(script.world).on_call(call, script))


def test_unknown_and_not_executed_are_repeated():
    """The same request is sent again until there is an outcome."""
    world = World()
    script = Script(world, OutcomeUnknown("lost"), NotExecuted("moved", reason="moved"), Overloaded("full"), 7)
    assert run(AtLeastOnceRPC(), script) == 7
    assert len(script.sent) == 4


@pytest.mark.parametrize("error", [Raised(KeyError("no")), Raised(OutcomeUnknown("of a nested call")), Invalid("bad")])
def test_application_errors_are_never_repeated(error):
    """Not even one that looks like one of ours: what a method raised is its outcome."""
    script = Script(World(), error)
    with pytest.raises(type(error)):
        run(AtLeastOnceRPC(), script)
    assert len(script.sent) == 1


@pytest.mark.parametrize("takes_s", [0.0, 0.3])
@pytest.mark.parametrize(("timeout_s", "deadline_s"), [(5.0, 30.0), (20.0, 3.0)])
def test_nothing_is_sent_after_the_time_is_up(timeout_s, deadline_s, takes_s):
    """The earlier of time-out and deadline ends it; the last cause is attached and the category is honest."""
    world = World()
    script = Script(world, OutcomeUnknown("lost"), takes_s=takes_s)
    with pytest.raises(OutcomeUnknown, match="repeated for") as ended:
        run(AtLeastOnceRPC(timeout_s=timeout_s), script, deadline_s)
    assert isinstance(ended.value.__cause__, OutcomeUnknown)
    end = 100.0 + min(timeout_s, deadline_s)
    assert len(script.sent) > 3
    assert max(script.sent) < end
    assert world.now <= end + takes_s


def test_what_was_never_sent_is_not_called_unknown():
    """Only a send of unknown outcome makes the outcome unknown."""
    with pytest.raises(NotExecuted) as ended:
        run(AtLeastOnceRPC(timeout_s=1.0), Script(World(), NotExecuted("gone", reason="unreachable")))
    assert ended.value.reason == "unreachable"


def test_waits_grow_to_their_bound():
    """Back-off is exponential with jitter, within the options."""
    world = World()
    with pytest.raises(OutcomeUnknown):
        run(AtLeastOnceRPC(backoff_initial_s=0.1, backoff_max_s=0.5), Script(world, OutcomeUnknown("lost")))
    assert world.slept[0] == 0.1
    assert max(world.slept) <= 0.5
    assert max(world.slept[5:]) > 0.2
