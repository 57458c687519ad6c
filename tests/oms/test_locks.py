"""Distributed locks at the OMS: turns, expiry on the leader's own clock, tokens, changes of the slot's leader."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from amino.contracts.locks import AcquireLockRequest, HeldLockRequest, LockDocument, LockGrant
from amino.errors import Invalid, LockLost
from amino.oms.lock_machine import LockState, Verdict
from tests.coordination.virtual import run_virtual
from tests.oms.world import World


def acquire(world: World, server: str, holder: str, *, lock: str = "orders", **times: float) -> Any:
    return world.servers[server].registry.acquire_lock(AcquireLockRequest(lock, holder, **times))


def renew(world: World, server: str, holder: str, token: int) -> Any:
    return world.servers[server].registry.renew_lock(HeldLockRequest("orders", holder, token, 5.0))


def release(world: World, server: str, holder: str, token: int) -> Any:
    return world.servers[server].registry.release_lock(HeldLockRequest("orders", holder, token, 5.0))


async def world_of_three(world: World) -> None:
    await world.add("s1", "s2", "s3")


def test_the_machine_grants_in_order_and_not_before_the_ttl_has_passed() -> None:
    """The first in the queue gets a free lock; a held one only when its holder was not heard of for the whole TTL."""
    state = LockState(queue={"a": None, "b": None})
    assert state.judge("b", 0.0) is Verdict.WAIT
    assert state.judge("a", 0.0) is Verdict.GRANT
    state.learned(LockDocument("x", 10.0), 7, 100.0)
    assert state.judge("a", 109.9) is Verdict.WAIT
    assert state.judge("x", 109.9) is Verdict.HAS_IT
    assert state.is_held_by("x", 7, 109.9)
    assert not state.is_held_by("x", 6, 109.9)
    assert not state.is_held_by("x", 7, 110.0)
    state.learned(LockDocument("x", 10.0), 7, 105.0)  # read again: no renewal
    assert state.judge("a", 110.0) is Verdict.GRANT


def test_waiters_are_served_in_turn_and_tokens_grow() -> None:
    """Whoever asked first, at any server, gets the lock first; each grant has a larger token; a free lock leaves no key."""

    async def main(clock):
        async with World(clock) as world:
            await world_of_three(world)
            first: LockGrant = await acquire(world, "s1", "a")
            assert first.token > 0
            waiting = []
            for n, holder in enumerate("bcd"):
                waiting.append(asyncio.create_task(acquire(world, f"s{n + 1}", holder, wait_s=8.0)))
                await asyncio.sleep(0.05)
            token = first.token
            for holder, task in zip("bcd", waiting, strict=True):
                await release(world, "s2", {"b": "a", "c": "b", "d": "c"}[holder], token)
                grant = await task
                assert grant.holder == holder
                assert grant.token > token
                token = grant.token
            await release(world, "s1", "d", token)
            assert world.etcd.list(world.keys.locks_prefix)[0] == []
            assert (await acquire(world, "s3", "e")).token > token

    run_virtual(main)


def test_a_dead_holder_loses_the_lock_after_its_ttl_and_not_before() -> None:
    """Renewals keep it without a write; when they end, the next has it within the TTL, and the old token is refused."""

    async def main(clock):
        async with World(clock) as world:
            await world_of_three(world)
            grant = await acquire(world, "s1", "a", ttl_s=4.0)
            for _ in range(5):
                await asyncio.sleep(2.0)
                await renew(world, "s2", "a", grant.token)
            assert world.etcd.list(world.keys.locks_prefix)[0][0].mod_revision == grant.token
            since = clock.monotonic()
            other = await acquire(world, "s3", "b", wait_s=8.0)
            assert 3.9 <= clock.monotonic() - since <= 5.0
            assert other.waited_s == pytest.approx(4.0, abs=0.1)
            with pytest.raises(LockLost, match="orders"):
                await renew(world, "s1", "a", grant.token)
            await release(world, "s1", "a", grant.token)  # frees nothing of b's
            assert (await renew(world, "s1", "b", other.token)).token == other.token

    run_virtual(main)


def test_a_lock_nobody_asks_for_is_removed_when_its_holder_is_dead() -> None:
    """What a dead holder left in etcd goes after its TTL, also when the slot's leader changed meanwhile."""

    async def main(clock):
        async with World(clock) as world:
            await world_of_three(world)
            await acquire(world, "s1", "a", ttl_s=5.0)
            await acquire(world, "s1", "a", lock="other", ttl_s=5.0)
            world.leader_of("orders").die()
            await world.elected()
            await asyncio.sleep(7.0)
            assert world.etcd.list(world.keys.locks_prefix)[0] == []

    run_virtual(main)


def test_a_new_leader_waits_a_full_ttl_but_knows_the_holder() -> None:
    """After a change of leader the holder goes on renewing under its token, and others wait the TTL from then."""

    async def main(clock):
        async with World(clock) as world:
            await world_of_three(world)
            grant = await acquire(world, "s1", "a", ttl_s=6.0)
            await asyncio.sleep(5.0)
            await renew(world, "s1", "a", grant.token)
            gone = world.leader_of("orders")
            gone.die()
            left = next(name for name, server in world.servers.items() if server.alive)
            other = asyncio.create_task(acquire(world, left, "b", wait_s=20.0, timeout_s=30.0))
            await asyncio.sleep(4.0)
            assert (await renew(world, left, "a", grant.token)).token == grant.token
            since = clock.monotonic()
            taken = await other
            assert taken.token > grant.token
            assert 5.5 <= clock.monotonic() - since <= 7.0

    run_virtual(main)


def test_a_repeated_request_finds_what_the_first_one_got() -> None:
    """Acquiring is idempotent by holder; a place in the queue is kept between rounds, and given up by whoever stays away."""

    async def main(clock):
        async with World(clock) as world:
            await world_of_three(world)
            grant = await acquire(world, "s1", "a", ttl_s=3600.0)
            assert (await acquire(world, "s2", "a", ttl_s=3600.0)).token == grant.token
            assert (await acquire(world, "s1", "gone", wait_s=0.2)).token == 0
            assert (await acquire(world, "s1", "b", wait_s=0.2)).token == 0
            again = asyncio.create_task(acquire(world, "s1", "b", wait_s=5.0))
            late = asyncio.create_task(acquire(world, "s1", "c", wait_s=5.0))
            await asyncio.sleep(1.5)
            await release(world, "s1", "a", grant.token)
            assert (await again).token > grant.token
            assert (await late).token == 0

    run_virtual(main)


def test_what_cannot_be_is_refused() -> None:
    """Names and TTLs out of their bounds are refused, naming them."""

    async def main(clock):
        async with World(clock) as world:
            await world.add("s1")
            with pytest.raises(Invalid, match="ttl_s"):
                await acquire(world, "s1", "a", ttl_s=0.1)
            with pytest.raises(Invalid, match="a/b"):
                await acquire(world, "s1", "a", lock="a/b")
            with pytest.raises(Invalid, match="holder"):
                await acquire(world, "s1", "")

    run_virtual(main)
