"""``amino events`` and ``amino top``: the cluster as it changes.

Owns asking again and again, and when. Leaves what is shown to ``top_view`` and ``output``.
Invariants: these commands change nothing; ``top`` spends at most a twentieth of the time asking, however large the cluster is.
Failure behaviour: a server that does not answer is no end: the next one is asked, or the same again, until Ctrl-C.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from typing import Annotated

import msgspec
import typer
from rich.console import Console
from rich.live import Live

from amino.cli import output
from amino.cli.connection import connected
from amino.cli.inspection import EVENT_COLUMNS as COLUMNS
from amino.cli.inspection import ApplicationFilter, ClassFilter, FormOption, LabelFilter, ServerFilter, StateFilter
from amino.cli.names import conditions, naming
from amino.cli.output import Form
from amino.cli.top_view import Memory, Picture, view
from amino.contracts.services import ByName, Empty, EventInfo, EventsRequest
from amino.errors import AminoError, ClusterUnavailable, Invalid
from amino.stubs.cluster import Cluster

WAIT_S = 15.0
RETRY_S = 1.0
SHARE = 20
"""``top`` waits this many times as long as asking took."""
EVENTS_KEPT = 200


@connected
def events(
    cluster: Cluster,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with what happens from now on.")] = False,
    kind: Annotated[str, typer.Option("--kind", help="Of this kind, for example recovered.")] = "",
    microservice: Annotated[str, typer.Option("--microservice", help="About this microservice: name or id.")] = "",
    server: Annotated[str, typer.Option("--server", "-s", help="About this server.")] = "",
    newest: Annotated[int, typer.Option("--newest", "-n", min=0, help="How many of the past; 0: none.")] = 50,
    form: FormOption = Form.TABLE,
) -> None:
    """Show the cluster's history, the newest last; -w follows it."""
    if watch and form is Form.YAML:
        raise Invalid("--output yaml with --watch: a list that never ends is no YAML; use -o json, a document a line")
    about = microservice
    if microservice and "name" in naming(microservice):
        about = cluster.registry.describe(ByName(name=microservice)).id

    def fits(event: EventInfo) -> bool:
        return kind in {"", event.kind} and about in {"", event.microservice} and server in {"", event.server}

    known: tuple[EventInfo, ...] = cluster.registry.events(EventsRequest()).events
    past = [event for event in known if fits(event)]
    past = past[len(past) - newest :] if newest < len(past) else past
    if not watch:
        output.show_rows(past, COLUMNS, form, msgspec.to_builtins)
        return
    for event in past:
        _tell(event, form)
    for event in following(cluster, max((event.revision for event in known), default=0)):
        if fits(event):
            _tell(event, form)


def following(cluster: Cluster, after: int, sleep: Callable[[float], None] = time.sleep) -> Iterator[EventInfo]:
    """Yield what happens after the revision ``after``, for ever; blocks. ``sleep``: between two tries that failed."""
    while True:
        began = time.monotonic()
        try:
            told = cluster.registry.events(EventsRequest(after, WAIT_S), timeout_s=WAIT_S + 5)
        except ClusterUnavailable as error:
            output.say(f"{error}; trying again")
            sleep(RETRY_S)
            continue
        news = [event for event in told.events if event.revision > after]
        yield from news
        after = max([after, *(event.revision for event in news)])
        if not news and time.monotonic() - began < RETRY_S:  # a server of an earlier release, which does not wait
            sleep(RETRY_S)


def _tell(event: EventInfo, form: Form) -> None:
    if form is Form.JSON:
        line = json.dumps(msgspec.to_builtins(event), ensure_ascii=False)
    else:
        cells = [output.at_time(event.at), event.kind, event.microservice, event.server, event.text]
        line = "  ".join(cell for cell in cells if cell)
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@connected
def top(
    cluster: Cluster,
    cls: ClassFilter = "",
    label: LabelFilter = None,
    server: ServerFilter = "",
    state: StateFilter = "",
    application: ApplicationFilter = "",
    every_s: Annotated[float, typer.Option("--every", min=0.2, help="Seconds between two looks, at least.")] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="Show it once and end.")] = False,
) -> None:
    """Watch servers, microservices and what happens: the dashboard in a terminal."""
    wanted = conditions(label or [])
    past: list[EventInfo] = []

    def look() -> Picture:
        began = time.monotonic()
        after = past[-1].revision if past else 0
        past.extend(event for event in cluster.registry.events(EventsRequest(after)).events if event.revision > after)
        del past[:-EVENTS_KEPT]
        rows = cluster.find(cls=cls, label=wanted, server=server, state=state, application=application)
        members = cluster.registry.members(Empty())
        return Picture(members.cluster, members.servers, rows, past, time.monotonic() - began)

    memory = Memory()
    console = Console(highlight=False)
    if once or not console.is_terminal:
        picture = look()
        memory.see(picture.rows, (one.record.name for one in picture.servers), time.monotonic())
        console.print(view(picture, memory, 1_000_000 if not console.is_terminal else console.height))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            pause_s = RETRY_S
            try:
                picture = look()
            except AminoError as error:
                live.update(f"[bold red]the cluster does not answer:[/] {error}; trying again", refresh=True)
            else:
                memory.see(picture.rows, (one.record.name for one in picture.servers), time.monotonic())
                live.update(view(picture, memory, console.height), refresh=True)
                pause_s = max(every_s, SHARE * picture.took_s)
            time.sleep(pause_s)
