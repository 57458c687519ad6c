"""Distributed locks as their holders see them: ``with cluster.lock("orders") as lock: ...``.

Owns taking, renewing in the background, and knowing in time that a lock is lost. Leaves granting to the registry, and
refusing late writers to the microservices that are handed the token (``amino.fenced``).
Invariant: ``valid()`` is False before the lock can be granted to anybody else: a holder counts its TTL from when it sent
the renewal, the slot's leader from when it saw it.
Failure behaviour: a lock that could not be renewed in time raises ``LockLost`` wherever it is used, also when its block ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from amino.aio.mode import drive, on_loop
from amino.aio.tasks import TaskOwner
from amino.contracts.calls import CURRENT
from amino.contracts.locks import (
    MARGIN,
    TTL_S_MAX,
    TTL_S_MIN,
    AcquireLockRequest,
    HeldLockRequest,
    LockGrant,
)
from amino.errors import AminoError, Invalid, LockHeld, LockLost
from amino.ids import derived_id, new_id, valid_name
from amino.stubs.stub import blocking

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from amino.stubs.runtime import Runtime

_ROUND_S = 5.0
_ANSWER_S = 5.0
_RENEWALS_PER_TTL = 3


@dataclass(frozen=True, slots=True)
class Fence:
    """A lock as it travels: its name and the fencing token of one grant. What a ``Lock`` becomes in an argument."""

    name: str
    token: int


class Lock:
    """A distributed lock; use it as a context manager, in a ``with`` or an ``async with``. For one holder, once at a time.

    Args:
        runtime: reaches the registry. call: runs a registry operation, recorded where the method is.
        name, ttl_s, wait_s: as in ``Cluster.lock``.
    """

    def __init__(
        self,
        runtime: Runtime,
        call: Callable[[str, Any, float], Awaitable[Any]],
        name: str,
        ttl_s: float,
        wait_s: float | None,
    ) -> None:
        if not valid_name(name):
            raise Invalid(f"lock name {name!r} is not 1 to 128 letters, digits, '.', '_' or '-'")
        if not TTL_S_MIN <= ttl_s <= TTL_S_MAX:
            raise Invalid(f"ttl_s={ttl_s} of lock {name} is not within {TTL_S_MIN} to {TTL_S_MAX} seconds")
        if wait_s is not None and wait_s < 0:
            raise Invalid(f"wait_s={wait_s} of lock {name} is negative; give seconds, or None to wait without bound")
        self.name = name
        self._runtime = runtime
        self._call = call
        self._ttl_s = ttl_s
        self._wait_s = wait_s
        self._holder = ""
        self._token = 0
        self._valid_until_s = 0.0
        self._lost = ""
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._tasks: TaskOwner | None = None

    def __repr__(self) -> str:
        state = f"token {self._token}" if self._token else "not held"
        return f"<lock {self.name!r}, {self._lost or state}>"

    def __reduce__(self) -> tuple[Any, ...]:
        return (Fence, (self.name, self.token))

    # --- the state -------------------------------------------------------------------------------------------------

    @property
    def token(self) -> int:
        """The fencing token: grows with every grant of this name. Hand it to whatever the lock protects.

        Raises:
            LockLost: the lock is not ours any more. Invalid: it was not taken.
        """
        self.check()
        return self._token

    @property
    def fence(self) -> Fence:
        """Name and token together, for ``amino.fenced``. Raises as ``token``."""
        return Fence(self.name, self.token)

    def valid(self) -> bool:
        """Return whether the lock is still ours, as far as this process can know without asking."""
        current = CURRENT.get()
        if current is not None and current.effects is not None and current.runtime is self._runtime:
            return bool(current.effects.value(current.effects.next("lock"), self._valid))
        return self._valid()

    def _valid(self) -> bool:
        if self._token and not self._lost and self._runtime.clock.boottime() >= self._valid_until_s:
            self._lost = f"not renewed within its {self._ttl_s} s"
        return bool(self._token) and not self._lost

    def check(self) -> None:
        """Raise if the lock is not ours any more.

        Raises:
            LockLost: it could not be renewed in time. Invalid: it was not taken.
        """
        if not self._token:
            raise Invalid(f"lock {self.name!r} is not held; use it in a with block, or call acquire() first")
        if not self.valid():
            raise LockLost(
                f"lock {self.name!r} is lost ({self._lost}): another may hold it; take it again before going on",
                lock=self.name,
                token=self._token,
            )

    # --- taking and releasing --------------------------------------------------------------------------------------

    async def _acquire(self) -> Self:
        """Take the lock; waits for it at most ``wait_s`` seconds.

        Raises:
            LockHeld: somebody else held it all the time. Invalid: this object holds it already.
            ClusterUnavailable, NotExecuted: the registry could not be asked.
        """
        if self._token:
            raise Invalid(f"{self!r} is held already; make another with cluster.lock for another holder")
        clock = self._runtime.clock
        self._lost = ""
        self._holder = self._next_holder()
        until = None if self._wait_s is None else clock.monotonic() + self._wait_s
        while True:
            left_s = _ROUND_S if until is None else min(max(until - clock.monotonic(), 0.0), _ROUND_S)
            sent_s = clock.boottime()
            request = AcquireLockRequest(self.name, self._holder, self._ttl_s, left_s, left_s + _ANSWER_S)
            grant: LockGrant = await self._call("acquire_lock", request, request.timeout_s)
            if grant.token:
                break
            if until is not None and clock.monotonic() >= until:
                await self._give_back(0)  # the place in the queue
                raise LockHeld(
                    f"lock {self.name!r} was held by others for {self._wait_s} s, with {grant.waiting} more waiting; "
                    "try again later, or wait longer",
                    lock=self.name,
                )
        self._token = grant.token
        self._valid_until_s = sent_s + grant.waited_s + self._ttl_s * (1 - MARGIN)
        self._keep()
        return self

    acquire = blocking(_acquire)

    async def _release(self) -> None:
        """Free the lock. Idempotent."""
        await self._end_keeping()
        if not self._token:
            return
        token, self._token = self._token, 0
        await self._give_back(token)

    release = blocking(_release)

    async def _give_back(self, token: int) -> None:
        request = HeldLockRequest(self.name, self._holder, token)
        with contextlib.suppress(AminoError):  # it runs out by itself
            await self._call("release_lock", request, request.timeout_s)

    def __enter__(self) -> Self:
        return self.acquire()

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        drive(self._leave(ended_well=kind is None))

    async def __aenter__(self) -> Self:
        return await self._acquire()

    async def __aexit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        await self._leave(ended_well=kind is None)

    async def _leave(self, *, ended_well: bool) -> None:
        try:
            if ended_well:
                self.check()
        finally:
            await self._release()

    # --- renewing --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        current = CURRENT.get()
        if current is not None and current.effects is not None and current.effects.replaying:
            return
        if on_loop():
            self._tasks = TaskOwner(f"lock {self.name}")
            self._tasks.spawn(self._renewing(), "renew")
        else:
            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._renewing_here, name=f"amino-lock-{self.name}", daemon=True)
            self._thread.start()

    async def _end_keeping(self) -> None:
        if self._tasks is not None:
            tasks, self._tasks = self._tasks, None
            await tasks.aclose()
        if self._thread is not None:
            thread, self._thread = self._thread, None
            self._stop.set()
            if not on_loop():
                thread.join()

    async def _renewing(self) -> None:
        while self._valid():
            await asyncio.sleep(self._ttl_s / _RENEWALS_PER_TTL)
            await self._renew_once()

    def _renewing_here(self) -> None:
        while self._valid() and not self._stop.wait(self._ttl_s / _RENEWALS_PER_TTL):
            drive(self._renew_once())

    async def _renew_once(self) -> None:
        clock = self._runtime.clock
        sent_s = clock.boottime()
        timeout_s = min(self._ttl_s / _RENEWALS_PER_TTL, self._valid_until_s - sent_s)
        if timeout_s <= 0:
            return
        request = HeldLockRequest(self.name, self._holder, self._token, timeout_s)
        try:
            await self._runtime.registry.call("renew_lock", request, timeout_s=timeout_s)
        except LockLost as error:
            self._lost = f"the cluster says: {error}"
        except AminoError:
            pass  # tried again until the time is over
        else:
            if self._valid():  # what has run out stays lost: its holder may have been told
                self._valid_until_s = sent_s + self._ttl_s * (1 - MARGIN)

    def _next_holder(self) -> str:
        current = CURRENT.get()
        if current is None or current.runtime is not self._runtime:
            return new_id(self._runtime.entropy(12))
        return derived_id(str(current.request), "holds", current.next_created())
