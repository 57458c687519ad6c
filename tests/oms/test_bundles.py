"""Bundles of code that nothing uses go; those in use, just pushed, or pushed again stay."""

from __future__ import annotations

import asyncio
import hashlib

from amino.contracts.services import ApplicationRequest, DeleteRequest, PushCodeRequest
from amino.oms.bundles import ROUNDS
from amino.oms.housekeeping import COLLECT_EVERY_S
from tests.coordination.virtual import run_virtual
from tests.oms.world import World, spec

GRACE_S = (ROUNDS + 1) * COLLECT_EVERY_S


async def push(world: World, content: bytes) -> str:
    """Push a bundle; returns its name."""
    sha256 = hashlib.sha256(content).hexdigest()
    await world.servers["s1"].registry.push_code(PushCodeRequest(sha256, "pickle", content))
    return sha256


def bundles(world: World) -> set[str]:
    """Return the names of those that there are."""
    return {world.keys.parse_code(record.key) for record in world.values().get("code", [])}


def test_what_is_used_stays_and_goes_when_it_is_not_used_any_more() -> None:
    """By a microservice or as an application's entry; a large one goes with its file."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            used = await push(world, b"x" * 100_000)
            entry = await push(world, b"entry")
            unused = await push(world, b"unused")
            large = await push(world, b"y" * 100_000)
            ms_id = (await world.create(code=used)).microservice
            await world.servers["s2"].registry.define_application(ApplicationRequest("shop", spec(code=entry), b""))
            await asyncio.sleep(GRACE_S - COLLECT_EVERY_S)
            assert bundles(world) == {used, entry, unused, large}
            await asyncio.sleep(2 * COLLECT_EVERY_S)
            assert bundles(world) == {used, entry}
            assert set(world.blobs) == {used, entry}
            await world.servers["s1"].registry.delete(DeleteRequest(ms_id))
            await asyncio.sleep(GRACE_S + COLLECT_EVERY_S)
            assert bundles(world) == {entry}
            assert set(world.blobs) == {entry}
            assert await push(world, b"x" * 100_000) == used
            assert used in world.blobs

    run_virtual(main)


def test_what_is_pushed_again_stays() -> None:
    """A client that pushes before each use never finds its code gone."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            for _ in range(10):
                sha256 = await push(world, b"again")
                await asyncio.sleep(GRACE_S / 3)
                assert bundles(world) == {sha256}

    run_virtual(main)


def test_pushed_by_a_clock_that_was_ahead() -> None:
    """Who pushes again after a server's wall clock was set back finds the code there, as if no clock had ever been wrong."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            clock.ahead_s = 86400.0
            sha256 = await push(world, b"again")
            clock.ahead_s = 0.0
            for _ in range(10):
                assert await push(world, b"again") == sha256
                await asyncio.sleep(GRACE_S / 3)
                assert bundles(world) == {sha256}

    run_virtual(main)


def test_a_push_while_a_bundle_is_removed_leaves_it_there() -> None:
    """Between the record and the file: the file is put back."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            content = b"z" * 100_000
            sha256 = await push(world, content)
            server = world.servers["s1"]
            take = server.take

            async def late(url: str) -> bytes | None:
                await push(world, content)
                return await take(url)

            server.take = late
            await asyncio.sleep(GRACE_S + COLLECT_EVERY_S)
            assert bundles(world) == {sha256}
            assert world.blobs == {sha256: content}

    run_virtual(main)


def test_another_leader_counts_anew() -> None:
    """A server that did not look all the while removes nothing on the word of its predecessor."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1", "s2")
            sha256 = await push(world, b"code")
            await asyncio.sleep(GRACE_S - COLLECT_EVERY_S)
            leader = next(server for server in world.servers.values() if 0 in server.oms.reconciler.led)
            leader.die()
            await asyncio.sleep(GRACE_S - COLLECT_EVERY_S)
            assert bundles(world) == {sha256}
            await asyncio.sleep(2 * COLLECT_EVERY_S)
            assert not bundles(world)

    run_virtual(main)
