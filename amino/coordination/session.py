"""A kernel server's session: its lease, its key, and until when it may act.

Owns claiming the name, renewing, confirming, and proving death. Leaves the rules to ``session_machine`` and the word
that others read to ``deadline``.
Invariants: one holder per incarnation; the name is claimed only when free; the incarnation is the key's create
revision; a tombstone is written only together with, or after, the end of the incarnation's keys.
Failure behaviour: while etcd is unavailable validity runs out by itself; ``on_lost`` is called once if the key is gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from amino.aio.clock import Clock
from amino.aio.mode import sleep
from amino.aio.tasks import TaskOwner
from amino.coordination.deadline import DeadlineWord
from amino.coordination.keys import Keys
from amino.coordination.session_machine import (
    Claimed,
    ConfirmAnswered,
    Granted,
    KeepaliveAnswered,
    Lost,
    Phase,
    Publish,
    Released,
    RequestFailed,
    SendConfirm,
    SendKeepalive,
    SessionEffect,
    SessionEvent,
    State,
    Tick,
    Timing,
    WakeAt,
    step,
)
from amino.coordination.store import Delete, Get, Put, Record, Store, absent, created_at, not_created_at
from amino.errors import AlreadyExists, Conflict, CoordinationUnavailable, SessionLost

_log = logging.getLogger("amino.coordination")
START_TIMEOUT_S = 10.0
RETRY_S = 0.1
PROOF_ATTEMPTS_MAX = 50
POLL_S = 0.005


class SessionView:
    """What code that acts under a session asks before it acts; one per incarnation.

    Args:
        word: the deadline word of that incarnation.
        clock: the machine's boot time.
        incarnation: create revision of the server's key.
    """

    __slots__ = ("_boottime", "_clock", "_read", "incarnation")

    def __init__(self, word: DeadlineWord, clock: Clock, incarnation: int = 0) -> None:
        self._read = word.read
        self._boottime = clock.boottime
        self._clock = clock
        self.incarnation = incarnation

    def __repr__(self) -> str:
        return f"SessionView({self.incarnation}, {'valid' if self.valid() else 'not valid'})"

    def valid(self) -> bool:
        """Return whether the session is valid at this instant; costs well below a microsecond."""
        return self._boottime() < self._read()

    def remaining_s(self) -> float:
        """Return for how many seconds it is valid yet; 0 or less: it is not."""
        return self._read() - self._boottime()

    async def wait_valid(self, hold_s: float) -> bool:
        """Wait until the session is valid, at most ``hold_s`` seconds. On a loop or in a plain thread.

        Returns:
            Whether it is valid now.
        """
        until = self._clock.monotonic() + hold_s
        while not self.valid():
            if self._clock.monotonic() >= until:
                return False
            await sleep(POLL_S)
        return True


class SessionHolder:
    """Holds one incarnation of one server: by its supervisor, or by the client process a device is embedded in.

    Args:
        store: whose calls should end within ``timing.request_timeout_s``.
        keys: of the cluster.
        name: of the server.
        word: where the deadline is published; a fresh one.
        clock: boot time for validity.
        timing: see ``Timing.of_ttl``.
        on_lost: called once on the loop with the reason when the key is gone while we live.
    """

    def __init__(
        self,
        store: Store,
        keys: Keys,
        name: str,
        word: DeadlineWord,
        *,
        clock: Clock,
        timing: Timing | None = None,
        on_lost: Callable[[str], None] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._name = name
        self._key = keys.server(name)
        self._word = word
        self._clock = clock
        self._timing = timing if timing is not None else Timing.of_ttl(3)
        self._on_lost = on_lost
        self._state = State(self._timing)
        self._tasks = TaskOwner(f"session {name}")

    def __repr__(self) -> str:
        return f"SessionHolder({self._name}, {self._state.phase.value}, incarnation {self._state.incarnation})"

    @property
    def incarnation(self) -> int:
        """Create revision of our key; 0 before ``start``."""
        return self._state.incarnation

    @property
    def lease(self) -> int:
        """The lease; 0 before ``start``."""
        return self._state.lease

    @property
    def lost(self) -> bool:
        """Whether the key is gone."""
        return self._state.phase is Phase.LOST

    @property
    def valid_until(self) -> float:
        """The published deadline, in seconds of boot time."""
        return self._state.valid_until

    async def start(self, record: bytes, *, wait_s: float = 0.0, timeout_s: float = START_TIMEOUT_S) -> int:
        """Get a lease, claim the name with ``record`` as value, and keep it alive from now on.

        Args:
            record: value of ``servers/<name>``.
            wait_s: how long to wait for another holder of the name to go. A holder that is proven dead by a tombstone
                is removed at once, without any waiting.
            timeout_s: for etcd to answer.

        Returns:
            The incarnation.

        Raises:
            AlreadyExists: a server of that name is alive.
            CoordinationUnavailable: etcd did not answer in time; nothing is kept.
        """
        deadline = self._clock.monotonic() + timeout_s
        try:
            await self._grant(deadline)
            incarnation = await self._claim(record, deadline, self._clock.monotonic() + wait_s)
        except BaseException:
            await self._give_back()
            raise
        self._feed(Claimed(incarnation))
        self._tasks.spawn(self._keep(), "keep")
        return incarnation

    async def update_record(self, record: bytes) -> None:
        """Replace the value of our key.

        Raises:
            SessionLost: the key is not ours any more.
            CoordinationUnavailable: no answer; repeating is safe.
        """
        put = Put(self._key, record, self._state.lease)
        try:
            result = await self._store.txn([created_at(self._key, self._state.incarnation)], [put])
        except Conflict as error:
            raise SessionLost(f"server {self._name}: the lease has ended; start a new incarnation") from error
        if not result.succeeded:
            raise SessionLost(f"server {self._name}: its key has another holder; start a new incarnation")

    async def tombstone_and_revoke(self, extra: bytes = b"", *, timeout_s: float = START_TIMEOUT_S) -> None:
        """End this incarnation for good: call it only when nothing of it can act any more. Repeating is safe.

        One transaction deletes the server's and the slots' keys and puts the tombstone; if the server's key is not ours
        any more, the tombstone only. Then the lease is revoked.

        Args:
            extra: value of the tombstone.
            timeout_s: for etcd to answer.

        Raises:
            CoordinationUnavailable: no answer in time; repeat, or let the lease expire.
        """
        await self.aclose()
        if self._state.incarnation:
            await prove_dead(
                self._store,
                self._keys,
                self._name,
                self._state.incarnation,
                extra,
                clock=self._clock,
                timeout_s=timeout_s,
            )
        if self._state.lease:
            await self._store.revoke(self._state.lease)

    async def aclose(self) -> None:
        """Stop renewing and end validity, leaving key and lease to expire. Idempotent."""
        await self._tasks.aclose()
        self._feed(Released())

    async def _grant(self, deadline: float) -> None:
        while True:
            sent_at = self._clock.boottime()
            try:
                lease = await self._store.grant(self._timing.ttl_s)
            except CoordinationUnavailable:
                await self._pause_until(deadline)
                continue
            self._feed(Granted(sent_at, lease))
            return

    async def _claim(self, record: bytes, deadline: float, patience: float) -> int:
        while True:
            put = Put(self._key, record, self._state.lease)
            try:
                result = await self._store.txn([absent(self._key)], [put], [Get(self._key)])
            except CoordinationUnavailable:
                await self._pause_until(deadline)
                continue
            except Conflict:  # the lease ended while we waited
                await self._pause_until(deadline)
                await self._grant(deadline)
                continue
            if result.succeeded:
                return result.revision
            holder = result.reads[0][0]
            if holder.lease == put.lease:  # an earlier try of ours landed although it was not answered
                return holder.create_revision
            await self._wait_for_holder(holder, deadline, patience)

    async def _wait_for_holder(self, holder: Record, deadline: float, patience: float) -> None:
        try:
            tombstone = await self._store.get(self._keys.tombstone(self._name, holder.create_revision))
            if tombstone is not None:
                await prove_dead(
                    self._store,
                    self._keys,
                    self._name,
                    holder.create_revision,
                    tombstone.value,
                    clock=self._clock,
                )
                return
            sent_at = self._clock.boottime()
            if await self._store.keep_alive(self._state.lease) > 0:
                self._feed(Granted(sent_at, self._state.lease))  # the claim, sent later, confirms it as well
        except CoordinationUnavailable:
            await self._pause_until(deadline)
            return
        if self._clock.monotonic() >= patience:
            raise AlreadyExists(
                f"server name {self._name!r} is taken by incarnation {holder.create_revision}; choose another name, or "
                "if that server is gone wait until its lease ends",
                incarnation=holder.create_revision,
            )
        await asyncio.sleep(RETRY_S)

    async def _pause_until(self, deadline: float) -> None:
        if self._clock.monotonic() + RETRY_S >= deadline:
            raise CoordinationUnavailable(f"server {self._name}: etcd did not let us claim the name in time")
        await asyncio.sleep(RETRY_S)

    async def _give_back(self) -> None:
        lease = self._state.lease
        self._feed(Released())
        if lease:
            try:
                await self._store.revoke(lease)
            except CoordinationUnavailable as error:
                _log.warning("server %s: lease %d left to expire: %s", self._name, lease, error)

    async def _keep(self) -> None:
        effects = self._feed(Tick(self._clock.boottime()))
        while not self._over():
            event = await self._act(effects)
            effects = self._feed(event)

    def _over(self) -> bool:
        return self._state.phase in (Phase.LOST, Phase.ENDED)

    async def _act(self, effects: tuple[SessionEffect, ...]) -> SessionEvent:
        for effect in effects:
            if isinstance(effect, SendKeepalive):
                return await self._keepalive()
            if isinstance(effect, SendConfirm):
                return await self._confirm(effect)
            if isinstance(effect, WakeAt):
                await asyncio.sleep(max(0.0, effect.time - self._clock.boottime()))
        return Tick(self._clock.boottime())

    async def _keepalive(self) -> SessionEvent:
        sent_at = self._clock.boottime()
        try:
            async with asyncio.timeout(self._timing.request_timeout_s):
                remaining_s = await self._store.keep_alive(self._state.lease)
        except (CoordinationUnavailable, TimeoutError) as error:
            _log.warning("server %s: keepalive failed: %s", self._name, error or "no answer in time")
            return RequestFailed(self._clock.boottime())
        return KeepaliveAnswered(sent_at, remaining_s)

    async def _confirm(self, effect: SendConfirm) -> SessionEvent:
        try:
            async with asyncio.timeout(self._timing.request_timeout_s):
                # The delete makes it a write: reads, also in transactions, can be stale on etcd 3.4.
                result = await self._store.txn(
                    [created_at(self._key, self._state.incarnation)], [Delete(self._keys.nothing)]
                )
        except (CoordinationUnavailable, TimeoutError) as error:
            _log.warning("server %s: confirmation failed: %s", self._name, error or "no answer in time")
            return RequestFailed(self._clock.boottime())
        now = self._clock.boottime()
        return ConfirmAnswered(effect.sent_at, effect.remaining_s, result.succeeded, now)

    def _feed(self, event: SessionEvent) -> tuple[SessionEffect, ...]:
        self._state, effects = step(self._state, event)
        for effect in effects:
            if isinstance(effect, Publish):
                self._word.publish(effect.deadline)
            elif isinstance(effect, Lost):
                _log.error("server %s: session lost: %s", self._name, effect.reason)
                if self._on_lost is not None:
                    self._on_lost(effect.reason)
        return effects


async def prove_dead(
    store: Store,
    keys: Keys,
    name: str,
    incarnation: int,
    suspects: bytes = b"",
    *,
    clock: Clock,
    timeout_s: float = START_TIMEOUT_S,
) -> int:
    """Record that an incarnation is dead; call it only when nothing of it can act any more. Repeating is safe.

    One transaction deletes ``servers/<name>`` and the slot keys of its lease, each only if it still is what it was, and
    puts the tombstone with ``suspects`` as value. If the server's key is already gone: the tombstone only.

    Returns:
        The lease of the incarnation, to be revoked; 0 if its key was gone.

    Raises:
        CoordinationUnavailable: not settled within ``timeout_s`` seconds.
    """
    deadline = clock.monotonic() + timeout_s
    server, tombstone = keys.server(name), Put(keys.tombstone(name, incarnation), suspects)
    for _ in range(PROOF_ATTEMPTS_MAX):
        try:
            record = await store.get(server)
            if record is None or record.create_revision != incarnation:
                if (await store.txn([not_created_at(server, incarnation)], [tombstone])).succeeded:
                    return 0
                continue
            slots = [one for one in (await store.list(keys.slots_prefix))[0] if one.lease == record.lease != 0]
            result = await store.txn(
                [created_at(server, incarnation), *(created_at(one.key, one.create_revision) for one in slots)],
                [Delete(server), *(Delete(one.key) for one in slots), tombstone],
            )
            if result.succeeded:
                return record.lease
        except CoordinationUnavailable:
            if clock.monotonic() + RETRY_S >= deadline:
                raise
            await asyncio.sleep(RETRY_S)
    raise CoordinationUnavailable(f"server {name}: its slots kept changing while incarnation {incarnation} was ended")
