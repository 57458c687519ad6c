"""An operation whose caller gives up at any call it makes is finished or undone by the reconciler, and can be repeated.

This is what a kernel server's own microservices do: their registry operations run on the server's loop and are cancelled
when their time is up (``RegistryClient``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from amino.contracts.services import CreateRequest, DeleteRequest, MoveRequest
from amino.errors import AminoError, NotFound
from tests.coordination.virtual import run_virtual
from tests.oms.world import World, spec

Begin = Callable[[World, str], Awaitable[Any]]


async def _create(world: World, ms_id: str) -> Any:
    request = CreateRequest(ms_id, spec(name="hits", durable=True), b"\x01x", "fail", 30.0)
    return await world.servers["s1"].registry.create(request)


async def _delete(world: World, ms_id: str) -> Any:
    return await world.servers["s1"].registry.delete(DeleteRequest(microservice=ms_id))


async def _move(world: World, ms_id: str) -> Any:
    target = next(name for name in ("s2", "s3") if name != world.home(ms_id).name)
    return await world.servers["s1"].registry.move(MoveRequest(microservice=ms_id, server=target))


async def _cancelled_at(world: World, begin: Begin, ms_id: str, number: int) -> bool:
    """Run the operation and cancel it at its ``number``-th call, before that has an effect; whether it came that far."""
    leader = world.servers["s1"]
    task = asyncio.create_task(begin(world, ms_id))
    step, left = leader.step, number

    async def cancelling(what: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            task.cancel()
        await step(what)

    leader.step = cancelling  # type: ignore[method-assign]
    await asyncio.wait([task])
    leader.step = step  # type: ignore[method-assign]
    return left <= 0


@pytest.mark.parametrize("begin", [_create, _delete, _move])
def test_cancelling_leaves_nothing_half_done(begin) -> None:
    """Whatever call the caller gives up at, records and kernels agree soon, and the same request again succeeds."""

    async def main(clock):
        number, reached = 0, True
        while reached:
            number += 1
            async with World(clock) as world:
                await world.add("s1", "s2", "s3")
                ms_id = world.id_led_by("s1")
                if begin is not _create:
                    await world.create(ms_id=ms_id, name="hits", durable=True)
                    await world.settled()
                await asyncio.sleep(0.2)  # virtual: let what creation has set in motion come to rest
                reached = await _cancelled_at(world, begin, ms_id, number)
                await world.settled()
                await _ends_well(world, begin, ms_id)
        assert number > 2

    run_virtual(main)


async def _ends_well(world: World, begin: Begin, ms_id: str) -> None:
    try:
        await begin(world, ms_id)
    except NotFound:
        assert begin is _delete, "only a deletion can have been done already"
    except AminoError as error:
        raise AssertionError(f"repeating it failed: {error}") from error
    await world.settled()
    if begin is _delete:
        assert not {"microservices", "groups", "names"} & set(world.values())
    else:
        assert world.home(ms_id)
        assert len(world.values()["groups"]) == 1
