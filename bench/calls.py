"""Calls: Amino beside raw echo, grpcio, rpyc, Pyro5, xoscar and Ray, in one run.

Owns the rounds and the bars. Leaves timing to the processes of each system. Measures take turns in several rounds, and the
median of the rounds counts, so that what else the machine does falls on all of them alike. Those that are close together have
more rounds.
Invariant: what is compared was measured in the same run, in processes of its own, on loopback, placed alike on cores.
Failure behaviour: a peer that cannot run is left out of its bar, with the reason printed and noted.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from bench import amino_calls, telemetry_cost
from bench.cluster import running
from bench.peers.port import Measured
from bench.peers.run import PEERS, Outcome
from bench.peers.run import run as run_peer
from bench.placement import place_server
from bench.rows import Row, row
from bench.stats import p50

if TYPE_CHECKING:
    from collections.abc import Sequence

ROUNDS = 3
SECONDS = 0.4
CLOSE = ("rpyc", "uvloop")
"""Peers that bars compare calls one at a time with most narrowly: they and we have ``CLOSE_ROUNDS`` more."""
CLOSE_ROUNDS = 4
ONCE = {"ray"}
"""Peers that take long to start run in one round only, with loops three times as long."""
RAW_CALL_MAX = 4.5
IN_FLIGHT_MIN = 5.0
COLOCATED_US_MAX = 20.0

_FIELDS = {
    "null_us": ("sequential", "us"),
    "null_p99_us": ("sequential.p99", "us"),
    "in_flight_per_s": ("in_flight_64", "calls/s"),
    "kib_us": ("1KiB", "us"),
    "mib_us": ("1MiB", "us"),
}


def run(*, quick: bool = False) -> list[Row]:
    """Measure everything; about two minutes, a third of that when quick."""
    rounds = 1 if quick else ROUNDS
    peers: dict[str, list[Outcome]] = {name: [] for name in PEERS}
    ours: list[dict[str, float]] = []
    with running(servers=1) as cluster:
        place_server(cluster.local.server(cluster.servers[0]).kernel_pid)
        for number in range(rounds):
            ours.append(amino_calls.measure_apart(cluster.local.addresses[0], SECONDS))
            for name in PEERS:
                if name not in ONCE or number == 0:
                    seconds = SECONDS * 3 if name in ONCE else SECONDS
                    peers[name].append(run_peer(name, seconds))
        for _ in range(0 if quick else CLOSE_ROUNDS):
            ours.append(amino_calls.measure_apart(cluster.local.addresses[0], SECONDS, only_sequential=True))
            for name in CLOSE:
                peers[name].append(run_peer(name, SECONDS, payloads=False))
    return judge(ours, peers) + telemetry_cost.run(quick=quick)


def judge(ours: Sequence[dict[str, float]], peers: dict[str, list[Outcome]]) -> list[Row]:
    """Return the rows: the peers' numbers, then ours with their bars."""
    rows: list[Row] = []
    medians: dict[str, dict[str, float]] = {}
    for name, outcomes in peers.items():
        measured = [each.measured for each in outcomes if each.measured is not None]
        if not measured:
            reason = outcomes[0].reason if outcomes else "not run"
            print(f"{name} left out: {reason}", file=sys.stderr)
            rows.append(row(f"calls.{name}", None, "us", note=reason))
            continue
        medians[name] = _medians(measured)
        for field, value in medians[name].items():
            what, unit = _FIELDS[field]
            rows.append(row(f"calls.{name}.{what}", value, unit))
    return rows + _ours(_median_of(ours), medians)


def _ours(value: dict[str, float], peers: dict[str, dict[str, float]]) -> list[Row]:
    def of(field: str, *names: str) -> list[float]:
        return [peers[name][field] for name in names if field in peers.get(name, {})]

    rows: list[Row] = []
    raw = peers.get("uvloop", peers.get("asyncio", {})).get("null_us")
    others = ("rpyc", "pyro5", "xoscar", "grpcio", "ray")
    for kind in ("async", "inline"):
        name = f"calls.amino.{kind}.sequential"
        null_us = value.get(f"{kind}_us")
        rows.append(row(name, null_us, "us", baseline=raw, against="raw uvloop echo", at_most=RAW_CALL_MAX))
        fastest = min(of("null_us", *others), default=None)
        rows.append(
            row(f"{name}.vs_fastest_peer", null_us, "us", baseline=fastest, against="the fastest peer", at_most=1)
        )
    fastest = min(of("null_us", *(name for name in others if name != "rpyc")), default=None)
    null_us = value.get("def_us")
    note = "of Pyro5, xoscar, grpcio and Ray"
    rows.append(
        row("calls.amino.def.sequential", null_us, "us", baseline=fastest, against="the fastest", at_most=1, note=note)
    )
    for kind in ("async", "inline"):
        rate = value.get(f"{kind}_per_s")
        name = f"calls.amino.{kind}.in_flight_64"
        for peer in ("ray", "xoscar"):
            theirs = min(of("in_flight_per_s", peer), default=None)
            rows.append(
                row(f"{name}.vs_{peer}", rate, "calls/s", baseline=theirs, against=peer, at_least=IN_FLIGHT_MIN)
            )
    rows.append(row("calls.amino.def.in_flight_64", value.get("def_per_s"), "calls/s"))
    rows.append(row("calls.amino.1KiB", value.get("kib_us"), "us"))
    rows.append(row("calls.amino.1MiB", value.get("mib_us"), "us"))
    rows.extend(
        row(f"calls.amino.{kind}.colocated", value.get(f"colocated_{kind}_us"), "us", at_most=COLOCATED_US_MAX)
        for kind in ("async", "inline")
    )
    return rows


def _medians(measured: Sequence[Measured]) -> dict[str, float]:
    return _median_of([{key: value for key, value in asdict(each).items() if value is not None} for each in measured])


def _median_of(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    keys = {key: None for each in rounds for key in each}
    return {key: p50([each[key] for each in rounds if key in each]) for key in keys}
