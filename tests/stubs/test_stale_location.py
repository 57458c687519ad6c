"""What one call learns of a moved object must not be doubted because of what another call learnt earlier."""

from __future__ import annotations

from typing import Any

import pytest

from amino.aio.clock import RealClock
from amino.contracts.calls import Call, RequestId
from amino.contracts.documents import MicroserviceSpec
from amino.contracts.services import GroupLocation, Location, ReplicaLocation
from amino.errors import NotExecuted
from amino.stubs.runtime import Runtime
from amino.stubs.target import Target
from amino.telemetry.trace import Telemetry


@pytest.fixture
def runtime():
    unused: Any = None
    return Runtime(
        client_id="c",
        transport=unused,
        addresses=unused,
        registry=unused,
        compose=unused,
        describe_class=unused,
        clock=RealClock(),
        telemetry=Telemetry.disabled(),
    )


def at(epoch, server="s2"):
    replica = ReplicaLocation(f"r{epoch}", server, 1, "127.0.0.1:1")
    return Location("m", MicroserviceSpec(cls="x:C"), {"/": GroupLocation(epoch, (replica,))})


def call(sent_epoch):
    return Call("m", "add", (), {}, 0, RequestId("c", "m", 1), 0.0, sent_epoch=sent_epoch)


def moved(epoch=None):
    where = (
        {} if epoch is None else {"epoch": epoch, "replica": "r", "server": "s2", "incarnation": 1, "address": "a:1"}
    )
    return NotExecuted("moved", reason="moved", **where)


def test_answer_of_the_present_placement_makes_it_stale(runtime):
    """A "not here" from where the location points to: it must be looked up, past that epoch."""
    target = Target("m")
    target.location = at(2)
    assert not runtime.is_stale(target, call(2), moved())
    assert target.location is None
    assert target.stale is not None
    assert target.stale[3] == 2


def test_late_answer_of_an_older_placement_doubts_nothing(runtime):
    """A call sent before the move hears "not here" after another one has found the new place: that is at hand."""
    target = Target("m")
    target.location = at(3)
    assert runtime.is_stale(target, call(2), moved())
    assert runtime.is_stale(target, call(2), moved(epoch=3))
    assert target.location == at(3)
    assert target.stale is None


def test_hint_is_taken(runtime):
    """An answer that names the new place saves the look-up."""
    target = Target("m")
    target.location = at(2, "s1")
    assert runtime.is_stale(target, call(2), moved(epoch=3))
    assert target.location is not None
    assert target.location.groups["/"].epoch == 3
