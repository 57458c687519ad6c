"""Which slots a server claims and resigns: decided without clock or I/O.

Owns the even spread of slots over servers. Leaves transactions and watching to ``election.SlotElection``.
Invariants: all servers that see the same make the same assignment; with it the numbers of slots differ by at most one; no
slot moves that need not; a slot is claimed only while it has no leader; who may not lead gives its slots up to those who may.
Failure behaviour: a slot whose assigned server does not claim it within ``PATIENCE_S`` is claimed by whoever sees that,
and kept for ``COOLDOWN_S``, so that it does not go back and forth. A server that reaches too few others stands aside:
it claims only what has had no leader for ``ASIDE_S``, as then nobody else does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from amino.ids import SLOT_COUNT

PATIENCE_S = 0.3
COOLDOWN_S = 10.0
ASIDE_S = 1.0


@dataclass(frozen=True, slots=True)
class State:
    """What one server knows.

    Args:
        me: its name.
        servers: names of the live servers that may lead, sorted.
        leaders: slot -> name of its leader, only of slots that have one.
        vacant_since: slot -> when it was first seen without a leader.
        busy: slots whose claim or resignation is under way.
        stepped_in: slot -> when it was claimed in place of its assigned server.
    """

    me: str
    servers: tuple[str, ...] = ()
    leaders: Mapping[int, str] = field(default_factory=dict)
    vacant_since: Mapping[int, float] = field(default_factory=dict)
    busy: frozenset[int] = frozenset()
    stepped_in: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Seen:
    """The servers and leaders are these now; also sent when only time has passed.

    Args:
        aside: this server reaches too few of the others to lead.
    """

    now: float
    servers: tuple[str, ...]
    leaders: Mapping[int, str]
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Settled:
    """The claim or resignation of ``slot`` has ended, however."""

    slot: int


ElectionEvent = Seen | Settled


@dataclass(frozen=True, slots=True)
class Claim:
    """Claim these slots now."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Resign:
    """Give these slots up."""

    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Send ``Seen`` again then."""

    time: float


ElectionEffect = Claim | Resign | WakeAt


def assign(servers: Iterable[str], leaders: Mapping[int, str], slot_count: int = SLOT_COUNT) -> dict[int, str]:
    """Return the leader each slot should have: evenly spread, with as few moves as possible.

    Args:
        servers: live servers; the order does not matter.
        leaders: present leaders; those that are not live count as gone.
        slot_count: how many slots there are.

    Returns:
        Slot -> server, for every slot; empty if there is no server.
    """
    held: dict[str, list[int]] = {server: [] for server in sorted(servers)}
    if not held:
        return {}
    for slot in range(slot_count):
        leader = leaders.get(slot)
        if leader in held:
            held[leader].append(slot)
    share, extra = divmod(slot_count, len(held))
    by_load = sorted(held, key=lambda server: (-len(held[server]), server))
    quota = {server: share + (rank < extra) for rank, server in enumerate(by_load)}
    assigned = {slot: server for server, slots in held.items() for slot in slots[: quota[server]]}
    free = iter([slot for slot in range(slot_count) if slot not in assigned])
    for server, slots in held.items():
        for _ in range(quota[server] - min(len(slots), quota[server])):
            assigned[next(free)] = server
    return assigned


def step(state: State, event: ElectionEvent) -> tuple[State, tuple[ElectionEffect, ...]]:
    """Return the state after ``event``, and what to do about it."""
    if isinstance(event, Settled):
        return replace(state, busy=state.busy - {event.slot}), ()
    vacant = {
        slot: state.vacant_since.get(slot, event.now)
        for slot in range(SLOT_COUNT)
        if slot not in event.leaders and slot not in state.busy
    }
    stepped_in = {
        slot: since
        for slot, since in state.stepped_in.items()
        if event.now < since + COOLDOWN_S and (event.leaders.get(slot) == state.me or slot in state.busy)
    }
    state = replace(state, servers=event.servers, leaders=event.leaders, vacant_since=vacant, stepped_in=stepped_in)
    if state.me not in event.servers:
        return _hand_over(state)
    if event.aside and len(event.servers) > 1:
        return _stand_aside(state, event.now)
    return _decide(state, event.now)


def _hand_over(state: State) -> tuple[State, tuple[ElectionEffect, ...]]:
    """Give up what is led here while others may lead and this server may not (cordoned, or of an older release)."""
    led = _led(state)
    if not led or not state.servers:
        return state, ()
    return replace(state, busy=state.busy | set(led)), (Resign(tuple(led)),)


def _stand_aside(state: State, now: float) -> tuple[State, tuple[ElectionEffect, ...]]:
    """Give up what is led here, and step in only where nobody else does: perhaps no server reaches the others."""
    overdue = [slot for slot, since in state.vacant_since.items() if now >= since + ASIDE_S]
    return _act(state, now, mine=[], overdue=overdue, surplus=_led(state), patience_s=ASIDE_S)


def _decide(state: State, now: float) -> tuple[State, tuple[ElectionEffect, ...]]:
    assigned = assign(state.servers, state.leaders)
    mine = [slot for slot in state.vacant_since if assigned[slot] == state.me]
    overdue = [
        slot for slot, since in state.vacant_since.items() if assigned[slot] != state.me and now >= since + PATIENCE_S
    ]
    surplus = [slot for slot in _led(state) if assigned[slot] != state.me]
    return _act(state, now, mine=mine, overdue=overdue, surplus=surplus, patience_s=PATIENCE_S)


def _led(state: State) -> list[int]:
    """Return what is led here and not on its way elsewhere."""
    return [slot for slot, leader in sorted(state.leaders.items()) if leader == state.me and slot not in state.busy]


def _act(
    state: State, now: float, *, mine: list[int], overdue: list[int], surplus: list[int], patience_s: float
) -> tuple[State, tuple[ElectionEffect, ...]]:
    """Claim what is assigned to this server, step in where that is overdue, and give the surplus up that it did not step in for.

    Args:
        patience_s: after which a vacant slot is overdue.
    """
    resigned = [slot for slot in surplus if slot not in state.stepped_in]
    claimed = sorted(mine + overdue)
    effects: list[ElectionEffect] = []
    if claimed:
        effects.append(Claim(tuple(claimed)))
    if resigned:
        effects.append(Resign(tuple(resigned)))
    waits = [since + patience_s for slot, since in state.vacant_since.items() if slot not in claimed]
    waits += [state.stepped_in[slot] + COOLDOWN_S for slot in surplus if slot in state.stepped_in]
    if waits:
        effects.append(WakeAt(min(waits)))
    state = replace(
        state,
        busy=state.busy | set(claimed) | set(resigned),
        stepped_in={**state.stepped_in, **dict.fromkeys(overdue, now)},
    )
    return state, tuple(effects)
