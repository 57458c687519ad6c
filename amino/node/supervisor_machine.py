"""What a supervisor does about its child: a pure machine, events in, effects out.

Owns the life of child processes: start, claim of the name, hang and stop detection, restart with back-off, drain, the
end. Leaves every act (processes, pipes, etcd, signals) to ``node.supervisor``.
Invariants: at most one child at a time; the name is claimed for a child only after every earlier child is dead and
buried; a child whose lease is lost is killed at once; seconds are counted only while the supervisor itself ran, so that
a freeze of both (or of the machine) is no hang of the child.
Failure behaviour: what concerns an earlier child is ignored; nothing raises.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from amino.errors import Invalid


@dataclass(frozen=True, slots=True)
class Rules:
    """Times, in seconds.

    Args:
        ttl_s: of the lease; a child stopped for so long is killed.
        hang_s: silence after which a child that was ready is killed.
        start_timeout_s: time for a child to become ready.
        serve_timeout_s: time for a child that was told its incarnation to serve: others count on it already.
        drain_timeout_s: time for a drain; then the child is stopped all the same.
        stop_timeout_s: time for an orderly stop; then the child is killed.
        tick_s: how often the machine is told the time; a longer gap means that the supervisor did not run either.
        steady_s: a child that lived so long resets the back-off.
    """

    ttl_s: float
    hang_s: float = 10.0
    start_timeout_s: float = 60.0
    serve_timeout_s: float = 20.0
    drain_timeout_s: float = 60.0
    stop_timeout_s: float = 5.0
    tick_s: float = 0.25
    ping_every_s: float = 1.0
    backoff_s_min: float = 0.05
    backoff_s_max: float = 5.0
    steady_s: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.tick_s <= self.ping_every_s < self.hang_s:
            raise Invalid(
                f"hang_s={self.hang_s} with pings every {self.ping_every_s} s and ticks every {self.tick_s} s; "
                "tick_s <= ping_every_s < hang_s must hold: raise hang_s"
            )


class Phase(Enum):
    """Where the present child is in its life."""

    DOWN = "down"
    STARTING = "starting"
    READY = "ready"
    CLAIMING = "claiming"
    SERVING = "serving"
    DRAINING = "draining"
    STOPPING = "stopping"
    DYING = "dying"
    OVER = "over"


_ALIVE = frozenset({Phase.READY, Phase.CLAIMING, Phase.SERVING, Phase.DRAINING, Phase.STOPPING})


@dataclass(frozen=True, slots=True)
class State:
    """All the machine knows.

    Args:
        run: number of the present child, from 1; 0 before the first.
        phase_s: time in this phase. alive_s: age of the child.
        silent_s: since its last sign of life. stopped_s: how long it has been stopped (SIGSTOP) without a break.
        ping_s: since the last ping.
        wait_s: left before the next child is started. backoff_s: length of the next such wait.
        claimed: a claim of the name was begun for this child, so it needs a burial.
        burying: the burial of an earlier child is under way.
        serves: the present child has said that it serves. has_served: some child has: the configuration works.
        terminations: how often the supervisor was told to end.
        cause: why the child was killed, while it is dying. blame: whether what it was running is suspect.
    """

    phase: Phase = Phase.DOWN
    run: int = 0
    phase_s: float = 0.0
    alive_s: float = 0.0
    silent_s: float = 0.0
    stopped_s: float = 0.0
    ping_s: float = 0.0
    wait_s: float = 0.0
    backoff_s: float = 0.0
    claimed: bool = False
    burying: bool = False
    serves: bool = False
    has_served: bool = False
    terminations: int = 0
    cause: str = ""
    blame: bool = False
    exit_code: int = 0
    exit_message: str = ""


# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Begin:
    """The supervisor has started."""


@dataclass(frozen=True, slots=True)
class Tick:
    """``elapsed_s`` seconds have passed since the last tick; ``stopped``: the child is stopped by a signal now."""

    elapsed_s: float
    stopped: bool = False


@dataclass(frozen=True, slots=True)
class ChildReady:
    """Child ``run`` has bound its ports."""

    run: int


@dataclass(frozen=True, slots=True)
class ChildServes:
    """Child ``run`` answers calls."""

    run: int


@dataclass(frozen=True, slots=True)
class ChildFailed:
    """Child ``run`` says why it cannot start; ``fatal``: trying again would fail again."""

    run: int
    message: str
    fatal: bool


@dataclass(frozen=True, slots=True)
class Pong:
    """Child ``run`` gave a sign of life."""

    run: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Child ``run`` has moved away what it could."""

    run: int


@dataclass(frozen=True, slots=True)
class Exited:
    """Child ``run`` and all of its process group are dead, for certain."""

    run: int
    cause: str


@dataclass(frozen=True, slots=True)
class Claimed:
    """The name is ours for child ``run``."""

    run: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The name cannot be ours (held by another server): the supervisor has to end."""

    run: int
    message: str


@dataclass(frozen=True, slots=True)
class LeaseLost:
    """The lease of child ``run`` is gone."""

    run: int


@dataclass(frozen=True, slots=True)
class Buried:
    """The burial under way is done: tombstone written, lease revoked."""


@dataclass(frozen=True, slots=True)
class Terminate:
    """SIGTERM or SIGINT: the first drains, the second stops now."""


ChildEvent = ChildReady | ChildServes | ChildFailed | Pong | Drained | Exited | Claimed | Refused | LeaseLost
Event = Begin | Tick | Buried | Terminate | ChildEvent


# --- effects ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StartChild:
    """Start child number ``run``."""

    run: int


@dataclass(frozen=True, slots=True)
class Claim:
    """Grant a lease and claim the name for child ``run``; then ``Claimed`` or ``Refused``."""

    run: int


@dataclass(frozen=True, slots=True)
class Serve:
    """Tell child ``run`` its incarnation: it may serve."""

    run: int


@dataclass(frozen=True, slots=True)
class Ping:
    """Ask the child for a sign of life."""


@dataclass(frozen=True, slots=True)
class Drain:
    """Ask the child to move its objects away."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Ask the child to end in order."""


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL the child's process group."""

    cause: str


@dataclass(frozen=True, slots=True)
class Bury:
    """End the session of child ``run``, which is dead: tombstone and revoke; then ``Buried``.

    ``blame``: put what it was running into the tombstone.
    """

    run: int
    cause: str
    blame: bool


@dataclass(frozen=True, slots=True)
class Exit:
    """End the supervisor."""

    code: int
    message: str = ""


Effect = StartChild | Claim | Serve | Ping | Drain | Stop | Kill | Bury | Exit
Step = tuple[State, tuple[Effect, ...]]


def step(state: State, event: Event, rules: Rules) -> Step:
    """Return the state after ``event`` and what to do, in order."""
    if state.phase is Phase.OVER:
        return state, ()
    match event:
        case Begin():
            return _start(state, rules)
        case Tick():
            return _tick(state, event, rules)
        case Terminate():
            return _terminate(state)
        case Buried():
            return _buried(state)
    return _of_child(state, event, rules) if event.run == state.run else (state, ())


def _of_child(state: State, event: ChildEvent, rules: Rules) -> Step:
    match event:
        case Pong():
            return replace(state, silent_s=0.0), ()
        case ChildServes():
            return replace(state, silent_s=0.0, serves=True, has_served=True), ()
        case Exited(cause=cause):
            return _exited(state, cause, rules)
        case ChildReady() if state.phase is Phase.STARTING:
            ready = _enter(replace(state, silent_s=0.0), Phase.READY)
            return (ready, ()) if ready.burying else _claim(ready)
        case ChildFailed(message=message, fatal=fatal) if state.phase in _ALIVE | {Phase.STARTING}:
            if fatal and not state.has_served:
                state = replace(state, exit_code=1, exit_message=message, terminations=2)
            return _kill(state, message)
        case Claimed() if state.phase is Phase.CLAIMING:
            return _enter(state, Phase.SERVING), (Serve(state.run),)
        case Refused(message=message) if state.phase is Phase.CLAIMING:
            return _kill(replace(state, exit_code=1, exit_message=message, terminations=2), "name refused")
        case LeaseLost() if state.phase in _ALIVE:
            return _kill(state, "lease lost")
        case Drained() if state.phase is Phase.DRAINING:
            return _enter(state, Phase.STOPPING), (Stop(),)
    return state, ()


def next_tick_s(state: State, rules: Rules) -> float:
    """Return when the machine wants its next tick, in seconds from now."""
    if state.phase is Phase.DOWN and not state.terminations:
        return min(rules.tick_s, max(state.wait_s, 0.0))
    return rules.tick_s


def _enter(state: State, phase: Phase) -> State:
    return replace(state, phase=phase, phase_s=0.0)


def _start(state: State, rules: Rules) -> Step:
    run = state.run + 1
    fresh = replace(
        _enter(state, Phase.STARTING),
        run=run, alive_s=0.0, silent_s=0.0, stopped_s=0.0, ping_s=0.0, wait_s=0.0, cause="", blame=False,
        claimed=False, serves=False, backoff_s=max(state.backoff_s, rules.backoff_s_min),
    )  # fmt: skip
    return fresh, (StartChild(run),)


def _claim(state: State) -> Step:
    return replace(_enter(state, Phase.CLAIMING), claimed=True), (Claim(state.run),)


def _kill(state: State, cause: str, *, blame: bool = False) -> Step:
    return replace(_enter(state, Phase.DYING), cause=cause, blame=blame), (Kill(cause),)


def _tick(state: State, tick: Tick, rules: Rules) -> Step:
    elapsed_s = min(tick.elapsed_s, 2 * rules.tick_s)  # a longer gap: we did not run, so we cannot tell what it did
    state = replace(
        state,
        phase_s=state.phase_s + elapsed_s,
        alive_s=state.alive_s + elapsed_s,
        silent_s=state.silent_s + elapsed_s,
        stopped_s=state.stopped_s + elapsed_s if tick.stopped else 0.0,
        ping_s=state.ping_s + elapsed_s,
        wait_s=state.wait_s - elapsed_s,
    )
    if state.phase is Phase.DOWN:
        if state.terminations or state.wait_s > 0:
            return state, ()
        return _start(state, rules)
    if state.phase is Phase.DYING:
        return state, ()
    if state.stopped_s >= rules.ttl_s:
        return _kill(state, "stopped")
    if state.phase is Phase.STARTING:
        return _kill(state, "start timeout") if state.phase_s >= rules.start_timeout_s else (state, ())
    if state.phase is Phase.SERVING and not state.serves and state.phase_s >= rules.serve_timeout_s:
        return _kill(state, "it did not come to serve")
    if state.silent_s >= rules.hang_s:
        return _kill(state, "hung", blame=True)
    if state.phase is Phase.DRAINING and state.phase_s >= rules.drain_timeout_s:
        return _enter(state, Phase.STOPPING), (Stop(),)
    if state.phase is Phase.STOPPING and state.phase_s >= rules.stop_timeout_s:
        return _kill(state, "shut down")
    if state.ping_s >= rules.ping_every_s:
        return replace(state, ping_s=0.0), (Ping(),)
    return state, ()


def _terminate(state: State) -> Step:
    state = replace(state, terminations=state.terminations + 1)
    if state.phase is Phase.DOWN:
        return (state, ()) if state.burying else _over(state)
    if state.phase is Phase.DYING:
        return state, ()
    if state.phase is Phase.SERVING and state.terminations == 1:
        return _enter(state, Phase.DRAINING), (Drain(),)
    return _kill(state, "shut down")


def _exited(state: State, cause: str, rules: Rules) -> Step:
    if state.phase is Phase.DYING:
        cause, blame = state.cause, state.blame
    elif state.phase is Phase.STOPPING:
        cause, blame = "shut down", False
    else:
        blame = True
    backoff_s = rules.backoff_s_min if state.alive_s >= rules.steady_s else max(state.backoff_s, rules.backoff_s_min)
    buries = state.claimed
    down = replace(
        _enter(state, Phase.DOWN),
        wait_s=backoff_s, backoff_s=min(2 * backoff_s, rules.backoff_s_max),
        claimed=False, burying=state.burying or buries, cause="", blame=False,
    )  # fmt: skip
    if buries:
        return down, (Bury(state.run, cause, blame),)
    return _over(down) if down.terminations and not down.burying else (down, ())


def _buried(state: State) -> Step:
    state = replace(state, burying=False)
    if state.phase is Phase.READY:
        return _claim(state)
    if state.phase is Phase.DOWN and state.terminations:
        return _over(state)
    return state, ()


def _over(state: State) -> Step:
    return _enter(state, Phase.OVER), (Exit(state.exit_code, state.exit_message),)
