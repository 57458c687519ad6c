"""Vaults: objects protected by a distributed lock, whose holders are frozen, cut off and killed.

Owns judging mutual exclusion: at most one holder believes in its lock, and what the lock protects takes tokens in order only.
Leaves how grants are made to ``oms.locks``.
Invariants: a holder's belief is read at the instant another is granted the lock, on the same virtual clock.
Failure behaviour: two holders at once, a token that goes back, or a lock that stays taken is a finding.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.errors import AminoError, LockHeld, LockLost, StaleToken
from amino.ids import slot_of
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting

if TYPE_CHECKING:
    from amino.stubs.locks import Lock
    from amino.testing.simulation.client import SimulatedClient

TTL_S = 2.0
WAIT_S = 6.0
HELD_S = (0.0, 1.2)
PAUSE_S = 0.3
FREE_S = 1.0
DEATHS_MAX = 5


class Vault:
    """Notes under which token each caller put something in."""

    def __init__(self) -> None:
        self.entries: list[tuple[int, str, int]] = []

    def put(self, lock: amino.Fence, caller: str, number: int) -> int:
        """Note an entry, unless the token is older than the newest seen; returns the token."""
        amino.fenced(lock)
        self.entries.append((lock.token, caller, number))
        return lock.token

    @amino.readonly
    def audit(self) -> list[tuple[int, str, int]]:
        """Return all."""
        return self.entries


class Vaults:
    """The load."""

    def __init__(self, setting: Setting) -> None:
        self._setting = setting
        self._lock_name = f"{setting.name}-lock"
        self._stub: Any = None
        self._held: dict[str, Lock] = {}
        self._told: dict[tuple[str, int], int] = {}
        self._numbers: Counter[str] = Counter()

    def start(self) -> None:
        """See ``Load.start``."""
        clients = self._setting.clients
        self._setting.spawn(clients[0], self._make(clients[0]), "maker")
        for client in clients:
            self._setting.spawn(client, self._hold(client), f"holder on {client.name}")

    async def _make(self, client: SimulatedClient) -> None:
        chain = (AtLeastOnceRPC(), PeriodicCheckpoint(every=1))
        self._stub = await self._setting.create(
            client, amino.spec(Vault, name=f"{self._setting.name}-vault", dms=chain)
        )

    async def _hold(self, client: SimulatedClient) -> None:
        random = self._setting.random_for(client.name)
        while not self._setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            lock = client.cluster.lock(self._lock_name, ttl_s=TTL_S, wait_s=WAIT_S)
            try:
                await amino.aio(lock.acquire)()
            except AminoError as error:
                self._setting.note("acquire", error)
                continue
            self._granted(client.name, lock)
            try:
                await self._put(client, lock)
                await asyncio.sleep(random.uniform(*HELD_S))
                await self._put(client, lock)
            except (LockLost, StaleToken) as error:
                self._setting.note("put", error)
            except AminoError as error:
                self._setting.note("put", error)
            finally:
                del self._held[client.name]
                await amino.aio(lock.release)()

    def _granted(self, who: str, lock: Lock) -> None:
        self._setting.count("acquire ok")
        if believes(lock, self._setting.now):
            for other, theirs in self._held.items():
                if believes(theirs, self._setting.now):
                    self._setting.find(1, f"{who} got {lock!r} while {other} validly holds {theirs!r}")
        self._held[who] = lock

    async def _put(self, client: SimulatedClient, lock: Lock) -> None:
        if self._stub is None:
            return
        number = self._numbers[client.name] = self._numbers[client.name] + 1
        with amino.deadline(DEADLINE_S):
            fence = lock.fence
            put = amino.aio(client.cluster.bind(self._stub).put)
            self._told[client.name, number] = await self._setting.timed(client, "put", put(fence, client.name, number))

    async def audit(self) -> None:
        """See ``Load.audit``."""
        if self._stub is not None:
            try:
                with amino.deadline(DEADLINE_S):
                    vault = self._setting.administrator.cluster.bind(self._stub)
                    entries = [tuple(entry) for entry in await amino.aio(vault.audit)()]
            except AminoError as error:
                self._setting.find(6, f"it cannot be read at rest: {error!r}")
            else:
                self._judge(entries)
        await self._judge_death_of_holder()

    def _judge(self, entries: list[tuple[int, str, int]]) -> None:
        newest, holders = 0, dict[int, str]()
        for token, caller, number in entries:
            if token < newest:
                self._setting.find(1, f"{caller} put {number} under token {token}, after {newest}")
            newest = max(newest, token)
            if holders.setdefault(token, caller) != caller:
                self._setting.find(1, f"token {token} was granted to {holders[token]} and to {caller}")
        there = {(caller, number): token for token, caller, number in entries}
        for call, token in self._told.items():
            if there.get(call) != token:
                self._setting.find(3, f"{call}, acknowledged under token {token}, is there under {there.get(call)}")

    async def _judge_death_of_holder(self) -> None:
        """A lock whose holder died is free within its TTL and a second, unless its slot went to another leader meanwhile."""
        for number in range(DEATHS_MAX):
            before = self._leadership()
            took_s = await self._death_of_holder(f"{self._setting.name}-victim{number}")
            if took_s is None or took_s <= TTL_S + FREE_S:
                return
            if self._leadership() == before:
                self._setting.find(
                    6, f"after its holder died the lock was free in {took_s:.3f} s, with a TTL of {TTL_S:g} s"
                )
                return
        self._setting.find(6, f"the lock's slot changes its leader all the time at rest, {DEATHS_MAX} times by now")

    def _leadership(self) -> int:
        """Return what tells one leadership of the lock's slot from another."""
        cluster = self._setting.cluster
        record = cluster.etcd.get(cluster.keys.slot(slot_of(self._lock_name)))
        return record.create_revision if record is not None else 0

    async def _death_of_holder(self, name: str) -> float | None:
        """Let a client take the lock and die; returns how long it took until another had it, None if it was not taken."""
        victim = self._setting.cluster.client(name)
        lock = victim.cluster.lock(self._lock_name, ttl_s=TTL_S, wait_s=WAIT_S)

        async def take() -> None:
            await amino.aio(lock.acquire)()

        taken = victim.spawn(take(), "victim")
        try:
            await asyncio.wait_for(taken, 2 * WAIT_S)
        except (AminoError, TimeoutError) as error:
            self._setting.find(6, f"the lock cannot be taken at rest: {error!r}")
            return None
        await asyncio.sleep(TTL_S / 2)
        victim.kill()
        died_s = self._setting.now
        another = self._setting.administrator.cluster.lock(self._lock_name, ttl_s=TTL_S, wait_s=WAIT_S)
        with contextlib.suppress(LockHeld):
            await amino.aio(another.acquire)()
            await amino.aio(another.release)()
        return self._setting.now - died_s


def believes(lock: Lock, now_s: float) -> bool:
    """Return whether the holder of ``lock`` would take it for its own at ``now_s``; changes nothing."""
    return bool(lock._token) and not lock._lost and now_s < lock._valid_until_s  # noqa: SLF001 - the belief itself


LOADS = (
    Kind(
        "locks",
        "a distributed lock and what it protects: one holder at a time, tokens in order, free within TTL + 1 s of a death",
        Vaults,
    ),
)
