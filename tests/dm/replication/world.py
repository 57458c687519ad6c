"""A cluster in which everything goes wrong: hosts, network, etcd with sessions, a slot leader with stale lists, clients.

One seed, one run. Time is simulated; every host has a clock of its own, with its own offset and rate.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from amino.dm.replication.machine import TICK_S, Role
from amino.dm.replication.messages import Member, SnapshotHeader
from amino.dm.replication.state import CLOCK_DRIFT_MAX
from amino.dm.replication.view import ALL_RULES, Options, Rules, View
from tests.dm.replication.actor import Actor
from tests.dm.replication.model import Etcd, Leader
from tests.dm.replication.oracle import Call, Oracle, State

TTL_S = 1.2
MARGIN_S = 0.1
RENEW_EVERY_S = 0.12
OPTIONS = Options(min_in_sync=2, append_timeout_s=0.2, read_lease_s=0.2, snapshot_every=30)


@dataclass
class Faults:
    """How often what goes wrong: probabilities per message, and mean pauses in seconds between larger faults."""

    loss: float = 0.02
    repeat: float = 0.05
    slow: float = 0.03
    lazy_host: float = 0.2
    lazy_s: float = 0.08
    slow_s: float = 0.6
    divergence: float = 0.002
    edit_lost: float = 0.15
    edit_late: float = 0.15
    stale_list: float = 0.1
    between_faults_s: float = 0.35
    between_promotions_s: float = 0.8
    watch_slow: float = 0.15
    writes: float = 0.5
    kinds: tuple[str, ...] = ("crash", "freeze", "part", "island", "one way", "no etcd")


NO_FAULTS = Faults(0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1e9, 1e9, 0, 0.5)


class World:
    """Everything, for one run.

    Args:
        seed: of all chance.
        rules: that the machines (and the slot leader) obey.
        faults: how much goes wrong.
    """

    def __init__(self, seed: int, rules: Rules = ALL_RULES, faults: Faults | None = None, hosts: int = 5) -> None:
        self.chance = random.Random(seed)
        self.rules, self.options = rules, OPTIONS
        self.faults = faults or Faults()
        self.now = 0.0
        self.oracle = Oracle()
        self.takeovers = self.divergences = 0
        self.lost = False
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.cut: set[tuple[str, str]] = set()
        self.lazy: set[str] = set()
        self.hosts = {f"s{number}": Host(self, f"s{number}") for number in range(1, hosts + 1)}
        first = self.hosts["s1"]
        self.etcd = Etcd(self, View(1, 1, (Member("r1", "s1", first.incarnation),), "r1", ("r1",)))
        self.leader = Leader(self)
        first.host("r1", constructed=True)
        self.etcd.publish()
        for number in range(3):
            self.at(0.05, Client(self, number).go_on)
        self.at(0.4, self._fault)
        self.at(0.5, self._promote)

    # -- time

    def at(self, delay: float, step: Callable[[], None]) -> None:
        """Call ``step`` after ``delay`` seconds."""
        self._count += 1
        heapq.heappush(self._queue, (self.now + delay, self._count, step))

    def on_host(self, host: Host, delay: float, step: Callable[[], None]) -> None:
        """Call ``step`` in the process that runs on ``host`` now: late if frozen, never if it has ended."""
        incarnation = host.incarnation
        self.at(delay, lambda: host.run(incarnation, step))

    def run(self, until: float, done: Callable[[], bool] = lambda: False) -> None:
        """Let time pass until ``until``, or until ``done``."""
        while self._queue and not self.lost and self._queue[0][0] <= until and not done():
            self.now, _, step = heapq.heappop(self._queue)
            step()
        if not done() and not self.lost:
            self.now = max(self.now, until)

    # -- network

    def delay(self) -> float:
        """Return how long a message takes."""
        chance = self.chance
        return chance.uniform(0, self.faults.slow_s) if chance.random() < self.faults.slow else chance.expovariate(800)

    def send(self, source: Host, target: str, deliver: Callable[[Host], None]) -> None:
        """Carry a message, perhaps twice, perhaps never."""
        host = self.hosts[target]
        if (source.name, target) in self.cut or self.chance.random() < self.faults.loss:
            return
        for _ in range(1 + (self.chance.random() < self.faults.repeat)):
            lazy = self.chance.uniform(0, self.faults.lazy_s) if target in self.lazy else 0
            self.on_host(host, self.delay() + lazy, lambda: deliver(host))

    # -- what etcd tells

    def tell(self, event: str, *args, **more) -> None:
        """Tell every replica something, to each in its own time, to some never."""
        for host in self.hosts.values():
            if self.chance.random() < 0.8:
                delay = self.delay() + self.chance.uniform(0, 0.1)
                self.on_host(host, delay, lambda host=host: host.event(event, *args, **more))

    def show(self, host: Host, view: View) -> None:
        """Let a host see the document: soon, late, or not before its next look."""
        if (host.name, "etcd") not in self.cut:
            slow = self.chance.random() < self.faults.watch_slow
            delay = self.chance.uniform(0, 0.5) if slow else self.chance.expovariate(400)
            self.on_host(host, delay, lambda: host.event("document", view))

    # -- faults

    def _fault(self) -> None:
        self.at(self.chance.expovariate(1 / self.faults.between_faults_s), self._fault)
        host = self.chance.choice(list(self.hosts.values()))
        if self.chance.random() < 0.5:  # where it hurts most
            host = self.hosts.get(self.etcd.server_of_primary(), host)
        self.lazy = {name for name in self.hosts if self.chance.random() < self.faults.lazy_host}
        kind = self.chance.choice(self.faults.kinds)
        lasts = self.chance.expovariate(2.5)
        if kind in ("crash", "freeze", "no etcd", "island"):
            if not host.alive or not self._spares(host):
                return
            if kind == "crash":
                host.crash()
            elif kind == "freeze":
                host.frozen = True
                self.at(lasts, host.thaw)
            else:
                self._part({(host.name, "etcd")}, lasts)
                if kind == "island":
                    self._part(
                        {pair for other in self.hosts for pair in ((other, host.name), (host.name, other))}, lasts
                    )
        else:
            others = [other for other in self.hosts if other != host.name]
            away = self.chance.sample(others, self.chance.randint(1, len(others)))
            pairs = {(host.name, other) for other in away}
            self._part(pairs if kind == "one way" else pairs | {(b, a) for a, b in pairs}, lasts)

    def _spares(self, host: Host) -> bool:
        """Return whether a healthy in-sync member stays without ``host``."""
        others = [member for member in self.etcd.in_sync() if member.server != host.name]
        return any(self.hosts[member.server].healthy(member.incarnation) for member in others)

    def _part(self, pairs: set[tuple[str, str]], lasts: float) -> None:
        self.cut |= pairs
        self.at(lasts, lambda: self.cut.difference_update(pairs))

    def _promote(self) -> None:
        self.at(self.chance.expovariate(1 / self.faults.between_promotions_s), self._promote)
        self.leader.promote_any()

    def heal(self) -> None:
        """End all faults."""
        self.faults = NO_FAULTS
        self.cut.clear()
        self.lazy.clear()
        for host in self.hosts.values():
            if host.alive:
                host.thaw()


class Host:
    """A kernel server: at most one process at a time, each with an incarnation, a session and a clock."""

    def __init__(self, world: World, name: str) -> None:
        self.world, self.name = world, name
        chance = world.chance
        self._offset, self._rate = chance.uniform(0, 1000), 1 + chance.uniform(-1, 1) * CLOCK_DRIFT_MAX / 2.1
        self.incarnation = 0
        self.alive = self.frozen = False
        self.actors: dict[str, Actor] = {}
        self._held: list[Callable[[], None]] = []
        self._hosted = ""
        self._valid_until = 0.0
        self.lease_until = 0.0
        self._start()

    def _start(self) -> None:
        self.incarnation += 1
        self.alive = True
        self._valid_until = self.lease_until = self.world.now + TTL_S
        self.world.on_host(self, self.world.chance.uniform(0, TICK_S), self._tick)
        self.world.on_host(self, self.world.chance.uniform(0, RENEW_EVERY_S), self._renew)
        self.world.on_host(self, 0, self._heartbeats)
        self.world.on_host(self, 0, self._look)
        if self._hosted:  # a replica born again under its old id, with the constructor run once more
            self.host(self._hosted, constructed=True)

    def clock(self) -> float:
        """Return this host's own time."""
        return self._offset + self.world.now * self._rate

    def valid(self) -> bool:
        """Return whether the session is valid."""
        return self.world.now < self._valid_until

    def healthy(self, incarnation: int) -> bool:
        """Return whether that incarnation runs, with a session that lasts."""
        return (
            self.alive
            and not self.frozen
            and self.incarnation == incarnation
            and (self.name, "etcd") not in self.world.cut
            and self.lease_until > self.world.now + TTL_S / 2
        )

    def run(self, incarnation: int, step: Callable[[], None]) -> None:
        """Run a step of the process that had ``incarnation``."""
        if not self.alive or self.incarnation != incarnation:
            return
        if self.frozen:
            self._held.append(lambda: self.run(incarnation, step))
        else:
            step()

    def host(self, replica: str, *, constructed: bool) -> None:
        """Begin to host a replica."""
        self._hosted = replica
        self.actors[replica] = Actor(self.world, self, replica, constructed=constructed)

    def event(self, name: str, *args, **more) -> None:
        """Hand an event to every replica here."""
        for actor in list(self.actors.values()):
            actor.event(name, *args, **more)

    def _look(self) -> None:
        self.world.on_host(self, self.world.chance.uniform(0.1, 0.4), self._look)
        self.world.show(self, self.world.etcd.view)

    def crash(self) -> None:
        """Kill the process; its supervisor proves it dead and starts another."""
        incarnation = self.incarnation
        self.end()
        self.world.at(self.world.chance.uniform(0.005, 0.05), lambda: self.world.etcd.bury(self.name, incarnation))
        self.world.at(self.world.chance.uniform(0.06, 0.8), self._start)

    def end(self) -> None:
        """End the process."""
        self.alive = self.frozen = False
        self._held.clear()
        for actor in self.actors.values():
            actor.end()
        self.actors = {}

    def thaw(self) -> None:
        """Let the process run on; first what it missed."""
        if self.frozen:
            self.frozen = False
            held, self._held = self._held, []
            for step in held:
                step()

    def _tick(self) -> None:
        self.world.on_host(self, TICK_S, self._tick)
        for actor in list(self.actors.values()):
            actor.event("tick")

    def _renew(self) -> None:
        world = self.world
        world.on_host(self, RENEW_EVERY_S, self._renew)
        if world.now >= self.lease_until:  # an incarnation does not outlive its lease
            self.end()
            world.at(world.chance.uniform(0.1, 0.5), self._start)
        elif (self.name, "etcd") not in world.cut:
            self.lease_until = world.now + TTL_S
            self._valid_until = self.lease_until - MARGIN_S

    def _heartbeats(self) -> None:
        self.world.on_host(self, self.world.options.read_lease_s / 4, self._heartbeats)
        for actor in self.actors.values():
            view = actor.machine.view
            if view is None or actor.machine.role not in (Role.PRIMARY, Role.TAKING_OVER):
                continue
            sender, sent_at, epoch = (self.name, self.incarnation), self.clock(), actor.machine.epoch
            beat = partial(Host.beaten, sender=sender, epoch=epoch, sent_at=sent_at, replica=actor.me.id)
            for member in view.replicas:
                if member != actor.me:
                    self.world.send(self, member.server, beat)

    def beaten(self, sender: tuple[str, int], epoch: int, sent_at: float, replica: str) -> None:
        """Take a heartbeat of the primary ``replica`` on ``sender``; acknowledge it if our replica allows."""
        peer = (self.name, self.incarnation)
        for actor in self.actors.values():
            if actor.machine.heartbeat(*sender, epoch, self.clock()):
                self.world.send(self, sender[0], lambda host: host.acknowledged(replica, sender[1], peer, sent_at))

    def acknowledged(self, replica: str, incarnation: int, peer: tuple[str, int], sent_at: float) -> None:
        """Take the acknowledgement of a heartbeat."""
        if replica in self.actors and incarnation == self.incarnation:
            self.actors[replica].event("peer_acknowledged", *peer, sent_at)

    def receive(self, replica: str, data: bytes) -> None:
        """Take a message for a replica."""
        if replica in self.actors:
            self.actors[replica].received(data)

    def receive_snapshot(self, replica: str, header: SnapshotHeader, state: State) -> None:
        """Take a snapshot for a replica."""
        if replica in self.actors:
            self.actors[replica].snapshot(header, state)


class Client:
    """Calls whoever it takes for the primary, one call after the other."""

    def __init__(self, world: World, number: int) -> None:
        self._world, self._number = world, number
        self._count = 0
        self._believes = "s1"
        self._call: Call | None = None

    def go_on(self) -> None:
        """Make the next call once the last has ended."""
        world, chance = self._world, self._world.chance
        if self._call is not None and not self._call.outcome:
            self._call.outcome = "unknown"  # its time is up
        if chance.random() < (0.3, 0.1, 0.01)[self._number]:
            self._believes = world.etcd.server_of_primary()
        self._count += 1
        kind = "write" if chance.random() < world.faults.writes else "read"
        call = self._call = world.oracle.began(b"%d.%d" % (self._number, self._count), kind)
        host = world.hosts[self._believes]
        world.on_host(host, world.delay(), lambda: self._arrive(host, call))
        self._wait(call, world.now + 0.4)

    def _arrive(self, host: Host, call: Call) -> None:
        for actor in list(host.actors.values()):
            if not call.outcome:
                getattr(actor, call.kind)(call)
        if not call.outcome and not host.actors:
            call.outcome = "not executed"

    def _wait(self, call: Call, until: float) -> None:
        if call.outcome and call.outcome != "done":
            self._believes = (
                self._world.etcd.server_of_primary() if self._world.chance.random() < 0.5 else self._believes
            )
        if call.outcome or self._world.now >= until:
            self._world.at(self._world.chance.uniform(0.002, 0.03), self.go_on)
        else:
            self._world.at(0.004, lambda: self._wait(call, until))
