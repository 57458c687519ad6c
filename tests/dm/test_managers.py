"""What all managers have in common: options, documents, the order of components."""

from __future__ import annotations

import asyncio

import pytest

from amino.contracts.calls import Call, RequestId
from amino.contracts.documents import DmSpec
from amino.dm import AtLeastOnceRPC, ExplicitMigration, PeriodicCheckpoint, SerializableRPC
from amino.dm.base import ClientBase, Manager, ServerBase
from amino.dm.chain import ComposedServerChain, compose_client
from amino.dm.registry import managers_of
from amino.errors import AminoError, Invalid


def a_call() -> Call:
    return Call("m", "f", (), {}, 0, RequestId("c", "m", 1), 1e12)


class _Noting:
    def __init__(self, name: str, notes: list[str]) -> None:
        self.name = name
        self.notes = notes

    async def on_call(self, call, forward):
        """Note the way in and out."""
        self.notes.append(f"{self.name}>")
        try:
            return await forward(call)
        finally:
            self.notes.append(f"<{self.name}")


class _NotingClient(_Noting, ClientBase):
    pass


class _NotingServer(_Noting, ServerBase):
    async def on_create(self):
        """Note it."""
        self.notes.append(f"create {self.name}")

    async def on_stop(self):
        """Note it."""
        self.notes.append(f"stop {self.name}")

    def on_snapshot(self):
        """Have a state, except B."""
        return None if self.name == "B" else f"state of {self.name}"

    def on_restore(self, state):
        """Note it."""
        self.notes.append(f"{self.name} = {state}")


class Noted(Manager, frozen=True, kw_only=True):
    """Notes what passes."""

    name: str = ""

    def client(self, context):
        """Return the component."""
        return _NotingClient(f"client {self.name}", context)

    def server(self, context):
        """Return the component."""
        return _NotingServer(self.name, context)


class Silent(Manager, frozen=True, kw_only=True):
    """Has no components."""


def test_a_call_passes_the_chain_as_a_protocol_stack():
    """Client A, B, network, server B, A, the object; and back the same way."""
    notes: list[str] = []
    managers = [Noted(name="A"), Silent(), Noted(name="B")]
    server = ComposedServerChain(managers, lambda _: notes)

    async def method(call):
        notes.append("method")
        return 1

    client = compose_client(managers, notes, lambda call: server.call(call, method))
    assert asyncio.run(client(a_call())) == 1
    way_in = ["client A>", "client B>", "B>", "A>", "method"]
    assert notes == [*way_in, "<A", "<B", "<client B", "<client A"]


def test_upcalls_go_to_the_innermost_first_and_at_the_end_to_the_outermost():
    """To an outer manager the inner ones and the object are the object; states go by manager and place."""
    notes: list[str] = []
    chain = ComposedServerChain([Noted(name="A"), Noted(name="B")], lambda _: notes)
    asyncio.run(chain.on_create())
    assert chain.on_snapshot() == {"Noted@0": "state of A"}
    chain.on_restore({"Noted@0": "x"})
    asyncio.run(chain.on_stop())
    assert notes == ["create A", "create B", "A = x", "B = None", "stop B", "stop A"]


def test_managers_without_components_cost_nothing():
    """Neither side has a step for them."""

    async def innermost(call):
        return 1

    assert compose_client([Silent(), ExplicitMigration()], [], innermost) is innermost
    assert ComposedServerChain([Silent(), ExplicitMigration()], lambda _: []).passes_through


@pytest.mark.parametrize(
    ("manager", "options", "said"),
    [
        (AtLeastOnceRPC, {"timeout_s": 0}, "timeout_s"),
        (AtLeastOnceRPC, {"timeout_s": "20"}, "timeout_s"),
        (AtLeastOnceRPC, {"multiplier": 0.5}, "multiplier"),
        (AtLeastOnceRPC, {"backoff_initial_s": 2.0}, "backoff_initial_s=2.0 is more than backoff_max_s=1.0"),
        (PeriodicCheckpoint, {"every": 0}, "every"),
        (PeriodicCheckpoint, {"every": 1.5}, "every"),
        (PeriodicCheckpoint, {"every": None}, "both None"),
        (PeriodicCheckpoint, {"interval_s": -1.0}, "interval_s"),
        (PeriodicCheckpoint, {"keep": 101}, "keep"),
        (SerializableRPC, {"queue_max": 0}, "queue_max"),
        (SerializableRPC, {"queue": 5}, "queue"),
    ],
)
def test_bad_options_are_refused_wherever_they_come_from(manager, options, said):
    """Made in Python or read from a document: the error names manager, option and what there is."""
    made = []
    for make in (lambda: manager(**options), lambda: manager.from_options(options)):
        with pytest.raises((Invalid, TypeError)) as refused:
            made.append(make())
        assert isinstance(refused.value, Invalid) or options.keys() == {"queue"}
        assert said in str(refused.value)
    assert made == []


def test_a_manager_travels_as_name_and_options_that_differ():
    """A document holds what was set, and makes the same manager again."""
    manager = PeriodicCheckpoint(every=1, keep=5)
    document = manager.to_spec()
    assert document == DmSpec("PeriodicCheckpoint", {"every": 1, "keep": 5})
    assert list(managers_of([document])) == [manager]
    assert AtLeastOnceRPC().to_spec() == DmSpec("AtLeastOnceRPC", {})


def test_unknown_and_repeated_managers_are_refused():
    """An unknown name lists what there is; a manager stands in a chain once."""
    with pytest.raises(AminoError, match="AtLeastOnceRPC"):
        managers_of([DmSpec("AtMostOnce", {})])
    with pytest.raises(Invalid, match="SerializableRPC"):
        managers_of([DmSpec("SerializableRPC", {}), DmSpec("SerializableRPC", {})])
