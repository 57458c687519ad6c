"""When a session is valid, what to send to keep it so, and when it is lost: decided without clock or I/O.

Owns the arithmetic of leases. Leaves sending and waiting to ``session.SessionHolder``.
Invariants: validity never exceeds ``send time of a keepalive + ttl - margin``, and advances only when a transaction
sent after that keepalive's answer confirmed that the key is ours; it never goes back except to "never", for good.
Failure behaviour: a failed request only leaves validity where it is; the lease is lost only when etcd says so.
Times are seconds of ``Clock.boottime``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from amino.coordination.deadline import NEVER
from amino.coordination.rules import LEASE_TTL_S_MIN
from amino.errors import Invalid


@dataclass(frozen=True, slots=True)
class Timing:
    """How a session is renewed, in seconds.

    Args:
        ttl_s: of the lease; whole seconds, at least 2 (etcd raises anything smaller).
        renew_every_s: between two keepalives.
        request_timeout_s: of one keepalive or confirmation.
        margin_s: how much earlier than the lease validity ends.
    """

    ttl_s: int
    renew_every_s: float
    request_timeout_s: float
    margin_s: float

    @classmethod
    def of_ttl(cls, ttl_s: int) -> Timing:
        """Return the usual timing for a lease of ``ttl_s``."""
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
    """A session. ``busy``: a keepalive or confirmation is under way; never two."""

    timing: Timing
    phase: Phase = Phase.NEW
    lease: int = 0
    incarnation: int = 0
    granted_at: float = 0.0
    valid_until: float = NEVER
    renew_at: float = 0.0
    busy: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Granted:
    """The lease exists; its grant was sent at ``sent_at``."""

    sent_at: float
    lease: int


@dataclass(frozen=True, slots=True)
class Claimed:
    """A transaction sent after the grant's answer created our key."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""

    now: float


@dataclass(frozen=True, slots=True)
class KeepaliveAnswered:
    """A keepalive sent at ``sent_at`` was answered; ``remaining_s`` is 0 if etcd knows no such lease."""

    sent_at: float
    remaining_s: float


@dataclass(frozen=True, slots=True)
class ConfirmAnswered:
    """A transaction sent after the answer to the keepalive of ``sent_at`` said whether the key is still ours."""

    sent_at: float
    remaining_s: float
    held: bool
    now: float


@dataclass(frozen=True, slots=True)
class RequestFailed:
    """A keepalive or confirmation got no answer in time."""

    now: float


@dataclass(frozen=True, slots=True)
class Released:
    """We end the session ourselves."""


SessionEvent = Granted | Claimed | Tick | KeepaliveAnswered | ConfirmAnswered | RequestFailed | Released


@dataclass(frozen=True, slots=True)
class SendKeepalive:
    """Renew the lease."""


@dataclass(frozen=True, slots=True)
class SendConfirm:
    """Ask by a transaction whether the key is ours; hand ``sent_at`` and ``remaining_s`` back with its answer."""

    sent_at: float
    remaining_s: float


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


SessionEffect = SendKeepalive | SendConfirm | Publish | WakeAt | Lost
Step = tuple[State, tuple[SessionEffect, ...]]


def step(state: State, event: SessionEvent) -> Step:
    """Return the state after ``event``, and what to do about it in order."""
    if state.phase in (Phase.LOST, Phase.ENDED):
        return state, ()
    if isinstance(event, Granted):
        return replace(state, phase=Phase.CLAIMING, lease=event.lease, granted_at=event.sent_at), ()
    if isinstance(event, Claimed):
        return _claimed(state, event)
    if isinstance(event, Tick):
        return _tick(state, event)
    if isinstance(event, KeepaliveAnswered):
        # Also when etcd says that the lease does not exist: only the key decides, and it may be gone a moment later.
        return state, (SendConfirm(event.sent_at, event.remaining_s),)
    if isinstance(event, ConfirmAnswered):
        return _confirmed(state, event)
    if isinstance(event, RequestFailed):
        again = event.now + state.timing.retry_s
        return replace(state, busy=False, renew_at=again), (WakeAt(again),)
    return replace(state, phase=Phase.ENDED, valid_until=NEVER, busy=False), (Publish(NEVER),)


def _claimed(state: State, event: Claimed) -> Step:
    timing = state.timing
    deadline = state.granted_at + timing.ttl_s - timing.margin_s
    renew_at = state.granted_at + timing.renew_every_s
    held = replace(state, phase=Phase.HELD, incarnation=event.incarnation, valid_until=deadline, renew_at=renew_at)
    return held, (Publish(deadline), WakeAt(renew_at))


def _tick(state: State, event: Tick) -> Step:
    if state.phase is not Phase.HELD or state.busy:
        return state, ()
    if event.now < state.renew_at:
        return state, (WakeAt(state.renew_at),)
    return replace(state, busy=True, renew_at=event.now + state.timing.renew_every_s), (SendKeepalive(),)


def _confirmed(state: State, event: ConfirmAnswered) -> Step:
    if not event.held:
        reason = "etcd no longer holds our key: the lease ended or was revoked"
        lost = replace(state, phase=Phase.LOST, valid_until=NEVER, busy=False, reason=reason)
        return lost, (Publish(NEVER), Lost(reason))
    renew_at = max(event.now, state.renew_at)
    if event.remaining_s <= 0:
        renew_at = event.now + state.timing.retry_s
    state = replace(state, busy=False, renew_at=renew_at)
    deadline = event.sent_at + min(state.timing.ttl_s, event.remaining_s) - state.timing.margin_s
    if event.remaining_s <= 0 or deadline <= state.valid_until:
        return state, (WakeAt(renew_at),)
    return replace(state, valid_until=deadline), (Publish(deadline), WakeAt(renew_at))
