"""The slot leader dies at every single call it makes; its successor finishes or undoes what it began."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from amino.contracts.services import DeleteRequest, MoveRequest
from amino.errors import AminoError, NotFound
from tests.coordination.virtual import run_virtual
from tests.oms.world import Server, World

Operation = Callable[[World, str], Awaitable[None]]


async def _world(world: World) -> None:
    await world.add("s1", "s2", "s3", "s4")


async def _prepare(world: World, **changes) -> str:
    """Create a microservice led by s1 whose object is at s2 or s3, so that s1's death is the leader's only."""
    while True:
        ms_id = world.id_led_by("s1")
        await world.create(at="s2", ms_id=ms_id, **changes)
        if world.home(ms_id).name != "s1":
            return ms_id


async def _create(world: World, ms_id: str) -> None:
    location = await world.create(at="s2", ms_id=ms_id, name="hits", durable=True)
    assert location.created


async def _delete(world: World, ms_id: str) -> None:
    await world.servers["s2"].registry.delete(DeleteRequest(microservice=ms_id))


async def _move(world: World, ms_id: str) -> None:
    target = next(name for name in ("s3", "s4") if name != world.home(ms_id).name)
    try:
        await world.servers["s2"].registry.move(MoveRequest(microservice=ms_id, server=target))
    except AminoError as error:
        world.verdicts.append(error)


async def _recover(world: World, ms_id: str) -> None:
    home = world.home(ms_id)
    home.die()
    await world.until(lambda: world.document(ms_id).epoch > 1 and world.document(ms_id).replicas[0].confirmed)


async def _at_every_step(clock, operation: Operation, durable: bool, silent: bool, check: Operation) -> int:
    """Run ``operation`` once for each call its leader makes, with the leader dying there; returns how many there are."""
    crash_at, total = 1, None
    while total is None or crash_at <= total:
        async with World(clock) as world:
            world.verdicts = []
            await _world(world)
            ms_id = world.id_led_by("s1") if operation is _create else await _prepare(world, durable=durable)
            await world.settled()
            leader: Server = world.servers["s1"]
            await asyncio.sleep(0.2)  # let what creation has set in motion (events) come to rest
            begin = leader.steps
            if total is None:
                await operation(world, ms_id)
                total = leader.steps - begin
                await check(world, ms_id)
                continue
            leader.silent = silent
            leader.crash_at = begin + crash_at
            await operation(world, ms_id)
            trace = leader.trace[begin:]
            try:
                await world.elected()
                await check(world, ms_id)
                await world.settled()
            except BaseException as error:
                error.add_note(f"leader died at its call {crash_at} of {total}: {trace}")
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
    ("operation", "durable", "check", "steps_min"),
    [
        (_create, True, _serves, 2),
        (_delete, True, _is_gone, 4),
        (_move, False, _serves_its_value, 4),
        (_recover, True, _serves_its_value, 3),
    ],
)
def test_a_leader_may_die_at_any_call(operation, durable, check, steps_min, silent) -> None:
    """Whatever call of the leader is its last, the operation ends as if it had been done once or not at all."""

    async def main(clock):
        steps = await _at_every_step(clock, operation, durable, silent, check)
        assert steps >= steps_min

    run_virtual(main)
