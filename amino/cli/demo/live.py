"""The live display, on a terminal.

Owns its layout. Leaves the state to ``board``.
Invariant: drawing never waits for the cluster.
Failure behaviour: on a small terminal it is cut at the bottom.
"""

from __future__ import annotations

import time
from typing import Self

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from amino.cli.demo.bars import bars
from amino.cli.demo.board import Board
from amino.cli.demo.kinds import HAPPENS
from amino.cli.demo.workload import MIX

_PAST_S = 10.0
_WIDTH_S = 0.2
_LOG_LINES = 7
_LATENCY_OVER_S = 5.0
_STYLES = {"serves": "green", "lost": "bold red", "frozen": "bold red"}


class LiveView:
    """Redraws the board four times a second."""

    def __init__(self, board: Board, console: Console) -> None:
        self._board = board
        self._live = Live(
            console=console, get_renderable=self._draw, refresh_per_second=4, transient=True, vertical_overflow="crop"
        )

    def __enter__(self) -> Self:
        self._live.start(refresh=True)
        return self

    def __exit__(self, *exc: object) -> None:
        self._live.stop()

    def tick(self) -> None:
        """Nothing is due: it redraws by itself."""

    def _draw(self) -> RenderableType:
        board, now = self._board, time.monotonic()
        head = Text.assemble((f"{now - board.began:5.1f} s  ", "bold"), board.stage)
        tables = Columns([Panel(self._servers(), title="servers"), Panel(self._latencies(now), title="calls")])
        return Group(head, tables, Panel(self._throughput(now), title="throughput", expand=False), self._events())

    def _servers(self) -> Table:
        table = Table("server", "state", "objects", "incarnation", box=None)
        for line in self._board.servers:
            style = _STYLES.get(line.state, "yellow")
            table.add_row(line.name, Text(line.state, style), str(line.objects), str(line.incarnation))
        return table

    def _latencies(self, now: float) -> Table:
        table = Table("call", "share", "calls/s", "p50", "p99", box=None)
        latencies = self._board.meter.latencies(now - _LATENCY_OVER_S)
        for kind, share in MIX.items():
            seen = latencies.get(kind)
            if seen is None:
                table.add_row(kind, f"{share} %", "0", "", "")
            else:
                rate = f"{seen.calls / _LATENCY_OVER_S:.0f}"
                table.add_row(kind, f"{share} %", rate, f"{seen.p50_ms:.1f} ms", f"{seen.p99_ms:.0f} ms")
        return table

    def _throughput(self, now: float) -> RenderableType:
        meter, board = self._board.meter, self._board
        count = int(_PAST_S / _WIDTH_S)
        start = (now // _WIDTH_S) * _WIDTH_S - count * _WIDTH_S
        counts = meter.buckets(start, _WIDTH_S, count)
        marks = [" "] * count
        for failover in board.failovers:
            place = int((failover.at - start) / _WIDTH_S)
            if failover.at and 0 <= place < count:
                marks[place] = "x"
        said = f"{meter.rate(now):5.0f} calls/s   {meter.calls} calls, {meter.failed} failed"
        people = f"{len(board.people)} users, {board.clients} clients"
        return Group(Text(bars(counts), "cyan"), Text("".join(marks), "bold red"), Text(f"{said}   {people}"))

    def _events(self) -> RenderableType:
        lines = [Text(f"{at:5.1f} s  {text}") for at, text in self._board.log[-_LOG_LINES:]]
        for failover in self._board.failovers:
            if failover.at and failover.recover_s is None:
                gone_s = time.monotonic() - failover.at
                what = f"{failover.server}: {HAPPENS[failover.kind]}; without its objects for {gone_s:.1f} s"
                lines.append(Text(what, "bold red"))
        return Panel(Group(*lines), title="events")
