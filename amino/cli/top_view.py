"""What ``amino top`` shows: pure, from rows of the registry to lines of a terminal.

Owns what is counted, what is marked as changed, and the layout. Leaves asking and timing to ``watching``.
Invariants: what is in trouble comes first; what fits the terminal's height is shown, and the rest is counted, never scrolled.
Failure behaviour: none.
"""

from __future__ import annotations

import datetime as dt
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from rich.console import Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from amino.cli import output
from amino.contracts.services import EventInfo, MicroserviceInfo, ServerInfo

CHANGED_S = 6.0
EVENTS_SHOWN = 8
_FRAME_LINES = 13  # titles, borders and headings of all parts together
STYLES = {
    "active": "green",
    "moving": "yellow",
    "changing": "yellow",
    "creating": "yellow",
    "recovering": "bold yellow",
    "lost": "bold red",
    "quarantined": "bold magenta",
    "deleting": "dim",
}
_ORDER = {state: place for place, state in enumerate(reversed(STYLES))}
_BAD = frozenset({"server-lost", "lost", "quarantined", "refused", "component-failed", "checkpoint-failed"})
_GOOD = frozenset({"recovered", "promoted", "replaced", "restored", "server-joined"})


@dataclass(slots=True)
class Memory:
    """What was seen before, to tell what changed: where each microservice was, and since when it is elsewhere."""

    places: dict[str, tuple[tuple[str, ...], int]] = field(default_factory=dict)
    changed: dict[str, tuple[float, str]] = field(default_factory=dict)
    lost: dict[str, float] = field(default_factory=dict)
    servers: frozenset[str] = frozenset()

    def see(self, rows: Iterable[MicroserviceInfo], servers: Iterable[str], now: float) -> None:
        """Compare with what was seen before. ``now``: monotonic seconds."""
        before, self.places = self.places, {row.id: (row.servers, row.epoch) for row in rows}
        for ms_id, (where, epoch) in self.places.items():
            was = before.get(ms_id)
            if was is not None and was != (where, epoch):
                gone = [name for name in was[0] if name not in where]
                self.changed[ms_id] = (now, f"from {', '.join(gone)}" if gone else f"epoch {epoch}")
        present = frozenset(servers)
        self.lost.update(dict.fromkeys(self.servers - present, now))
        self.servers = present
        self.changed = {ms_id: one for ms_id, one in self.changed.items() if now - one[0] < CHANGED_S}
        self.lost = {name: at for name, at in self.lost.items() if now - at < 2 * CHANGED_S and name not in present}


@dataclass(frozen=True, slots=True)
class Picture:
    """One look at the cluster. ``took_s``: how long asking took."""

    cluster: str
    servers: Sequence[ServerInfo]
    rows: Sequence[MicroserviceInfo]
    events: Sequence[EventInfo]
    took_s: float = 0.0


def headline(picture: Picture, memory: Memory) -> Text:
    """Return the one line that tells whether all is well."""
    counts = Counter(row.state for row in picture.rows)
    trouble = [f"{counts[state]:,} {state}" for state in reversed(STYLES) if counts[state] and state != "active"]
    trouble += [f"{name} just lost" for name in sorted(memory.lost)]
    where = f"{_count(len(picture.rows), 'microservice')} on {_count(len(picture.servers), 'server')}"
    if not trouble:
        return Text.assemble((" ● ", "green"), (f"Healthy: {where}", "bold"))
    bad = counts["lost"] or counts["quarantined"]
    return Text.assemble((" ◆ ", "red" if bad else "yellow"), (f"{', '.join(trouble)} — {where}", "bold"))


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def ordered(rows: Iterable[MicroserviceInfo], memory: Memory) -> list[MicroserviceInfo]:
    """Return rows with those in trouble first, then those that just changed, then by name."""

    def rank(row: MicroserviceInfo) -> tuple[int, bool, str]:
        return _ORDER.get(row.state, 0), row.id not in memory.changed, row.name or row.id

    return sorted(rows, key=rank)


def view(picture: Picture, memory: Memory, height: int) -> Group:
    """Return the whole screen for a terminal of ``height`` lines."""
    servers = _servers(picture, memory)
    names = {row.id: row.name or row.id for row in picture.rows}
    events = list(picture.events)[-EVENTS_SHOWN:]
    room = max(3, height - _FRAME_LINES - len(picture.servers) - len(memory.lost) - len(events))
    return Group(
        headline(picture, memory),
        Panel(servers, title=f"servers of {picture.cluster}", title_align="left", border_style="dim"),
        Panel(_microservices(picture, memory, room), title="microservices", title_align="left", border_style="dim"),
        Panel(_events(events, names), title="what happened", title_align="left", border_style="dim"),
        Text(f" looked in {picture.took_s * 1000:.0f} ms · Ctrl-C ends", style="dim"),
    )


def _servers(picture: Picture, memory: Memory) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    for title in ("NAME", "STATE", "REGION"):
        table.add_column(title, no_wrap=True)
    for title in ("REPLICAS", "SLOTS", "AGE"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("SHARE", ratio=1, no_wrap=True)
    most = max((server.replicas for server in picture.servers), default=0) or 1
    for server in sorted(picture.servers, key=lambda one: one.record.name):
        state = Text("cordoned", "yellow") if server.cordoned else Text("ready", "green")
        table.add_row(
            server.record.name,
            state,
            server.record.labels.get("region", ""),
            f"{server.replicas:,}",
            str(server.slots),
            output.age(server.record.started_at),
            Text("█" * round(24 * server.replicas / most), "green"),
        )
    for name in sorted(memory.lost):
        table.add_row(Text(name, "bold red"), Text("lost", "bold red"))
    return table


def _microservices(picture: Picture, memory: Memory, room: int) -> Table:
    table = Table(box=None, pad_edge=False, expand=True, header_style="dim")
    for title, ratio in (("NAME", 3), ("CLASS", 3), ("STATE", 0), ("ON", 4), ("EPOCH", 0), ("CHANGED", 2)):
        table.add_column(title, no_wrap=True, overflow="ellipsis", ratio=ratio or None)
    rows = ordered(picture.rows, memory)
    for row in rows[:room]:
        changed = memory.changed.get(row.id)
        table.add_row(
            row.name or row.id,
            row.cls.rpartition(":")[2],
            Text(row.state, STYLES.get(row.state, "")),
            ", ".join(row.servers) or "nowhere",
            str(row.epoch),
            changed[1] if changed is not None else "",
            style="on grey15" if changed is not None else "",
        )
    if len(rows) > room:
        table.add_row(Text(f"and {len(rows) - room:,} more", "dim"))
    return table


def _events(events: Sequence[EventInfo], names: Mapping[str, str]) -> Group:
    return (
        Group(*(event_line(event, names) for event in reversed(events)))
        if events
        else Group(Text("nothing yet", "dim"))
    )


def event_line(event: EventInfo, names: Mapping[str, str]) -> Text:
    """Return one event as a line."""
    style = "bold red" if event.kind in _BAD else "green" if event.kind in _GOOD else ""
    what = " ".join(part for part in (names.get(event.microservice, event.microservice), event.server) if part)
    clock = dt.datetime.fromtimestamp(event.at).astimezone().strftime("%H:%M:%S")
    return Text.assemble((f"{clock}  ", "dim"), (f"{event.kind:<16}", style), f"{what}  ", (event.text, "dim"))
