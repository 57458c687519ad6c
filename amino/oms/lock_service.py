"""Distributed locks, on the leader of each lock's slot.

Owns granting, renewing, releasing and expiring locks. Leaves passing requests on to ``registry`` and decisions to ``lock_machine``.
Invariants: every write compares the slot key and the lock's revision; a renewal costs etcd nothing; no lease is made for a
lock; memory is bounded by ``LOCKS_MAX`` and ``WAITERS_MAX``.
Failure behaviour: a grant of unknown outcome is found by its holder's retry, or runs out; a new leader knows no renewals and
so waits a full TTL before it gives a held lock to another; a session that is not valid grants and renews nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any

from amino.aio.clock import Clock
from amino.aio.tasks import TaskOwner
from amino.contracts.documents import decode, encode
from amino.contracts.kernel_service import Empty
from amino.contracts.locks import (
    TTL_S_MAX,
    TTL_S_MIN,
    WAIT_S_MAX,
    AcquireLockRequest,
    HeldLockRequest,
    LockDocument,
    LockGrant,
)
from amino.coordination.keys import Keys
from amino.coordination.store import Compare, Delete, Operation, Put, Store, unchanged
from amino.errors import AminoError, Conflict, CoordinationUnavailable, Invalid, LockLost, NotExecuted, Overloaded
from amino.ids import slot_of, valid_name
from amino.oms.lock_machine import LockState, Verdict
from amino.oms.ports import SlotGuards, Writer

LOCKS_MAX = 100_000
WAITERS_MAX = 4096
PLACE_KEPT_S = 1.0
GATHER_S = 0.1


class _Lock:
    """One lock's state, with who waits for it here."""

    def __init__(self) -> None:
        self.state = LockState()
        self.loaded = False
        self.writing = asyncio.Lock()
        self.pulses: dict[str, asyncio.Event] = {}
        self.leaving: dict[str, asyncio.TimerHandle] = {}
        self.expiry: asyncio.TimerHandle | None = None
        self.users = 0

    def wake_first(self) -> None:
        """Let the first in the queue look again."""
        pulse = self.pulses.get(next(iter(self.state.queue), ""))
        if pulse is not None:
            pulse.set()


class LockService:
    """The locks whose slots this server leads.

    Args:
        guards: proof of leadership. valid: whether the session is valid.
        counts_from: what tokens have above revisions (``ClusterDocument.counts_from``).
    """

    def __init__(
        self,
        *,
        store: Store,
        writer: Writer,
        keys: Keys,
        guards: SlotGuards,
        clock: Clock,
        valid: Callable[[], bool],
        counts_from: Callable[[], int] = lambda: 0,
    ) -> None:
        self._counts_from = counts_from
        self._store = store
        self._writer = writer
        self._keys = keys
        self._guards = guards
        self._clock = clock
        self._valid = valid
        self._locks: dict[str, _Lock] = {}
        self._waiting = 0
        self._gained: set[int] = set()
        self._tasks = TaskOwner("locks")
        self.led_here: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "acquire_lock": self.acquire,
            "renew_lock": self.renew,
            "release_lock": self.release,
        }

    def __repr__(self) -> str:
        return f"LockService({len(self._locks)} locks, {self._waiting} waiting)"

    # --- operations ------------------------------------------------------------------------------------------------

    async def acquire(self, request: AcquireLockRequest) -> LockGrant:
        """See ``contracts.services.Registry.acquire_lock``; on the slot's leader."""
        _check(request)
        if self._waiting >= WAITERS_MAX:
            raise Overloaded(f"{WAITERS_MAX} callers wait for locks on this server, the bound", reason="overloaded")
        lock = self._enter(request.lock)
        holder, state = request.holder, lock.state
        leaving = lock.leaving.pop(holder, None)
        if leaving is not None:
            leaving.cancel()
        state.queue.setdefault(holder)
        pulse = lock.pulses[holder] = asyncio.Event()
        self._waiting += 1
        granted = False
        try:
            came = self._clock.monotonic()
            until = came + min(request.wait_s, request.timeout_s, WAIT_S_MAX)
            while True:
                pulse.clear()
                token = await self._try(request.lock, lock, request)
                if token:
                    granted = True
                    token += self._counts_from()
                    return LockGrant(token, holder, len(state.queue) - 1, max(state.seen_s - came, 0.0))
                now = self._clock.monotonic()
                if now >= until:
                    held = state.document.holder if state.document is not None else ""
                    return LockGrant(0, held, len(state.queue) - 1)
                first = next(iter(state.queue)) == holder
                wake_s = min(until, state.free_at_s) if first else until
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(wake_s - now, 0.001)):
                        await pulse.wait()
        finally:
            self._waiting -= 1
            if lock.pulses.get(holder) is pulse:
                del lock.pulses[holder]
                if granted:
                    state.queue.pop(holder, None)
                else:
                    loop = asyncio.get_running_loop()
                    lock.leaving[holder] = loop.call_later(PLACE_KEPT_S, self._leave_queue, request.lock, lock, holder)
            self._exit(request.lock, lock)

    async def renew(self, request: HeldLockRequest) -> LockGrant:
        """See ``contracts.services.Registry.renew_lock``; on the slot's leader."""
        lock = self._enter(request.lock)
        try:
            async with lock.writing:
                await self._load(request.lock, lock)
                now = self._clock.monotonic()
                if not lock.state.is_held_by(request.holder, self._revision(request.token), now):
                    raise _lost(request)
                self._check_valid()
                lock.state.seen_s = now
                return LockGrant(request.token, request.holder, len(lock.state.queue))
        finally:
            self._exit(request.lock, lock)

    async def release(self, request: HeldLockRequest) -> Empty:
        """See ``contracts.services.Registry.release_lock``; on the slot's leader."""
        lock = self._enter(request.lock)
        try:
            async with lock.writing:
                await self._load(request.lock, lock)
                if lock.state.is_of(request.holder, self._revision(request.token)):
                    await self._write(request.lock, lock, None)
            return Empty()
        finally:
            leaving = lock.leaving.pop(request.holder, None)
            if leaving is not None:
                leaving.cancel()
                lock.state.queue.pop(request.holder, None)
            lock.wake_first()
            self._exit(request.lock, lock)

    def _revision(self, token: int) -> int:
        """Return the revision that a token stands for, one that no lock has for a token of an etcd that was lost."""
        return max(token - self._counts_from(), -1) or -1 if token else 0

    def slot_gained(self, slot: int) -> None:
        """Look for locks of ``slot`` whose holders may be dead. Never waits."""
        if not self._gained:
            self._tasks.spawn(self._adopt(), "adopt")
        self._gained.add(slot)

    def slot_lost(self, slot: int) -> None:
        """Forget the slot's locks; those who wait ask the next leader."""
        for name in [name for name in self._locks if slot_of(name) == slot]:
            lock = self._locks.pop(name)
            lock.loaded = False
            for handle in (*lock.leaving.values(), lock.expiry):
                if handle is not None:
                    handle.cancel()
            for pulse in lock.pulses.values():
                pulse.set()

    async def aclose(self) -> None:
        """Stop; nothing is released. Idempotent."""
        for slot in {slot_of(name) for name in self._locks}:
            self.slot_lost(slot)
        await self._tasks.aclose()

    # --- details ---------------------------------------------------------------------------------------------------

    def _enter(self, name: str) -> _Lock:
        if not valid_name(name):
            raise Invalid(f"lock {name!r} is not named by 1 to 128 letters, digits, '.', '_' or '-'")
        lock = self._locks.get(name)
        if lock is None:
            if len(self._locks) >= LOCKS_MAX:
                raise Overloaded(f"{LOCKS_MAX} locks are in use on this server, the bound", reason="overloaded")
            lock = self._locks[name] = _Lock()
        lock.users += 1
        return lock

    def _exit(self, name: str, lock: _Lock) -> None:
        lock.users -= 1
        if self._locks.get(name) is not lock:
            return
        if lock.state.document is not None:
            self._watch_expiry(name, lock)
        elif not lock.users and not lock.state.queue:
            del self._locks[name]
            if lock.expiry is not None:
                lock.expiry.cancel()

    def _leave_queue(self, name: str, lock: _Lock, holder: str) -> None:
        """Give up the place of somebody who has not come back."""
        lock.leaving.pop(holder, None)
        lock.state.queue.pop(holder, None)
        lock.wake_first()
        lock.users += 1
        self._exit(name, lock)

    def _watch_expiry(self, name: str, lock: _Lock) -> None:
        """See to it that a lock whose holder is dead is freed although nobody asks for it."""
        if lock.expiry is None:
            delay_s = max(lock.state.free_at_s - self._clock.monotonic(), 0.0)
            lock.expiry = asyncio.get_running_loop().call_later(delay_s, self._look_expired, name, lock)

    def _look_expired(self, name: str, lock: _Lock) -> None:
        lock.expiry = None
        if self._locks.get(name) is not lock or lock.state.document is None:
            return
        if self._clock.monotonic() < lock.state.free_at_s or lock.pulses:  # renewed, or the first who waits takes it
            lock.wake_first()
            self._watch_expiry_later(name, lock)
        else:
            self._tasks.spawn(self._free(name, lock), f"free {name}")

    def _watch_expiry_later(self, name: str, lock: _Lock) -> None:
        delay_s = max(lock.state.free_at_s - self._clock.monotonic(), PLACE_KEPT_S)
        lock.expiry = asyncio.get_running_loop().call_later(delay_s, self._look_expired, name, lock)

    async def _free(self, name: str, lock: _Lock) -> None:
        lock.users += 1
        try:
            async with lock.writing:
                if lock.state.document is not None and self._clock.monotonic() >= lock.state.free_at_s:
                    await self._write(name, lock, None)
        except AminoError:
            if self._locks.get(name) is lock:  # etcd is away, or another leads: it is tried again, or forgotten
                self._watch_expiry_later(name, lock)
        finally:
            lock.wake_first()
            self._exit(name, lock)

    async def _adopt(self) -> None:
        """Look at the locks of slots that were gained lately: nobody may ever ask for one whose holder is dead."""
        await asyncio.sleep(GATHER_S)
        gained, self._gained = self._gained, set()
        with contextlib.suppress(CoordinationUnavailable):  # then each is found when somebody asks for it
            records, _ = await self._store.list(self._keys.locks_prefix)
            names = [self._keys.parse_lock(record.key) for record in records]
            for name in (name for name in names if slot_of(name) in gained):
                with contextlib.suppress(Overloaded, NotExecuted, Invalid):
                    await self._look(name)

    async def _look(self, name: str) -> None:
        lock = self._enter(name)
        try:
            async with lock.writing:
                await self._load(name, lock)
        finally:
            self._exit(name, lock)

    async def _try(self, name: str, lock: _Lock, request: AcquireLockRequest) -> int:
        """Return the token if the lock is the asker's now, else 0."""
        async with lock.writing:
            await self._load(name, lock)
            state, now = lock.state, self._clock.monotonic()
            verdict = state.judge(request.holder, now)
            if verdict is Verdict.WAIT:
                return 0
            if verdict is Verdict.HAS_IT and now < state.free_at_s:
                self._check_valid()
                state.seen_s = now
                return state.revision
            return await self._write(name, lock, LockDocument(request.holder, request.ttl_s))

    async def _load(self, name: str, lock: _Lock) -> None:
        if self._locks.get(name) is not lock:
            raise self._not_leading(name)
        if lock.loaded:
            return
        key = self._keys.lock(name)
        record = await self._store.get(key)
        document = decode(record.value, LockDocument, key) if record is not None else None
        lock.state.learned(document, record.mod_revision if record is not None else 0, self._clock.monotonic())
        lock.loaded = True

    async def _write(self, name: str, lock: _Lock, document: LockDocument | None) -> int:
        """Write (or delete) the document, guarded; returns the revision of the transaction, 0 if it had changed."""
        key, state = self._keys.lock(name), lock.state
        write: Operation = Put(key, encode(document)) if document is not None else Delete(key)
        before = state.revision
        lock.loaded = False  # until we know
        result = await self._writer.write([self._guard(name), unchanged(key, before)], [write])
        if result.succeeded:
            now = self._clock.monotonic()
            state.document, state.seen_s = document, now
            state.revision = result.revision if document is not None else 0
            lock.loaded = True
            self._check_valid()
            return result.revision
        await self._load(name, lock)
        if state.revision == before:  # then it was the guard: another server leads
            lock.loaded = False
            raise self._not_leading(name)
        return 0

    def _guard(self, name: str) -> Compare:
        try:
            return self._guards.guard(slot_of(name))
        except Conflict as error:
            raise self._not_leading(name) from error

    def _not_leading(self, name: str) -> NotExecuted:
        return NotExecuted(
            f"this server does not lead slot {slot_of(name)} of lock {name}; ask again", reason="not-ready"
        )

    def _check_valid(self) -> None:
        if not self._valid():
            raise NotExecuted("this server cannot prove its session and grants no locks; ask again", reason="fenced")


class LockOperations(ABC):
    """The registry's operations on locks, at any server: passed on to the leader of the lock's slot."""

    @abstractmethod
    async def _on_leader(self, ms_id: str, method: str, request: Any, timeout_s: float) -> Any:
        """Have the slot's leader do it."""

    async def acquire_lock(self, request: AcquireLockRequest) -> LockGrant:
        """See ``contracts.services.Registry.acquire_lock``."""
        return await self._on_leader(request.lock, "acquire_lock", request, request.timeout_s)  # type: ignore[no-any-return]

    async def renew_lock(self, request: HeldLockRequest) -> LockGrant:
        """See ``contracts.services.Registry.renew_lock``."""
        return await self._on_leader(request.lock, "renew_lock", request, request.timeout_s)  # type: ignore[no-any-return]

    async def release_lock(self, request: HeldLockRequest) -> Empty:
        """See ``contracts.services.Registry.release_lock``."""
        return await self._on_leader(request.lock, "release_lock", request, request.timeout_s)  # type: ignore[no-any-return]


def _check(request: AcquireLockRequest) -> None:
    if not TTL_S_MIN <= request.ttl_s <= TTL_S_MAX:
        raise Invalid(f"ttl_s={request.ttl_s} of lock {request.lock} is not within {TTL_S_MIN} to {TTL_S_MAX}")
    if not request.holder:
        raise Invalid(f"who wants lock {request.lock} gives no holder id; make a fresh one for each acquisition")


def _lost(request: HeldLockRequest) -> LockLost:
    return LockLost(
        f"lock {request.lock} is not held under token {request.token} any more; take it again before going on",
        lock=request.lock,
        token=request.token,
    )
