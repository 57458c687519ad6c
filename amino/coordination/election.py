"""Slot leadership: an election on leased keys, one per slot.

Owns claiming and resigning slots, and the guard that every write by a slot leader carries. Leaves what a leader does to
its callbacks and who should lead to ``election_machine``.
Invariants: a slot is led here only while its key is the very creation we made under our session; ``on_gained`` and
``on_lost`` of a slot alternate and never overlap; a slot is given up only after ``on_lost`` has returned.
Failure behaviour: claims of unknown outcome are settled by what the watch shows; a lost slot is reported at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.coordination.election_machine import Claim, Resign, Seen, Settled, State, WakeAt, step
from amino.coordination.keys import Keys
from amino.coordination.store import Compare, Delete, Put, Record, Store, absent, created_at
from amino.coordination.watch import WatchedCache
from amino.errors import Conflict, CoordinationUnavailable, Invalid
from amino.ids import SLOT_COUNT

_log = logging.getLogger("amino.coordination")
SlotCallback = Callable[[int], Awaitable[None]]
RETRY_S = 0.1
BATCH = SLOT_COUNT


@dataclass(frozen=True, slots=True)
class Identity:
    """Who we are in etcd: known to the supervisor that claimed the name, handed to the kernel server it starts."""

    name: str
    incarnation: int
    lease: int


class SlotRecord(msgspec.Struct, frozen=True):
    """Value of ``slots/<n>``."""

    server: str
    incarnation: int
    format: int = 1


def decode_slot(record: Record) -> SlotRecord:
    """Read a slot's record.

    Raises:
        Invalid: it is not one.
    """
    try:
        return msgspec.msgpack.decode(record.value, type=SlotRecord)
    except msgspec.MsgspecError as error:
        raise Invalid(f"{record.key} in etcd is not a slot record: {error}; delete the key") from error


class SlotElection:
    """One server's part in the election of slot leaders.

    Args:
        store: for transactions.
        keys: of the cluster.
        identity: our name, incarnation and lease.
        servers: watched ``servers/``.
        slots: watched ``slots/``, decoding with ``decode_slot``.
        eligible: whether the server of a record may lead slots (not a device, not cordoned).
        on_gained: awaited when we lead a slot; ``guard`` works from then on.
        on_lost: awaited when we do not lead it any more, or are about to resign it (``guard`` works until it returns).
        clock: for patience.
        aside: whether this server reaches too few others to lead; call ``notice`` when that changes.
        on_failure: called when a callback or a task of ours raised.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        identity: Identity,
        servers: WatchedCache[Any],
        slots: WatchedCache[SlotRecord],
        *,
        eligible: Callable[[Record], bool],
        on_gained: SlotCallback,
        on_lost: SlotCallback,
        clock: Clock,
        aside: Callable[[], bool] = lambda: False,
        on_failure: Callable[[BaseException], None] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._identity = identity
        self._servers = servers
        self._slots = slots
        self._eligible = eligible
        self._on_gained = on_gained
        self._on_lost = on_lost
        self._clock = clock
        self._aside = aside
        self._state = State(identity.name)
        self._held: dict[int, int] = {}
        self._given_up: dict[int, int] = {}
        self._own_key = keys.server(identity.name)
        self._value = msgspec.msgpack.encode(SlotRecord(identity.name, identity.incarnation))
        self._dirty = asyncio.Event()
        self._settled = asyncio.Event()
        self._tasks = TaskOwner(f"election {identity.name}", on_failure)
        self._resigning = False

    def __repr__(self) -> str:
        return f"SlotElection({self._identity.name}, leads {len(self._held)} of {SLOT_COUNT})"

    @property
    def led(self) -> frozenset[int]:
        """The slots we lead."""
        return frozenset(self._held)

    def leads(self, slot: int) -> bool:
        """Return whether we lead ``slot``, as far as we know; only ``guard`` in a transaction proves it."""
        return slot in self._held

    def leader_of(self, slot: int) -> str | None:
        """Return the name of the slot's leader as last seen, None while it has none."""
        if slot in self._held:
            return self._identity.name
        return self._leader_in_etcd(self._keys.slot(slot)) or None

    def guard(self, slot: int) -> Compare:
        """Return the compare that every write for ``slot`` must carry.

        Raises:
            Conflict: we do not lead the slot.
        """
        revision = self._held.get(slot)
        if revision is None:
            raise Conflict(f"slot {slot} is not led by {self._identity.name}; ask its leader", reason="not-leader")
        return created_at(self._keys.slot(slot), revision)

    async def start(self) -> None:
        """Take part from now on; the caches have been started before."""
        self._servers.listen(self._notice)
        self._slots.listen(self._notice)
        self._dirty.set()
        self._tasks.spawn(self._run(), "run")

    def notice(self) -> None:
        """Look again: something that ``eligible`` depends on has changed. Never waits."""
        self._dirty.set()

    async def resign_all(self) -> None:
        """Give up all slots and claim no more, for a server that leaves. ``aclose`` it after."""
        self._resigning = True
        while self._held or self._state.busy:
            settled = self._settled
            slots = [slot for slot in self._held if slot not in self._state.busy]
            self._state = replace(self._state, busy=self._state.busy | set(slots))
            for slot in slots:
                self._tasks.spawn(self._resign(slot), f"resign {slot}")
            await settled.wait()

    async def aclose(self) -> None:
        """Take no part any more; ``on_lost`` is awaited for what we led, the keys go with the lease. Idempotent."""
        await self._tasks.aclose()
        while self._held:
            slot, _ = self._held.popitem()
            await self._on_lost(slot)

    def _notice(self, *_: object) -> None:
        self._dirty.set()

    async def _run(self) -> None:
        wake_at: float | None = None
        while True:
            delay_s = None if wake_at is None else max(0.0, wake_at - self._clock.monotonic())
            with suppress(TimeoutError):
                async with asyncio.timeout(delay_s):
                    await self._dirty.wait()
            self._dirty.clear()
            wake_at = self._look()

    def _look(self) -> float | None:
        self._check_held()
        if self._resigning:
            return None
        seen = Seen(self._clock.monotonic(), self._live(), self._leaders(), self._aside())
        self._state, effects = step(self._state, seen)
        wake_at = None
        for effect in effects:
            if isinstance(effect, Claim):
                self._tasks.spawn(self._claim(effect.slots), "claim")
            elif isinstance(effect, Resign):
                for slot in effect.slots:
                    self._tasks.spawn(self._resign(slot), f"resign {slot}")
            elif isinstance(effect, WakeAt):
                wake_at = effect.time
        return wake_at

    def _live(self) -> tuple[str, ...]:
        live = [self._keys.parse_server(key) for key, record in self._servers.items() if self._eligible(record)]
        return tuple(sorted(live))

    def _leaders(self) -> dict[int, str]:
        leaders = dict.fromkeys(self._held, self._identity.name)
        for key, record in self._slots.items():
            slot = self._keys.parse_slot(key)
            if self._given_up.get(slot) != record.create_revision:
                leaders.setdefault(slot, self._leader_in_etcd(key))
        return leaders

    def _leader_in_etcd(self, key: str) -> str:
        try:
            record = self._slots.decoded(key)
        except Invalid as error:
            _log.warning("ignored: %s", error)
            return ""
        return record.server if record is not None else ""

    def _check_held(self) -> None:
        """Compare what we lead with what the watch shows: adopt late claims, notice losses."""
        for slot in range(SLOT_COUNT):
            if slot in self._state.busy:
                continue
            record = self._slots.get(self._keys.slot(slot))
            revision = self._held.get(slot)
            if revision is not None:
                if revision < (self._slots.revision + 1 if record is None else record.create_revision):
                    _log.warning("server %s: slot %d lost", self._identity.name, slot)
                    self._begin(slot)
                    del self._held[slot]
                    self._tasks.spawn(self._lose(slot), f"lose {slot}")
            elif record is not None and self._is_ours(record) and self._given_up.get(slot) != record.create_revision:
                self._begin(slot)
                self._tasks.spawn(self._gain(slot, record.create_revision), f"adopt {slot}")

    def _is_ours(self, record: Record) -> bool:
        return record.lease == self._identity.lease and record.value == self._value

    def _begin(self, slot: int) -> None:
        self._state = replace(self._state, busy=self._state.busy | {slot})

    def _settle(self, slot: int) -> None:
        self._state, _ = step(self._state, Settled(slot))
        self._dirty.set()
        settled, self._settled = self._settled, asyncio.Event()
        settled.set()

    async def _gain(self, slot: int, revision: int) -> None:
        self._held[slot] = revision
        try:
            await self._on_gained(slot)
        finally:
            self._settle(slot)

    async def _lose(self, slot: int) -> None:
        try:
            await self._on_lost(slot)
        finally:
            self._settle(slot)

    async def _claim(self, slots: tuple[int, ...]) -> None:
        if len(slots) == 1 or not await self._claim_together(slots):
            for slot in slots:
                await self._claim_together((slot,), last=True)

    async def _claim_together(self, slots: tuple[int, ...], *, last: bool = False) -> bool:
        """Claim all of ``slots`` or none; returns whether they are settled."""
        keys = [self._keys.slot(slot) for slot in slots]
        compares = [created_at(self._own_key, self._identity.incarnation), *(absent(key) for key in keys)]
        revision = 0
        try:
            result = await self._store.txn(compares, [Put(key, self._value, self._identity.lease) for key in keys])
            if result.succeeded:
                revision = result.revision
            elif not last:
                return False
        except Conflict:
            _log.warning("server %s: cannot claim slots, its lease has ended", self._identity.name)
            await asyncio.sleep(RETRY_S)
        except CoordinationUnavailable as error:  # the watch shows whether it landed
            _log.warning("server %s: claim of %d slots unanswered: %s", self._identity.name, len(slots), error)
            self._slots.relist_soon()
            await asyncio.sleep(RETRY_S)
        for slot in slots:
            if revision:
                self._tasks.spawn(self._gain(slot, revision), f"gain {slot}")
            else:
                self._settle(slot)
        return True

    async def _resign(self, slot: int) -> None:
        try:
            await self._on_lost(slot)
            revision = self._held.pop(slot)
            self._given_up[slot] = revision
            key = self._keys.slot(slot)
            while True:
                try:
                    await self._store.txn([created_at(key, revision)], [Delete(key)])
                    return
                except CoordinationUnavailable:
                    await asyncio.sleep(RETRY_S)
        finally:
            self._settle(slot)
