"""The object's state at one replica: replaying entries, giving and taking snapshots, comparing states.

Owns the queue in which entries are replayed and snapshots installed, one after the other, and the payloads of entries.
Leaves when to do which to ``machine``, and calls at the primary to ``replica``.
Invariants: what changes the state apart from calls runs one at a time; a snapshot is of the state after the entry that is
named with it.
Failure behaviour: what cannot be replayed counts as diverged; a snapshot that cannot be installed is asked for again; a
state that differs is copied afresh, less often the more often it does.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections import deque
from contextlib import asynccontextmanager
from itertools import groupby
from typing import TYPE_CHECKING

import msgspec

from amino.aio.mode import drive
from amino.contracts.operations import decode_operation, encode_operation
from amino.dm.replication.driver import address_of
from amino.dm.replication.machine import Role
from amino.dm.replication.snapshots import Incoming, Outgoing
from amino.errors import AminoError, Invalid

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from amino.contracts.calls import Call
    from amino.contracts.context import ServerContext
    from amino.dm.replication.driver import Driver
    from amino.dm.replication.effects import Effect
    from amino.dm.replication.messages import Entry, Member, SnapshotHeader
    from amino.kernel.gate import Gate

SNAPSHOT = "snapshot"
OPERATION, STATE, CHECK = b"o", b"s", b"c"
"""First byte of a payload: a call to run again; a state to take over; a digest to compare the state with."""

_AT_ONCE = 64
_GATHER_S = 0.01
"""Followers replay what was committed meanwhile in one go: to be woken, and to enter a thread, costs more than a method."""
_ON_LOOP_S = 0.001
"""Methods that run on the loop keep it so long at most, then others have a turn."""
_PART_TIMEOUT_S = 10.0
_QUIET_S = 10.0
_RETRY_S = 1.0
_REPAIR_S_MIN, _REPAIR_S_MAX = 1.0, 60.0
_int = msgspec.msgpack.Decoder(int).decode
_pack_int = msgspec.msgpack.Encoder().encode


class Replaying:
    """The state of one replica.

    Args:
        driver: of the machine.
        gate: shut while a snapshot is taken, and if there are reads meanwhile, while the state changes.
    """

    def __init__(self, driver: Driver, context: ServerContext, gate: Gate, *, read_meanwhile: bool = False) -> None:
        self._driver = driver
        self._context = context
        self._gate = gate
        self._read_meanwhile = read_meanwhile
        self._jobs: deque[Callable[[], Awaitable[None]]] = deque()
        self._job_there = asyncio.Event()
        self._outgoing = Outgoing()
        self._incoming = Incoming()
        self._repair_s = _REPAIR_S_MIN
        self._repair_at = 0.0
        self._repairs = False
        self._loop = asyncio.get_running_loop()
        self._to_apply: list[Entry] = []
        self._gathering: asyncio.TimerHandle | None = None

    def __repr__(self) -> str:
        return f"Replaying({len(self._jobs)} jobs)"

    async def work(self) -> None:
        """Do what is queued, until cancelled."""
        while True:
            while self._jobs:
                try:
                    await self._jobs.popleft()()
                except Exception as error:  # noqa: BLE001 - a bug in one job must not end the replica's work silently
                    self._context.event("replica-job-failed", error=f"{type(error).__name__}: {error}")
                await asyncio.sleep(0)  # a job need not have waited for anything
            self._job_there.clear()
            await self._job_there.wait()

    def _queue(self, job: Callable[[], Awaitable[None]]) -> None:
        self._jobs.append(job)
        self._job_there.set()

    # --- entries ----------------------------------------------------------------------------------------------------

    async def payload_of(self, call: Call, *, ship_state: bool) -> tuple[bytes, int]:
        """Return what the log keeps of a call that has just run, and the digest of its outcome.

        Raises:
            AminoError: the state cannot be pickled.
        """
        if ship_state:
            return STATE + await self._context.object.snapshot(), 0
        operation = self._context.object.operation(call)
        return OPERATION + encode_operation(operation), operation.digest

    def apply(self, entries: tuple[Entry, ...]) -> None:
        """Replay committed entries, after all that were handed over before."""
        self._to_apply += entries
        if self._driver.machine.role is not Role.FOLLOWER:
            self._apply_now()  # somebody waits for it
        elif self._gathering is None:
            self._gathering = self._loop.call_later(_GATHER_S, self._apply_now)

    def _apply_now(self) -> None:
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        entries, self._to_apply = self._to_apply, []
        for start in range(0, len(entries), _AT_ONCE):
            self._queue(functools.partial(self._apply, entries[start : start + _AT_ONCE]))

    async def _apply(self, entries: list[Entry]) -> None:
        """Replay some entries in one go, each where its method runs."""
        run, now = self._context.run, self._context.clock.monotonic
        digests: list[int] = []
        async with self._alone():
            until = now() + _ON_LOOP_S
            for threaded, alike in groupby(entries, self._in_thread):
                some = list(alike)
                if threaded and run is not None:
                    digests += await run(functools.partial(self._replay_here, some))
                    continue
                for entry in some:
                    digests.append(await self._replay(entry))
                    if now() > until:
                        await asyncio.sleep(0)
                        until = now() + _ON_LOOP_S
        machine = self._driver.machine
        effects: list[Effect] = []
        for entry, digest in zip(entries, digests, strict=True):
            effects += machine.applied(entry.index, digest, self._driver.now())
        self._driver.do(effects)

    def _replay_here(self, entries: list[Entry]) -> list[int]:
        """Replay entries in this worker thread."""
        return [drive(self._replay(entry)) for entry in entries]

    def _in_thread(self, entry: Entry) -> bool:
        if self._context.run is None or entry.payload[:1] != OPERATION:
            return False  # states are taken to a thread by whoever reads them
        try:
            return self._context.object.in_thread(decode_operation(memoryview(entry.payload)[1:]))
        except AminoError:
            return False  # what cannot be read is not run at all

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Keep reads out, where there are any."""
        if not self._read_meanwhile:
            yield
            return
        while True:
            with contextlib.suppress(TimeoutError):
                await self._gate.acquire_quiet(_QUIET_S)
                break
        try:
            yield
        finally:
            self._gate.release_quiet()

    async def _replay(self, entry: Entry) -> int:
        """Run an entry again; returns the digest of its outcome. From the loop or a worker thread."""
        kind, content = entry.payload[:1], memoryview(entry.payload)[1:]
        digest = entry.digest
        try:
            if kind == STATE:
                await self._context.object.restore(bytes(content))
            elif kind == CHECK:
                await self._compare(_int(content))
            else:
                replayed = await self._context.object.replay(decode_operation(content), float("inf"))
                digest = replayed.digest
                if replayed.unfaithful:
                    digest = ~entry.digest & 0xFFFFFFFF
                    self._context.event("replica-unfaithful", index=entry.index, why=replayed.unfaithful)
        except Exception as error:  # noqa: BLE001 - whatever it is: this replica cannot follow, and is copied afresh
            digest = ~entry.digest & 0xFFFFFFFF
            self._context.event("replica-cannot-replay", index=entry.index, error=f"{type(error).__name__}: {error}")
        return digest

    # --- comparing states -------------------------------------------------------------------------------------------

    async def check(self) -> tuple[bytes, int]:
        """Return an entry with which the others compare their state; while no mutating call can run."""
        return CHECK + _pack_int(await self._context.object.digest()), 0

    async def _compare(self, digest: int) -> None:
        if self._driver.machine.role is not Role.FOLLOWER or await self._context.object.digest() == digest:
            return
        self._context.event("replica-diverged", why="its state differs though its results were equal")
        if self._repairs:
            return
        self._repairs = True
        self._loop.call_soon_threadsafe(lambda: self._context.spawn(self._repair(), "repair"))

    async def _repair(self) -> None:
        """Have the state copied afresh, not more often than every so often: the class may differ by its nature."""
        now = self._driver.now()
        await asyncio.sleep(max(self._repair_at - now, 0.0))
        self._repair_s = (
            min(2 * self._repair_s, _REPAIR_S_MAX) if now - self._repair_at < _REPAIR_S_MAX else _REPAIR_S_MIN
        )
        self._repair_at = self._driver.now() + self._repair_s
        self._repairs = False
        self._driver.do(self._driver.machine.distrust())

    # --- snapshots that arrive --------------------------------------------------------------------------------------

    def take_part(self, content: bytes) -> None:
        """Take a part of a snapshot."""
        header = self._incoming.take(content)
        if header is not None:
            self._driver.do(self._driver.machine.snapshot_arrived(header, self._driver.now()))

    def install(self, header: SnapshotHeader) -> None:
        """Load a snapshot that arrived, in place of all that was to be replayed."""
        self._jobs.clear()
        self._to_apply.clear()
        self._queue(functools.partial(self._install, header))

    async def _install(self, header: SnapshotHeader) -> None:
        machine = self._driver.machine
        try:
            async with self._alone():
                await self._context.object.restore(self._incoming.pop(header))
        except Exception as error:  # noqa: BLE001 - a state that cannot be loaded here, for whatever reason
            self._context.event("snapshot-refused", error=f"{type(error).__name__}: {error}")
            await asyncio.sleep(_RETRY_S)
            self._driver.do(machine.not_installed(header))
            return
        if machine.distrusted:
            self._context.event("replica-repaired", index=header.index)
        self._driver.do(machine.installed(header, self._driver.now()))

    # --- snapshots for others ---------------------------------------------------------------------------------------

    def take_snapshot(self, to: Member) -> None:
        """Take a snapshot for ``to``: between two calls, or between two entries that are replayed."""
        if self._driver.machine.role is Role.PRIMARY:
            self._context.spawn(self._take_snapshot(to), "snapshot")
        else:
            self._apply_now()
            self._queue(functools.partial(self._take_snapshot, to))

    async def _take_snapshot(self, to: Member) -> None:
        machine, now = self._driver.machine, self._driver.now
        try:
            await self._gate.acquire_quiet(_QUIET_S)
        except TimeoutError:
            self._driver.do(machine.snapshot_ended(to, now()))
            return
        try:
            if self._driver.broken or self._driver.unlogged:
                raise Invalid("the state holds what the log does not")
            index = machine.log_end if machine.role is Role.PRIMARY else (machine.applied_index or 0)
            content = await self._context.object.snapshot()
        except Exception as error:  # noqa: BLE001 - the state cannot be pickled, or a component is not ready
            self._context.event("snapshot-not-taken", error=f"{type(error).__name__}: {error}")
            self._driver.do(machine.snapshot_ended(to, now()))
            return
        finally:
            self._gate.release_quiet()
        self._outgoing.keep(to, content)
        self._driver.do(machine.snapshot_taken(to, index, now()))

    def send_snapshot(self, to: Member, header: SnapshotHeader) -> None:
        """Transfer a snapshot that may leave now."""
        self._context.spawn(self._send_snapshot(to, header), "send snapshot")

    async def _send_snapshot(self, to: Member, header: SnapshotHeader) -> None:
        try:
            for part in self._outgoing.parts(to, header):
                if not self._context.session_valid():
                    raise Invalid("the session is not valid")
                await self._context.notify(address_of(to), SNAPSHOT, part, _PART_TIMEOUT_S)
        except (AminoError, TimeoutError) as error:
            self._context.event("snapshot-not-sent", to=to, error=error)
        finally:
            self._outgoing.drop(to)
            if not self._driver.stopped:
                self._driver.do(self._driver.machine.snapshot_ended(to, self._driver.now()))

    def listed(self, members: tuple[Member, ...]) -> None:
        """Drop snapshots kept for others than ``members``."""
        self._outgoing.retain(members)
