"""The demo from start to end: cluster, application, load, failovers, reading back.

Owns the order of things. Leaves each part to its module.
Invariants: everything started is ended when ``Scenario.run`` returns or raises; the clients have stopped before anything
is read back.
Failure behaviour: what prevents the start raises ``AminoError``; what goes wrong later is in the result, which then is not
ok.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from amino.cli.demo import example
from amino.cli.demo.board import Board, ServerLine, View
from amino.cli.demo.closing import Result
from amino.cli.demo.failover import Breaker, Failover
from amino.cli.demo.kinds import HAPPENS, FailoverKind
from amino.cli.demo.ledger import Found, Ledger
from amino.cli.demo.meter import Meter
from amino.cli.demo.workload import Load, People
from amino.errors import AminoError
from amino.testing import LocalCluster

TTL_S = 2
_FIRST_USERS = 15
_FIRST_KILL = 0.2
_SETTLE_S = 1.5
_TICK_S = 0.1
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Options:
    """What the user chose.

    Args:
        seconds: how long the load runs; longer if a failover takes longer.
        kills: the failovers, in order. seed: of the load.
    """

    servers: int = 3
    seconds: float = 30.0
    clients: int = 4
    etcd_binary: Path | None = None
    seed: int = 1
    kills: Sequence[FailoverKind] = (FailoverKind.KERNEL, FailoverKind.SERVER)


class Scenario:
    """One demo.

    Args:
        show: makes the view of the board; it is entered once the cluster runs.
    """

    def __init__(self, options: Options, show: Callable[[Board], View]) -> None:
        self._options = options
        self._show = show
        self._meter = Meter()
        self._ledger = Ledger()
        self._people = People()
        self._problems: list[str] = []
        self.board = Board(self._meter, self._people, options.clients)
        self._view: View | None = None
        self._looked = 0.0
        self._cluster: Any = None

    def run(self) -> Result:
        """Run it all; blocks. Call from the main thread, where Ctrl-C arrives."""
        options, board = self._options, self.board
        twitter = example.load()
        with ExitStack() as stack:
            local = LocalCluster(
                servers=options.servers,
                etcd_binary=options.etcd_binary,
                app_dirs=[example.app_dir()],
                session_ttl_s=TTL_S,
            )
            stack.enter_context(local)
            self._cluster = cluster = stack.enter_context(local.connect())
            self._view = stack.enter_context(self._show(board))
            board.servers = [ServerLine(name) for name in local.servers]
            board.tell(f"{options.servers} kernel servers and an etcd run")
            board.stage = "signing up the first users"
            cluster.define_app("minnietwitter", twitter.entry())
            entry = cluster.app("minnietwitter", twitter.Twitter)
            self._sign_up_first(entry)
            load = Load(entry, self._people, self._meter, self._ledger, clients=options.clients, seed=options.seed)
            breaker = Breaker(local, cluster, self._people, self._ledger, TTL_S)
            try:
                seconds = self._under_load(load, breaker)
            except BaseException:
                load.stopping.set()
                cluster.close()  # ends the calls in flight
                load.stop()
                raise
            board.stage = "reading everything back"
            board.tell("load ended; reading back what was acknowledged")
            verdict = self._ledger.judge(self._read_back(entry))
            self._problems += [f"a client ended: {error!r}" for error in load.broken]
        return Result(
            verdict, board.failovers, list(options.kills), self._meter, seconds, len(self._people), self._problems
        )

    # --- parts -----------------------------------------------------------------------------------------------------

    def _sign_up_first(self, entry: Any) -> None:
        for number in range(1, _FIRST_USERS + 1):
            profile = entry.sign_up(f"u{number}")
            self._ledger.signed_up(profile.name)
            self._people.add(profile)
            self._tick()
        self.board.tell(f"minnietwitter runs: {_FIRST_USERS} users, each three microservices, spread over the servers")

    def _under_load(self, load: Load, breaker: Breaker) -> float:
        options, board = self._options, self.board
        began = time.monotonic()
        board.stage = "under load"
        load.start()
        share = (1 - _FIRST_KILL) / max(1, len(options.kills))
        for number, kind in enumerate(options.kills):
            self._wait_until(began + options.seconds * (_FIRST_KILL + number * share))
            self._lose_a_server(breaker, kind)
        self._wait_until(began + options.seconds)
        board.stage = "stopping the load"
        load.stop()
        return time.monotonic() - began

    def _lose_a_server(self, breaker: Breaker, kind: FailoverKind) -> None:
        board = self.board
        failover, probed = breaker.choose(kind)
        board.failovers.append(failover)
        board.tell(f"{failover.server}, which hosts {failover.objects} objects: {HAPPENS[kind]}")
        self._mark(failover.server, "frozen" if kind is FailoverKind.FREEZE else "lost")
        breaker.cause(failover, probed, self._pass)
        board.tell(
            f"{failover.server}: noticed after {_told(failover.detect_s)}, first good call on {failover.probed} after "
            f"{_told(failover.recover_s)}"
        )
        self._wait_until(time.monotonic() + _SETTLE_S)
        self._repair(breaker, failover)

    def _repair(self, breaker: Breaker, failover: Failover) -> None:
        """Bring the server back, while time goes on."""
        with ThreadPoolExecutor(1, "repair") as executor:
            repaired = executor.submit(breaker.repair, failover)
            while not repaired.done():
                self._look()
                self._pass(_TICK_S)
        try:
            self.board.tell(f"{failover.server} is back, empty, as incarnation {repaired.result()}")
        except (AminoError, TimeoutError) as error:
            self._problems.append(f"{failover.server} did not come back: {error}")

    def _read_back(self, entry: Any) -> Found:
        timelines, followers, following = {}, {}, {}
        for name in entry.names():
            profile = entry.profile(name)
            timelines[name] = profile.timeline.all()
            followers[name] = profile.followers.all()
            following[name] = profile.user.follows()
            self._tick()
        tags = entry.all_tags()
        return Found(timelines, {name: tags.tag(name).all() for name in tags.names()}, followers, following)

    # --- time ------------------------------------------------------------------------------------------------------

    def _wait_until(self, moment: float) -> None:
        while (left_s := moment - time.monotonic()) > 0:
            self._look()
            self._pass(min(left_s, _TICK_S))

    def _pass(self, seconds: float) -> None:
        time.sleep(seconds)
        self._tick()

    def _tick(self) -> None:
        if self._view is not None:
            self._view.tick()

    def _look(self) -> None:
        """Ask now and then what each server hosts."""
        if time.monotonic() - self._looked < _LOOK_EVERY_S:
            return
        self._looked = time.monotonic()
        try:
            live = {each.record.name: each for each in self._cluster.servers()}
        except AminoError:
            return  # the next look tells
        for line in self.board.servers:
            found = live.get(line.name)
            if found is not None:
                line.state, line.objects, line.incarnation = "serves", found.replicas, found.incarnation
            elif line.state == "serves":
                line.state, line.objects = "lost", 0

    def _mark(self, server: str, state: str) -> None:
        for line in self.board.servers:
            if line.name == server:
                line.state, line.objects = state, 0


def _told(seconds: float | None) -> str:
    return "more time than the demo has" if seconds is None else f"{seconds:.3f} s"
