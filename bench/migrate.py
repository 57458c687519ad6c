"""Migration: an object of 1 MiB moves from server to server under eight callers.

Owns the moves and the judgement. Leaves calling to ``callers``.
Invariant: the stall of a move is the longest call that was going on at any moment of it.
Failure behaviour: calls that fail are counted and fail the bar.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.callers import Callers
from bench.cluster import running
from bench.rows import Row, row
from bench.stats import p50

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.callers import Called

MOVES = 20
CALLERS = 8
SIZE_BYTES = 1024 * 1024
STALL_P50_MS_MAX = 20.0


def run(*, quick: bool = False) -> list[Row]:
    """Move 20 times (4 when quick)."""
    import amino
    from amino.dm import AtLeastOnceRPC, ExplicitMigration, SerializableRPC
    from bench.workload import Blob

    moves: list[tuple[float, float]] = []
    with running(servers=3) as cluster:
        dms = [AtLeastOnceRPC(), ExplicitMigration(), SerializableRPC()]
        blob = cluster.client.new(amino.spec(Blob, name="bench-blob", dms=dms), SIZE_BYTES)
        with Callers([blob.add] * CALLERS) as callers:
            for number in range(4 if quick else MOVES):
                callers.first_good_after(time.perf_counter(), 30.0)
                here = cluster.host_of("bench-blob")
                others = [name for name in cluster.servers if name != here]
                began = time.perf_counter()
                cluster.move("bench-blob", others[number % len(others)])
                moves.append((began, time.perf_counter()))
            callers.first_good_after(time.perf_counter(), 30.0)
        kept = blob.add()
    return judge(moves, callers.seen, kept)


def judge(moves: Sequence[tuple[float, float]], seen: Sequence[Called], kept: int) -> list[Row]:
    """Return the rows.

    Args:
        moves: when each move began and ended.
        seen: all calls of ``Blob.add`` of all callers.
        kept: result of one more call after them.
    """
    stalls = [
        max((each.took for each in seen if each.began <= ended and each.ended >= began), default=0.0)
        for began, ended in moves
    ]
    values = [each.result for each in seen if not each.error]
    failed = len(seen) - len(values)
    doubled = len(values) - len(set(values))
    lost = max(0, len(values) + 1 - kept)
    return [
        row(
            "migrate.stall.p50", p50(stalls) * 1e3, "ms", at_most=STALL_P50_MS_MAX, note=f"{len(moves)} moves of 1 MiB"
        ),
        row("migrate.stall.worst", max(stalls) * 1e3, "ms"),
        row("migrate.move.p50", p50([ended - began for began, ended in moves]) * 1e3, "ms"),
        row("migrate.failed_calls", float(failed), "calls", at_most=0, note=f"{len(seen)} calls"),
        row("migrate.doubled_calls", float(max(doubled, kept - 1 - len(values) - failed)), "calls", at_most=0),
        row("migrate.lost_calls", float(lost), "calls", at_most=0),
    ]
