"""The election machine: even spread with minimal movement, and golden traces of joining, loss and stepping in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from amino.coordination.election_machine import (
    COOLDOWN_S,
    PATIENCE_S,
    Claim,
    Resign,
    Seen,
    Settled,
    State,
    WakeAt,
    assign,
    step,
)
from amino.ids import SLOT_COUNT
from tests.coordination import golden

SERVERS = st.lists(st.sampled_from([f"s{n}" for n in range(12)]), min_size=1, max_size=9, unique=True)
LEADERS = st.dictionaries(st.integers(0, SLOT_COUNT - 1), st.sampled_from([f"s{n}" for n in range(12)]))


@given(SERVERS, LEADERS)
def test_the_spread_is_even_and_moves_are_minimal(servers, leaders):
    """Every slot has a live leader, counts differ by at most one, and only surplus slots move."""
    assigned = assign(servers, leaders)
    assert sorted(assigned) == list(range(SLOT_COUNT))
    counts = [list(assigned.values()).count(server) for server in servers]
    assert max(counts) - min(counts) <= 1
    held = sorted((list(leaders.values()).count(server) for server in servers), reverse=True)
    share, extra = divmod(SLOT_COUNT, len(servers))
    needed = sum(max(0, count - share - (rank < extra)) for rank, count in enumerate(held))
    moved = sum(leader in servers and assigned[slot] != leader for slot, leader in leaders.items())
    assert moved == needed


@given(SERVERS, LEADERS, st.randoms())
def test_everybody_assigns_alike(servers, leaders, rng):
    """The order in which servers and leaders are listed does not matter, and a finished assignment is final."""
    shuffled_servers = rng.sample(servers, len(servers))
    shuffled_leaders = dict(rng.sample(sorted(leaders.items()), len(leaders)))
    assigned = assign(servers, leaders)
    assert assign(shuffled_servers, shuffled_leaders) == assigned
    assert assign(servers, assigned) == assigned


def test_nobody_there():
    """Without servers nothing is assigned."""
    assert assign([], {1: "s1"}) == {}


@given(st.lists(st.tuples(st.sampled_from(["join", "leave"]), st.integers(0, 5)), max_size=12), st.randoms())
def test_a_cluster_settles(changes, rng):
    """Whatever joins and leaves, servers that act on what they see end with each slot led once, evenly spread."""
    servers: set[str] = {"s0"}
    leaders: dict[int, str] = {}
    states = {f"s{n}": State(f"s{n}") for n in range(6)}
    now = 0.0
    for kind, number in [*changes, ("join", 0)]:
        name = f"s{number}"
        if kind == "join":
            servers.add(name)
        elif len(servers) > 1:
            servers.discard(name)
            leaders = {slot: leader for slot, leader in leaders.items() if leader != name}
            states[name] = State(name)
        for _ in range(60):
            now += rng.choice([0.0, 0.05, PATIENCE_S, COOLDOWN_S])
            quiet = True
            for me in rng.sample(sorted(servers), len(servers)):
                states[me], effects = step(states[me], Seen(now, tuple(sorted(servers)), dict(leaders)))
                for effect in effects:
                    if isinstance(effect, WakeAt):
                        quiet = False
                        continue
                    quiet = False
                    for slot in effect.slots:
                        if isinstance(effect, Claim):
                            leaders.setdefault(slot, me)
                        elif isinstance(effect, Resign):
                            assert leaders[slot] == me
                            del leaders[slot]
                        states[me], _ = step(states[me], Settled(slot))
            if quiet:
                break
    counts = [list(leaders.values()).count(server) for server in servers]
    assert sum(counts) == SLOT_COUNT
    assert max(counts) - min(counts) <= 1


def _ranges(slots):
    parts = []
    for slot in sorted(slots):
        if parts and parts[-1][1] == slot - 1:
            parts[-1][1] = slot
        else:
            parts.append([slot, slot])
    return ",".join(f"{first}-{last}" if last > first else f"{first}" for first, last in parts) or "none"


ALL_MINE = dict.fromkeys(range(64), "a")
HALVES = {**dict.fromkeys(range(32), "a"), **dict.fromkeys(range(32, 64), "b")}
GONE_B = dict.fromkeys(range(32), "a")
LIVES = {
    "election-first-server": [Seen(0.0, ("a",), {}), *map(Settled, range(64)), Seen(0.1, ("a",), ALL_MINE)],
    "election-another-joins": [
        Seen(0.0, ("a",), ALL_MINE),
        Seen(1.0, ("a", "b"), ALL_MINE),
        Seen(1.1, ("a", "b"), GONE_B),
        *map(Settled, range(32, 64)),
        Seen(1.2, ("a", "b"), GONE_B),
        Seen(1.3, ("a", "b"), HALVES),
    ],
    "election-another-leaves": [Seen(0.0, ("a", "b"), HALVES), Seen(1.0, ("a",), HALVES), Seen(1.1, ("a",), GONE_B)],
    "election-assigned-server-does-not-claim": [
        Seen(0.0, ("a", "b"), GONE_B),
        Seen(0.2, ("a", "b"), GONE_B),
        Seen(0.3, ("a", "b"), GONE_B),
        *map(Settled, range(32, 64)),
        Seen(0.4, ("a", "b"), ALL_MINE),
        Seen(10.3, ("a", "b"), ALL_MINE),
    ],
    "election-may-not-lead-any-more": [
        Seen(0.0, ("a", "b"), HALVES),
        Seen(1.0, ("b",), HALVES),
        Seen(1.1, ("b",), HALVES),
        *map(Settled, range(32)),
        Seen(1.2, ("b",), dict.fromkeys(range(32, 64), "b")),
        Seen(2.0, (), HALVES),
    ],
    "election-stands-aside": [
        Seen(0.0, ("a", "b", "c"), HALVES, aside=True),
        *map(Settled, range(32)),
        Seen(0.1, ("a", "b", "c"), dict.fromkeys(range(32, 64), "b"), aside=True),
        Seen(0.5, ("a", "b", "c"), {**dict.fromkeys(range(32, 64), "b"), **dict.fromkeys(range(31), "c")}, aside=True),
        Seen(1.1, ("a", "b", "c"), {**dict.fromkeys(range(32, 64), "b"), **dict.fromkeys(range(31), "c")}, aside=True),
        Settled(31),
        Seen(
            1.2,
            ("a", "b", "c"),
            {**dict.fromkeys(range(32, 64), "b"), **dict.fromkeys(range(31), "c"), 31: "a"},
            aside=True,
        ),
        Seen(1.3, ("a", "b", "c"), {**dict.fromkeys(range(32, 64), "b"), **dict.fromkeys(range(31), "c"), 31: "a"}),
    ],
    "election-stands-aside-alone": [Seen(0.0, ("a",), ALL_MINE, aside=True)],
    "election-not-in-the-list": [Seen(0.0, ("b",), {}), Seen(9.0, ("b",), {})],
}


@pytest.mark.parametrize("name", LIVES)
def test_golden_trace(name):
    """What server ``a`` does is exactly as recorded."""
    state = State("a")
    lines = []
    for event in LIVES[name]:
        state, effects = step(state, event)
        if isinstance(event, Settled):
            continue
        lines.append(f"{event.now:g} s: servers {', '.join(event.servers)}")
        lines += [
            f"    {server} leads {_ranges(slot for slot, leader in event.leaders.items() if leader == server)}"
            for server in sorted(set(event.leaders.values()))
        ]
        for effect in effects:
            what = f"at {effect.time:g} s" if isinstance(effect, WakeAt) else _ranges(effect.slots)
            lines.append(f"    -> {type(effect).__name__} {what}")
    golden.compare(name, lines)
