"""A kernel server's session: its key, its beats, and until when it may act.

Owns claiming the name, beating, renewing the lease, and listening to the other servers' beats, whose sessions it ends when
they fall silent. Leaves the rules to ``session_machine`` and ``silence``, ending sessions to ``ending``, and the word that
others read to ``deadline``.
Invariants: one holder per incarnation; the name is claimed only when free; the incarnation is the key's create revision.
Failure behaviour: while etcd is unavailable validity runs out by itself, and nobody counts as silent; ``on_lost`` is
called once if the key is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf

from amino.aio.clock import Clock
from amino.aio.mode import sleep
from amino.aio.tasks import TaskOwner
from amino.coordination.deadline import DeadlineWord
from amino.coordination.ending import end_silent, prove_dead
from amino.coordination.keys import Keys
from amino.coordination.session_machine import (
    BeatAnswered,
    Claimed,
    Granted,
    KeepaliveAnswered,
    Lost,
    Phase,
    Publish,
    Released,
    RequestFailed,
    SendBeat,
    SendKeepalive,
    SessionEvent,
    State,
    Tick,
    Timing,
    WakeAt,
    step,
)
from amino.coordination.silence import Beat, Peers, decode_beat, encode_beat, look
from amino.coordination.store import Get, Put, Record, Store, absent, created_at
from amino.errors import AlreadyExists, Conflict, CoordinationUnavailable, SessionLost

_log = logging.getLogger("amino.coordination")
START_TIMEOUT_S = 10.0
RETRY_S = 0.1
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


@dataclass(slots=True)
class _Waited:
    """What has been seen of the holder of a name while waiting for it."""

    peers: Peers = field(default_factory=Peers)
    revisions: set[int] = field(default_factory=set)


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
        on_round_trip: called after each round trip that was to keep the session alive, with its seconds and whether it did.
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
        on_round_trip: Callable[[float, bool], None] | None = None,
    ) -> None:
        self._store = store
        self._keys = keys
        self._name = name
        self._on_round_trip = on_round_trip
        self._key = keys.server(name)
        self._word = word
        self._clock = clock
        self._timing = timing if timing is not None else Timing.of_ttl(3)
        self._on_lost = on_lost
        self._state = State(self._timing)
        self._tasks = TaskOwner(f"session {name}")
        self._beat_key = keys.beat(name)
        self._beat = encode_beat(self._timing.ttl_s)
        self._peers = Peers()
        self._ending: set[str] = set()
        self._wake_at = 0.0
        self._changed = asyncio.Event()

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

    async def start(self, record: bytes, *, timeout_s: float = START_TIMEOUT_S) -> int:
        """Get a lease, claim the name with ``record`` as value, and keep it alive from now on.

        A holder of the name that is proven dead by a tombstone is removed at once, one that does not beat is once its
        session has run out.

        Args:
            record: value of ``servers/<name>``.
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
            claimed = await self._claim(record, deadline)
        except BaseException:
            await self._give_back()
            raise
        self._feed(claimed)
        self._tasks.spawn(self._keep(), "keep")
        return claimed.incarnation

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
            CoordinationUnavailable: no answer in time; repeat, or let others end the session.
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
        """Stop beating and end validity, leaving it to others to end the session. Idempotent."""
        await self._tasks.aclose()
        self._feed(Released())

    async def _grant(self, deadline: float) -> None:
        while True:
            sent_at = self._clock.boottime()
            try:
                lease = await self._store.grant(self._timing.lease_ttl_s)
            except CoordinationUnavailable:
                await self._pause_until(deadline)
                continue
            self._feed(Granted(sent_at, lease))
            return

    async def _claim(self, record: bytes, deadline: float) -> Claimed:
        first_sent_at: float | None = None
        waited = _Waited()
        while True:
            lease = self._state.lease
            puts = [Put(self._key, record, lease), Put(self._beat_key, self._beat, lease)]
            sent_at = self._clock.boottime()
            try:
                result = await self._store.txn([absent(self._key)], puts, [Get(self._key), Get(self._beat_key)])
            except CoordinationUnavailable:
                first_sent_at = sent_at if first_sent_at is None else first_sent_at
                await self._pause_until(deadline)
                continue
            except Conflict:  # the lease ended while we waited
                first_sent_at = None
                await self._pause_until(deadline)
                await self._grant(deadline)
                continue
            if result.succeeded:
                return Claimed(sent_at, result.revision)
            holder, *_ = result.reads[0]
            if holder.lease == lease:  # an earlier try of ours landed although it was not answered
                return Claimed(sent_at if first_sent_at is None else first_sent_at, holder.create_revision)
            await self._wait_for_holder(holder, result.reads[1], waited, sent_at, deadline)

    async def _wait_for_holder(
        self,
        holder: Record,
        beats: Sequence[Record],
        waited: _Waited,
        sent_at: float,
        deadline: float,
    ) -> None:
        """Help a holder that is dead or silent to its end; else wait a little, or give up."""
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
            waited.peers = look(
                waited.peers,
                self._beats(beats, but=""),
                sent_at,
                self._clock.boottime(),
                self._timing.gap_s_max,
            )
            for beat in waited.peers.silent():
                if await end_silent(self._store, self._keys, self._name, beat.revision):
                    _log.info("server %s: its holder %d was silent", self._name, holder.create_revision)
                return
        except CoordinationUnavailable:
            await self._pause_until(deadline)
            return
        waited.revisions.update(record.mod_revision for record in beats)
        if len(waited.revisions) != 1:  # it has beaten while we looked; one that never beats is judged by its lease
            raise AlreadyExists(
                f"server name {self._name!r} is taken by incarnation {holder.create_revision}; choose another name, or "
                "if that server is gone wait until its session ends",
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
        while not self._over():
            self._feed(Tick(self._clock.boottime()))
            self._changed.clear()
            with contextlib.suppress(TimeoutError):
                wait_s = self._wake_at - self._clock.boottime()
                async with asyncio.timeout(max(0.0, wait_s) if wait_s < inf else None):
                    await self._changed.wait()

    def _over(self) -> bool:
        return self._state.phase in (Phase.LOST, Phase.ENDED)

    async def _keepalive(self) -> None:
        sent_at = self._clock.boottime()
        try:
            async with asyncio.timeout(self._timing.request_timeout_s):
                await self._store.keep_alive(self._state.lease)
        except (CoordinationUnavailable, TimeoutError) as error:
            _log.warning("server %s: keepalive failed: %s", self._name, str(error) or "no answer in time")
            renewed = False
        else:
            renewed = True
        if self._on_round_trip is not None:
            self._on_round_trip(self._clock.boottime() - sent_at, renewed)
        self._feed(KeepaliveAnswered(self._clock.boottime(), renewed=renewed))

    async def _send_beat(self) -> None:
        sent_at = self._clock.boottime()
        answered = await self._beat_once()
        if self._on_round_trip is not None:
            self._on_round_trip(self._clock.boottime() - sent_at, isinstance(answered, BeatAnswered) and answered.held)
        self._feed(answered)

    async def _beat_once(self) -> SessionEvent:
        sent_at = self._clock.boottime()
        try:
            async with asyncio.timeout(self._timing.request_timeout_s):
                result = await self._store.txn(
                    [created_at(self._key, self._state.incarnation)],
                    [Put(self._beat_key, self._beat, self._state.lease), Get(self._keys.beats_prefix, prefix=True)],
                )
        except (CoordinationUnavailable, TimeoutError) as error:
            _log.warning("server %s: beat failed: %s", self._name, error or "no answer in time")
            self._peers = Peers()
            return RequestFailed(self._clock.boottime())
        except Conflict:  # no such lease any more: the key went with it
            return BeatAnswered(sent_at, held=False, now=self._clock.boottime())
        now = self._clock.boottime()
        if not result.succeeded:
            return BeatAnswered(sent_at, held=False, now=now)
        others = self._beats(result.reads[0], but=self._name)
        self._peers = look(self._peers, others, sent_at, now, self._timing.gap_s_max)
        for beat in self._peers.silent():
            if beat.name not in self._ending:
                self._ending.add(beat.name)
                self._tasks.spawn(self._end(beat), f"end {beat.name}")
        return BeatAnswered(sent_at, held=True, now=now, look_at=self._peers.next_silence())

    def _beats(self, records: Sequence[Record], but: str) -> list[Beat]:
        beats = []
        for record in records:
            name = self._keys.parse_beat(record.key)
            ttl_s = decode_beat(record.value)
            if name != but and ttl_s is not None:
                beats.append(Beat(name, record.mod_revision, ttl_s))
        return beats

    async def _end(self, beat: Beat) -> None:
        """End the session of a silent server: of all that try, one succeeds."""
        try:
            ours = created_at(self._key, self._state.incarnation)
            if await end_silent(self._store, self._keys, beat.name, beat.revision, [ours]):
                _log.warning(
                    "server %s: no beat of %s for %g s; its session is ended", self._name, beat.name, beat.ttl_s
                )
        except CoordinationUnavailable as error:
            _log.warning(
                "server %s: %s is silent, and its session cannot be ended yet: %s", self._name, beat.name, error
            )
        finally:
            self._ending.discard(beat.name)

    def _feed(self, event: SessionEvent) -> None:
        self._state, effects = step(self._state, event)
        for effect in effects:
            if isinstance(effect, Publish):
                self._word.publish(effect.deadline)
            elif isinstance(effect, WakeAt):
                self._wake_at = effect.time
                self._changed.set()
            elif isinstance(effect, SendBeat):
                self._tasks.spawn(self._send_beat(), "beat")
            elif isinstance(effect, SendKeepalive):
                self._tasks.spawn(self._keepalive(), "keepalive")
            elif isinstance(effect, Lost):
                _log.error("server %s: session lost: %s", self._name, effect.reason)
                if self._on_lost is not None:
                    self._on_lost(effect.reason)
        if self._over():
            self._changed.set()
