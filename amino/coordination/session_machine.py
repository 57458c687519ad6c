"""When a session is valid, what to send to keep it so, and when it is lost: decided without clock or I/O.

Owns the arithmetic of our own beats. Leaves sending and waiting to ``session.SessionHolder``, and other servers' beats to
``silence``.
Invariants: validity never exceeds ``send time of a beat + ttl - margin``, a beat being a transaction that finds the key
ours and writes; it never goes back except to "never", for good. etcd's lease, many times longer, only clears away what
nobody else does: nothing is decided by etcd's idea of when it ends.
Failure behaviour: a failed request only leaves validity where it is; the session is lost only when etcd says that the key
is gone. A beat that is not answered does not hold up the next: what was sent to a leader of etcd that is gone is never
answered, and the session must not wait for that to time out once there is another.
Times are seconds of ``Clock.boottime``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from math import inf

from amino.coordination.deadline import NEVER
from amino.coordination.rules import LEASE_TTL_S_MIN
from amino.errors import Invalid

LEASE_TTL_S = 60
"""At least so long etcd keeps the keys of a session; see ``Timing.lease_ttl_s``."""
BEATS_MAX = 3
"""How many beats may be under way."""


@dataclass(frozen=True, slots=True)
class Timing:
    """How a session is renewed, in seconds.

    Args:
        ttl_s: after so long without a beat others may end the session; whole seconds, at least 2.
        renew_every_s: between two beats.
        request_timeout_s: of one beat or keepalive.
        margin_s: how much earlier than that validity ends.
    """

    ttl_s: int
    renew_every_s: float
    request_timeout_s: float
    margin_s: float

    @classmethod
    def of_ttl(cls, ttl_s: int) -> Timing:
        """Return the usual timing for sessions of ``ttl_s``."""
        return cls(ttl_s, ttl_s / 6, ttl_s / 3, ttl_s / 10)

    def __post_init__(self) -> None:
        if self.ttl_s < LEASE_TTL_S_MIN or self.ttl_s != int(self.ttl_s):
            raise Invalid(
                f"session ttl of {self.ttl_s} s; use a whole number of at least {LEASE_TTL_S_MIN} s: etcd raises less"
            )
        if min(self.renew_every_s, self.request_timeout_s, self.margin_s) <= 0:
            raise Invalid("session timing: renew_every, request_timeout and margin must be more than 0 s")
        needed = self.renew_every_s + 2 * self.request_timeout_s
        allowed = self.ttl_s - self.margin_s
        if needed > allowed + 1e-9:
            raise Invalid(
                f"session timing: renew_every {self.renew_every_s:g} s + 2 x request_timeout "
                f"{self.request_timeout_s:g} s = {needed:g} s must not exceed ttl {self.ttl_s:g} s - margin "
                f"{self.margin_s:g} s = {allowed:g} s; raise the ttl or lower the others"
            )

    @property
    def lease_ttl_s(self) -> int:
        """Of the lease in etcd: so long that neither a pause of etcd nor its clocks ever end it while its holder lives."""
        return max(LEASE_TTL_S, 10 * self.ttl_s)

    @property
    def keep_every_s(self) -> float:
        """Between two renewals of the lease in etcd."""
        return self.lease_ttl_s / 6

    @property
    def gap_s_max(self) -> float:
        """How far apart our own beats may lie for other servers' silence between them to count."""
        return self.ttl_s / 2

    @property
    def retry_s(self) -> float:
        """Pause after a failed request."""
        return self.renew_every_s / 4


class Phase(Enum):
    """Where a session is in its life."""

    NEW = "new"
    CLAIMING = "claiming"
    HELD = "held"
    LOST = "lost"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class State:
    """A session. ``beats``, ``keeping``: what is under way. ``renew_at``, ``keep_at``: when a beat, a keepalive is due."""

    timing: Timing
    phase: Phase = Phase.NEW
    lease: int = 0
    incarnation: int = 0
    valid_until: float = NEVER
    renew_at: float = 0.0
    keep_at: float = 0.0
    beats: int = 0
    keeping: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease exists; its grant was sent at ``sent_at``."""

    sent_at: float
    lease: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A transaction sent at ``sent_at`` created our key."""

    sent_at: float
    incarnation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now: float


@dataclass(frozen=True, slots=True)
class KeepaliveAnswered:
    """A keepalive got an answer or none, at ``now``; what etcd said of the lease does not matter: the key decides."""

    now: float
    renewed: bool


@dataclass(frozen=True, slots=True)
class BeatAnswered:
    """The beat sent at ``sent_at`` was answered: whether the key is still ours, and when to look at others next."""

    sent_at: float
    held: bool
    now: float
    look_at: float = inf


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A beat got no answer in time."""

    now: float


@dataclass(frozen=True, slots=True)
class Released:
    """We end the session ourselves."""


SessionEvent = Granted | Claimed | Tick | KeepaliveAnswered | BeatAnswered | RequestFailed | Released


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Renew the lease."""


@dataclass(frozen=True, slots=True)
class SendBeat:
    """Write our beat, if the key is ours."""


@dataclass(frozen=True, slots=True)
class Publish:
    """The session is valid until ``deadline``."""

    deadline: float


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send a ``Tick`` then."""

    time: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The session is over; its incarnation must not act any more."""

    reason: str


SessionEffect = SendKeepalive | SendBeat | Publish | WakeAt | Lost
Step = tuple[State, tuple[SessionEffect, ...]]


def step(state: State, event: SessionEvent) -> Step:
    """Return the state after ``event``, and what to do about it in order."""
    if state.phase in (Phase.LOST, Phase.ENDED):
        return state, ()
    if isinstance(event, Granted):
        keep_at = event.sent_at + state.timing.keep_every_s
        return replace(state, phase=Phase.CLAIMING, lease=event.lease, keep_at=keep_at), ()
    if isinstance(event, Claimed):
        return _claimed(state, event)
    if isinstance(event, Tick):
        return _tick(state, event)
    if isinstance(event, KeepaliveAnswered):
        wait_s = state.timing.keep_every_s if event.renewed else state.timing.renew_every_s
        kept = replace(state, keeping=False, keep_at=event.now + wait_s)
        return kept, (WakeAt(_next(kept)),)
    if isinstance(event, BeatAnswered):
        return _answered(state, event)
    if isinstance(event, RequestFailed):
        again = min(state.renew_at, event.now + state.timing.retry_s)
        failed = replace(state, beats=state.beats - 1, renew_at=again)
        return failed, (WakeAt(_next(failed)),)
    return replace(state, phase=Phase.ENDED, valid_until=NEVER), (Publish(NEVER),)


def _claimed(state: State, event: Claimed) -> Step:
    timing = state.timing
    deadline = event.sent_at + timing.ttl_s - timing.margin_s
    renew_at = event.sent_at + timing.renew_every_s
    held = replace(state, phase=Phase.HELD, incarnation=event.incarnation, valid_until=deadline, renew_at=renew_at)
    return held, (Publish(deadline), WakeAt(renew_at))


def _tick(state: State, event: Tick) -> Step:
    if state.phase is not Phase.HELD:
        return state, ()
    effects: list[SessionEffect] = []
    if event.now >= state.keep_at and not state.keeping:
        state = replace(state, keeping=True)
        effects.append(SendKeepalive())
    if event.now >= state.renew_at and state.beats < BEATS_MAX:
        state = replace(state, beats=state.beats + 1, renew_at=event.now + state.timing.renew_every_s)
        effects.append(SendBeat())
    return state, (*effects, WakeAt(_next(state)))


def _next(state: State) -> float:
    """Return when something is due; what is under way wakes by its end."""
    beat_at = state.renew_at if state.beats < BEATS_MAX else inf
    return min(beat_at, inf if state.keeping else state.keep_at)


def _answered(state: State, event: BeatAnswered) -> Step:
    if not event.held:
        reason = "etcd no longer holds our key: others ended the session, or its lease ended"
        lost = replace(state, phase=Phase.LOST, valid_until=NEVER, reason=reason)
        return lost, (Publish(NEVER), Lost(reason))
    timing = state.timing
    renew_at = max(event.now, min(state.renew_at, max(event.look_at, event.now + timing.retry_s)))
    deadline = max(event.sent_at + timing.ttl_s - timing.margin_s, state.valid_until)
    answered = replace(state, beats=state.beats - 1, renew_at=renew_at, valid_until=deadline)
    return answered, (Publish(deadline), WakeAt(_next(answered)))
