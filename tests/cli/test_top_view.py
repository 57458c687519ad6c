"""What ``amino top`` shows, without a terminal and without a cluster."""

import io

import pytest
from rich.console import Console

from amino.cli.top_view import Memory, Picture, headline, ordered, view
from amino.cli.watching import following
from amino.contracts.documents import ServerRecord
from amino.contracts.services import EventInfo, EventList, MicroserviceInfo, ServerInfo
from amino.errors import ClusterUnavailable


def row(name, state="active", servers=("s1",), epoch=1):
    """Return a microservice's row."""
    return MicroserviceInfo(f"id-{name}", name, "shop:Cart", state, epoch, servers, ("AtLeastOnceRPC",))


def picture(*rows, servers=("s1", "s2"), events=()):
    """Return a look at a cluster."""
    infos = [ServerInfo(ServerRecord(name, "127.0.0.1:1"), 1, replicas=3) for name in servers]
    return Picture("shop", infos, rows, events)


def text(shown, width=120):
    """Return what a terminal would show."""
    console = Console(width=width, height=60, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def seen(memory, looked, now):
    """Have ``memory`` see a picture."""
    memory.see(looked.rows, [one.record.name for one in looked.servers], now)
    return memory


def test_a_healthy_cluster_is_one_calm_line():
    """All active: the headline says so, with how much there is."""
    looked = picture(row("a"), row("b"))
    assert headline(looked, seen(Memory(), looked, 0.0)).plain == " ● Healthy: 2 microservices on 2 servers"


def test_trouble_is_told_and_comes_first():
    """What is lost or recovering is counted in the headline and stands at the top of the list."""
    looked = picture(row("a"), row("b", "recovering"), row("c", "lost", ()))
    assert "1 lost, 1 recovering" in headline(looked, Memory()).plain
    assert [one.name for one in ordered(looked.rows, Memory())] == ["c", "b", "a"]


def test_moves_and_lost_servers_show_for_a_while():
    """A row that is elsewhere than before says from where; a server that is gone stands as lost; both fade."""
    before = picture(row("a", servers=("s2",)), row("b"))
    after = picture(row("a", servers=("s1",), epoch=2), row("b"), servers=("s1",))
    memory = seen(seen(Memory(), before, 0.0), after, 1.0)
    shown = text(view(after, memory, 40))
    assert "from s2" in shown
    assert "s2 just lost" in shown
    assert [one.name for one in ordered(after.rows, memory)] == ["a", "b"]
    shown = text(view(after, seen(memory, after, 30.0), 40))
    assert "from s2" not in shown
    assert "Healthy" in shown


def test_what_does_not_fit_is_counted():
    """On a low terminal the rest of many rows is a number; the newest events are there, the newest first."""
    events = [EventInfo(n, "moved", float(n), "id-x1", "s1", f"number {n}") for n in range(30)]
    looked = picture(*(row(f"x{n}") for n in range(500)), events=events)
    shown = text(view(looked, Memory(), 30))
    assert "more" in shown
    assert shown.index("number 29") < shown.index("number 28")
    assert "number 5 " not in shown
    assert len(shown.splitlines()) <= 31


class Registry:
    """Tells what it was given, one answer after the other."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.asked = []

    def events(self, request, timeout_s):
        self.asked.append(request.after)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return EventList(answer)


def test_following_goes_on_where_it_was():
    """Each question asks for what is newer; a failure and an old server that repeats itself tell nothing twice."""
    one, two, three = (EventInfo(n, "moved", 1.0) for n in (5, 6, 7))
    registry = Registry((one,), ClusterUnavailable("no"), (one, two), (), (three,))
    pauses = []
    told = following(type("C", (), {"registry": registry})(), 4, pauses.append)
    assert [next(told).revision for _ in range(3)] == [5, 6, 7]
    assert registry.asked == [4, 5, 5, 6, 6]
    assert len(pauses) == 2


def test_following_passes_other_errors_on():
    """What is no outage ends it."""
    registry = Registry(ValueError("bug"))
    with pytest.raises(ValueError, match="bug"):
        next(following(type("C", (), {"registry": registry})(), 0))
