"""The demo: its counting and judging, and real runs of it."""

from __future__ import annotations

import io
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from rich.console import Console

import amino
from amino.cli.demo import FailoverKind, closing
from amino.cli.demo.bars import bars
from amino.cli.demo.board import Board, ServerLine
from amino.cli.demo.closing import Result
from amino.cli.demo.example import load
from amino.cli.demo.failover import Breaker, Failover
from amino.cli.demo.ledger import Found, Ledger, Verdict
from amino.cli.demo.live import LiveView
from amino.cli.demo.meter import Meter
from amino.cli.demo.plain import PlainView
from amino.cli.demo.workload import MIX, People

PATIENCE_S = 60


# ---- counting ----


def test_bars_are_as_high_as_their_numbers() -> None:
    """The largest number is a full block, zero a blank, and what is little is still seen."""
    assert bars([0, 1, 50, 100]) == " ▁▄█"
    assert bars([0, 1, 4, 8], ascii_only=True) == " .=@"
    assert bars([0, 0]) == "  "


def test_the_meter_counts_calls_by_when_they_ended() -> None:
    """Rates, buckets and latencies count each call once, at its end."""
    meter = Meter()
    for n in range(10):
        meter.answered("post", n / 10 - 0.002, n / 10)
    meter.answered("timeline", 0.8, 0.95)
    assert meter.calls == 11
    assert meter.rate(1.0, over_s=0.5) == 12
    assert meter.buckets(0.0, 0.5, 3) == [5, 6, 0]
    latencies = meter.latencies()
    assert latencies["post"].calls == 10
    assert latencies["post"].p50_ms == pytest.approx(2)
    assert latencies["timeline"].max_ms == pytest.approx(150)
    assert list(meter.latencies(since=0.93)) == ["timeline"]
    meter.failure("post", ValueError("no"))
    assert (meter.failed, meter.errors) == (1, ("post: ValueError: no",))


def test_popular_users_are_chosen_more_often() -> None:
    """Choices follow Zipf's law with exponent 0.75."""
    people = People()
    for n in range(1, 21):
        people.add(n)
    rng = random.Random(5)
    chosen = Counter(people.choose(rng) for _ in range(20_000))
    assert chosen[1] / chosen[16] == pytest.approx(16**0.75, rel=0.2)
    assert len(chosen) == 20
    assert sum(MIX.values()) == 100


# ---- judging ----


def _noted() -> tuple[Ledger, Found]:
    """Two users, two tweets, one follow, and a cluster that has all of it."""
    tweet = load().Timeline("ada").append("one #tag")
    ledger = Ledger()
    for name in ("ada", "bob"):
        ledger.signed_up(name)
    ledger.posted(tweet)
    ledger.followed("bob", "ada", new=True)
    found = Found({"ada": [tweet], "bob": []}, {"tag": [tweet]}, {"ada": ["bob"], "bob": []}, {"bob": ["ada"]})
    return ledger, found


def test_what_is_all_there_is_neither_lost_nor_duplicated() -> None:
    """The verdict is clean when each acknowledged change is there once."""
    ledger, found = _noted()
    verdict = ledger.judge(found)
    assert (verdict.acknowledged, verdict.lost, verdict.duplicated, verdict.told) == (4, 0, 0, [])


@pytest.mark.parametrize(
    ("change", "lost", "duplicated"),
    [
        (lambda f: {"timelines": {"bob": []}}, 2, 0),
        (lambda f: {"timelines": {"ada": [], "bob": []}}, 1, 0),
        (lambda f: {"tags": {}}, 1, 0),
        (lambda f: {"followers": {"ada": []}}, 1, 0),
        (lambda f: {"following": {"bob": []}}, 1, 0),
        (lambda f: {"timelines": {"ada": f.timelines["ada"] * 2, "bob": []}}, 0, 2),
        (lambda f: {"tags": {"tag": f.tags["tag"] * 3}}, 0, 2),
        (lambda f: {"followers": {"ada": ["bob", "bob"]}}, 0, 1),
    ],
    ids=["user", "tweet", "tagged", "follower", "following", "twice", "tagged thrice", "followed twice"],
)
def test_each_loss_and_each_double_is_found(change, lost: int, duplicated: int) -> None:
    """Whatever is missing, or there once too often, is counted and told."""
    ledger, found = _noted()
    verdict = ledger.judge(replace(found, **change(found)))
    assert (verdict.lost, verdict.duplicated) == (lost, duplicated)
    assert verdict.told


def test_a_follow_that_was_new_twice_ran_twice() -> None:
    """Two acknowledgements that one user is new to another cannot both be right."""
    ledger, found = _noted()
    ledger.followed("bob", "ada", new=True)
    assert ledger.judge(found).duplicated == 1


# ---- showing ----


def _result(**changes) -> Result:
    meter = Meter()
    for n in range(40):
        meter.answered("post", 10 + n / 10, 10.01 + n / 10)
    failover = Failover(FailoverKind.KERNEL, "s2", 7, 1.0, at=12.0, detect_s=0.05, recover_s=0.2)
    result = Result(Verdict(30), [failover], [FailoverKind.KERNEL], meter, 4.0, 9, [])
    for name, value in changes.items():
        setattr(result, name, value)
    return result


def test_the_document_has_what_programs_rely_on() -> None:
    """The JSON document has its keys, and is ok only if everything is."""
    document = _result().document()
    assert document["ok"] is True
    assert document["calls"] == 40
    [failover] = document["failovers"]
    assert (failover["kind"], failover["detect_s"], failover["recover_s"]) == ("kernel", 0.05, 0.2)
    assert (document["lost_acknowledged"], document["duplicated"]) == (0, 0)
    assert not _result(verdict=Verdict(30, lost=1)).ok
    assert not _result(verdict=Verdict(30, duplicated=1)).ok
    assert not _result(problems=["s2 did not come back"]).ok
    assert not _result(asked=[FailoverKind.KERNEL, FailoverKind.SERVER]).ok
    unseen = _result()
    unseen.failovers[0].recover_s = None
    assert not unseen.ok
    assert unseen.document()["failovers"][0]["recover_s"] is None


def test_the_closing_shows_the_timeline_with_its_marks() -> None:
    """The closing has bars per 100 ms, marks below them at their moments, and the verdict."""
    written = io.StringIO()
    closing.show(_result(), Console(file=written, width=110))
    lines = written.getvalue().splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("|"))
    assert lines[at].startswith("|██████████")
    assert lines[at + 1].index("x") == 1 + 10
    assert lines[at + 3].index("^ first good call after 0.200 s") == 1 + 12
    assert any("0 lost, 0 duplicated" in line for line in lines)


def test_views_show_the_board() -> None:
    """The live view draws servers, calls and events; the plain one writes a line for each event."""
    board = Board(Meter(), People(), clients=2)
    board.servers = [ServerLine("s1", "serves", 12, 3), ServerLine("s2", "lost")]
    drawn = io.StringIO()
    with LiveView(board, Console(file=drawn, force_terminal=True, width=120, height=40)):
        board.failovers.append(Failover(FailoverKind.SERVER, "s2", 5, 3.0, at=board.began))
        board.tell("s2 is lost")
    for text in ("s1", "serves", "timeline", "s2 is lost", "without its objects"):
        assert text in drawn.getvalue()
    written = io.StringIO()
    with PlainView(board, written) as view:
        board.meter.answered("post", board.began, board.began)
        view.tick()
        board.tell("s2 is back")
    assert [line[7:].strip()[:10] for line in written.getvalue().splitlines()] == [
        "s2 is lost",
        "1 calls/s,",
        "s2 is back",
    ]


# ---- for real ----


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "amino.cli", "demo", *arguments]


def _environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(amino.__file__).parents[1]), "PYTHONUNBUFFERED": "1", **more}


@pytest.mark.real
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kinds", [["kernel", "server"], ["freeze"]], ids=["killed", "frozen"])
def test_the_demo_loses_servers_and_nothing_else(kinds: list[str]) -> None:
    """A short demo ends well: each failover is seen through, and every acknowledgement is there, once."""
    kills = [text for kind in kinds for text in ("--kill", kind)]
    done = subprocess.run(
        _command("--json", "--seconds", "6", "--clients", "3", *kills),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.stdout, done.stderr
    document = json.loads(done.stdout)
    assert done.returncode == 0, document
    assert document["ok"] is True
    assert document["calls"] > 100
    assert [failover["kind"] for failover in document["failovers"]] == kinds
    assert all(failover["detect_s"] > 0 and failover["recover_s"] > 0 for failover in document["failovers"])
    assert document["acknowledged"] > 50
    assert (document["lost_acknowledged"], document["duplicated"], document["failed_calls"]) == (0, 0, 0)


class Frozen:
    """A server, its cluster and a user in one: nothing answers."""

    kernel_pid = supervisor_pid = 0

    def __init__(self) -> None:
        self.timeline = self

    def server(self, _name: str) -> Frozen:
        return self

    def stop(self) -> int:
        return 1

    kill = kill_kernel = stop

    def append(self, _text: str) -> None:
        raise amino.ClusterUnavailable("closed")


def test_an_interrupt_while_the_probe_starts_ends_the_probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C may come after the probe's thread was started and before that is known; the demo then went on for ever."""
    started: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        started.append(thread)
        raise KeyboardInterrupt

    frozen = Frozen()
    monkeypatch.setattr("amino.cli.demo.failover._await_silence", lambda *_: None)
    monkeypatch.setattr(threading.Thread, "start", interrupted)
    breaker = Breaker(frozen, frozen, People(), Ledger(), 2)
    with pytest.raises(KeyboardInterrupt):
        breaker.cause(Failover(FailoverKind.FREEZE, "s1", 1, 3.0), frozen, lambda _: None)
    [probe] = started
    probe.join(10.0)
    assert not probe.is_alive()


@pytest.mark.real
@pytest.mark.timeout(120)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM, in the middle of a failover, end everything within seconds."""
    running = subprocess.Popen(
        _command("--kill", "freeze"), env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        assert running.stdout is not None
        assert any("frozen" in line for line in running.stdout)
        processes = psutil.Process(running.pid).children(recursive=True)
        assert len(processes) >= 7  # an etcd, three supervisors, three kernel processes
        running.send_signal(number)
        running.communicate(timeout=20)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130
    _, alive = psutil.wait_procs(processes, timeout=5)
    assert not [process for process in alive if process.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.real
def test_a_demo_without_etcd_says_how_to_get_one() -> None:
    """What prevents the start is told in words, with the remedy, and standard output stays free for JSON."""
    done = subprocess.run(
        _command("--json", "--etcd-binary", "/nowhere/etcd"),
        env=_environment(),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert "/nowhere/etcd does not exist" in done.stderr
