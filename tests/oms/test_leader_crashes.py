"""A server dies at every single call it makes; the slot leader, or its successor, finishes or undoes what was begun."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amino.contracts.documents import DmSpec
from amino.contracts.services import ChangeRequest, DeleteRequest, MoveRequest
from amino.errors import AminoError, NotFound
from tests.coordination.virtual import run_virtual
from tests.oms.world import Server, World, spec

Operation = Callable[[World, str], Awaitable[None]]


async def _world(world: World) -> None:
    await world.add("s1", "s2", "s3", "s4")


async def _prepare(world: World, **changes) -> str:
    """Create a microservice led by s1 whose object is elsewhere, so that s1's death is the leader's only."""
    ms_id = world.id_led_by("s1")
    await world.create(at="s2", ms_id=ms_id, **changes)
    if world.home(ms_id).name == "s1":
        await world.servers["s2"].registry.move(MoveRequest(microservice=ms_id, server="s2"))
    return ms_id


async def _create(world: World, ms_id: str) -> None:
    location = await world.create(at="s2", ms_id=ms_id, name="hits", durable=True)
    assert location.created


async def _create_plain(world: World, ms_id: str) -> None:
    location = await world.create(at="s2", ms_id=ms_id, name="hits", cls="shop:Plain", on_loss="recreate")
    assert location.created


async def _delete(world: World, ms_id: str) -> None:
    await world.servers["s2"].registry.delete(DeleteRequest(microservice=ms_id))


async def _move(world: World, ms_id: str) -> None:
    target = next(name for name in ("s3", "s4") if name != world.home(ms_id).name)
    try:
        await world.servers["s2"].registry.move(MoveRequest(microservice=ms_id, server=target))
    except AminoError as error:
        world.verdicts.append(error)


async def _change(world: World, ms_id: str) -> None:
    record = world.record(ms_id)
    wanted = spec(labels={"changed": "yes"}, dms=(DmSpec("SerializableRPC"), *record.spec.dms))
    try:
        await world.servers["s2"].registry.change(ChangeRequest(wanted, microservice=ms_id))
    except AminoError as error:
        world.verdicts.append(error)


async def _has_one_spec(world: World, ms_id: str) -> None:
    """Record and document agree, the object serves, and what clients are told is the spec in force."""
    await _serves_its_value(world, ms_id)
    record, document = world.record(ms_id), world.document(ms_id)
    assert not document.changing
    assert record.generation == document.generation
    changed = "changed" in record.spec.labels
    assert changed == (record.generation == 1)
    assert (await world.locate(ms_id)).spec == record.spec
    assert changed or world.verdicts


async def _recover(world: World, ms_id: str) -> None:
    home, epoch = world.home(ms_id), world.document(ms_id).epoch
    home.die()
    await world.until(lambda: world.document(ms_id).epoch > epoch and world.document(ms_id).replicas[0].confirmed)


def _victim(world: World, ms_id: str, role: str) -> Server:
    """Return who is to die: the leader, the server that has the object, or the one that is to get it."""
    if role == "leader":
        return world.servers["s1"]
    home = world.home(ms_id)
    if role == "home":
        return home
    return world.servers[next(name for name in ("s3", "s4") if name != home.name)]


async def _at_every_step(clock, operation: Operation, durable: bool, silent: bool, check: Operation, role: str) -> int:
    """Run ``operation`` once for each call the victim makes, dying there; returns how many there are."""
    crash_at, total = 1, None
    while total is None or crash_at <= total:
        async with World(clock) as world:
            await _world(world)
            ms_id = (
                world.id_led_by("s1")
                if operation in (_create, _create_plain)
                else await _prepare(world, durable=durable)
            )
            await world.settled()
            victim = _victim(world, ms_id, role)
            await asyncio.sleep(0.2)  # let what creation has set in motion (events) come to rest
            begin = victim.steps
            if total is None:
                await operation(world, ms_id)
                total = victim.steps - begin
                await check(world, ms_id)
                continue
            victim.silent = silent
            victim.crash_at = begin + crash_at
            try:
                await operation(world, ms_id)
                await world.elected()
                await check(world, ms_id)
                await world.settled()
                assert not victim.alive
            except BaseException as error:
                error.add_note(f"{role} {victim.name} died at its call {crash_at} of {total}: {victim.trace[begin:]}")
                raise
            crash_at += 1
    return total


async def _serves(world: World, ms_id: str) -> None:
    await world.settled()
    location = await world.locate(ms_id)
    assert location.groups["/"].replicas[0].server == world.home(ms_id).name


async def _serves_its_value(world: World, ms_id: str) -> None:
    await _serves(world, ms_id)
    assert len(world.values()["groups"]) == 1


async def _is_gone(world: World, ms_id: str) -> None:
    await world.settled()
    with pytest.raises(NotFound):
        await world.locate(ms_id, wait_s=0.0)
    assert not {"microservices", "groups", "names"} & set(world.values())
    assert not world.checkpoints


@pytest.mark.parametrize("silent", [False, True])
@pytest.mark.parametrize(
    ("operation", "durable", "check", "role", "steps_min"),
    [
        (_create, True, _serves, "leader", 2),
        (_create_plain, False, _serves, "leader", 1),
        (_delete, True, _is_gone, "leader", 4),
        (_move, False, _serves_its_value, "leader", 5),
        (_move, True, _serves_its_value, "leader", 5),
        (_move, True, _serves_its_value, "home", 1),
        (_move, True, _serves_its_value, "target", 1),
        (_change, False, _has_one_spec, "leader", 2),
        (_change, True, _has_one_spec, "leader", 2),
        (_change, True, _has_one_spec, "home", 1),
        (_recover, True, _serves_its_value, "leader", 3),
    ],
)
def test_a_server_may_die_at_any_call(operation, durable, check, role, steps_min, silent) -> None:
    """Whatever call of a server is its last, the operation ends as if it had been done once or not at all."""

    async def main(clock):
        steps = await _at_every_step(clock, operation, durable, silent, check, role)
        assert steps >= steps_min

    run_virtual(main)
