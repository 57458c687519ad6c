"""The world around the machines of the simulation: a model of the group's document in etcd and of the slot leader.

Owns both. Leaves hosts, network and clients to ``world``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from amino.dm.replication import effects as does
from amino.dm.replication.insync import promoted
from amino.dm.replication.messages import Member
from amino.dm.replication.view import Options, View
from tests.dm.replication.actor import Actor
from tests.dm.replication.oracle import Violation

TTL_S = 1.2
MARGIN_S = 0.1
RENEW_EVERY_S = 0.12
OPTIONS = Options(min_in_sync=2, append_timeout_s=0.2, read_lease_s=0.2, snapshot_every=30)

if TYPE_CHECKING:
    from tests.dm.replication.world import Host, World


class Etcd:
    """The group's document with compare-and-set, sessions of servers, tombstones."""

    def __init__(self, world: World, view: View) -> None:
        self._world, self.view = world, view
        self.tombstones: set[tuple[str, int]] = set()

    def server(self, name: str) -> int | None:
        """Return the incarnation that holds the key ``servers/<name>``."""
        host = self._world.hosts[name]
        if (name, host.incarnation) in self.tombstones or self._world.now >= host.lease_until + 0.05:
            return None
        return host.incarnation

    def in_sync(self) -> list[Member]:
        """Return the in-sync members of the document."""
        return [member for member in self.view.replicas if member.id in self.view.in_sync]

    def server_of_primary(self) -> str:
        """Return the name of the primary's server."""
        member = self.view.member(self.view.primary)
        return member.server if member is not None else ""

    def bury(self, name: str, incarnation: int) -> None:
        """Put a tombstone, and let everybody hear of it, sooner or later."""
        self.tombstones.add((name, incarnation))
        self._world.tell("server_lost", name, incarnation, proven=True)

    def write(self, view: View) -> bool:
        """Write the document if its revision is still that of ``view``."""
        if view.revision != self.view.revision:
            return False
        self.view = replace(view, revision=view.revision + 1)
        self.publish()
        return True

    def publish(self) -> None:
        """Let every replica see the document: at once, late, or by a later look."""
        view = self.view
        for host in self._world.hosts.values():
            self._world.show(host, view)

    def edit(self, actor: Actor, effect: does.Edit) -> None:
        """Carry out a primary's guarded edit, or not, or late; answer, or not."""
        world, chance, faults = self._world, self._world.chance, self._world.faults
        cut = (actor.host.name, "etcd") in world.cut
        fate = chance.random()
        if cut or fate < faults.edit_lost:
            actor.later(0.15, actor.event, "edit_unknown")
            return
        late = fate < faults.edit_lost + faults.edit_late
        unheard = late or fate > 1 - faults.edit_lost

        def land() -> None:
            view = self.view
            if effect.revision == view.revision and self.server(actor.me.server) == actor.me.incarnation:
                assert effect.epoch == view.epoch
                self.write(replace(view, in_sync=effect.in_sync))
            if not unheard:
                answer = self.view
                actor.later(chance.uniform(0, 0.01), actor.event, "edit_settled", answer)

        world.at(chance.uniform(0.15, 0.6) if late else chance.uniform(0, 0.01), land)
        if unheard:
            actor.later(0.15, actor.event, "edit_unknown")


class Leader:
    """The slot leader: its list of servers is old, and now and then misses one that lives."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._ids = 1
        self._list: dict[str, int] = {}
        self._look()
        self._go_on()

    def _look(self) -> None:
        world = self._world
        world.at(world.chance.uniform(0.05, 0.3), self._look)
        self._list = {}
        for name in world.hosts:
            incarnation = world.etcd.server(name)
            if incarnation is None:
                continue
            if world.chance.random() < world.faults.stale_list:
                world.tell("server_lost", name, incarnation, proven=False)
            else:
                self._list[name] = incarnation

    def _lives(self, member: Member) -> bool:
        return self._list.get(member.server) == member.incarnation

    def _proves(self, members: list[Member]) -> bool:
        """Compare, in the transaction itself, that these servers are gone: a list is no proof."""
        if not self._world.rules.list_is_no_proof:
            return True
        return all(self._world.etcd.server(member.server) != member.incarnation for member in members)

    def _go_on(self) -> None:
        world = self._world
        world.at(0.05, self._go_on)
        view = world.etcd.view
        primary = view.member(view.primary)
        assert primary is not None
        if not self._lives(primary):
            candidates = [member.id for member in world.etcd.in_sync() if self._lives(member)]
            if candidates and self._proves([primary]):
                self._promote(view, world.chance.choice(candidates))
            elif not candidates and self._proves(world.etcd.in_sync()):
                self._lose(view)
            return
        gone = [m for m in view.replicas if m.id not in view.in_sync and not self._lives(m)]
        if gone and self._proves(gone):
            left = tuple(member for member in view.replicas if member not in gone)
            world.etcd.write(replace(view, replicas=left))
        elif len([member for member in view.replicas if self._lives(member)]) < 3:
            self._add(view)

    def _add(self, view: View) -> None:
        used = {member.server for member in view.replicas}
        free = [name for name in self._list if name not in used]
        if not free:
            return
        name = self._world.chance.choice(free)
        host = self._world.hosts[name]
        if self._world.etcd.server(name) != self._list[name]:
            return  # the transaction compares it
        self._ids += 1
        member = Member(f"r{self._ids}", name, self._list[name])
        if self._world.etcd.write(replace(view, replicas=(*view.replicas, member))):
            self._world.on_host(host, self._world.delay(), lambda: self._place(host, member))

    def _place(self, host: Host, member: Member) -> None:
        if host.incarnation == member.incarnation:
            for actor in host.actors.values():
                actor.end()
            host.actors.clear()
            host.host(member.id, constructed=False)

    def _promote(self, view: View, successor: str) -> None:
        dead = [
            m.id for m in view.replicas if self._world.etcd.server(m.server) != m.incarnation
        ]  # the transaction compares
        if successor not in dead:
            self._world.etcd.write(promoted(view, successor, dead))

    def promote_any(self) -> None:
        """Change the primary for no good reason, as a slot leader may that takes it for stuck."""
        view = self._world.etcd.view
        candidates = [m.id for m in self._world.etcd.in_sync() if m.id != view.primary and self._lives(m)]
        if candidates:  # the newest members are the likeliest to lack something
            self._promote(view, self._world.chance.choice((candidates[-1], self._world.chance.choice(candidates))))

    def reported(self, view: View, report: does.Report) -> None:
        """Hear a primary's report."""
        if report.kind != "stuck" or view.epoch != self._world.etcd.view.epoch:
            return
        if all(self._world.etcd.server(member.server) == member.incarnation for member in self._world.etcd.in_sync()):
            self.promote_any()
        else:
            self._promote(self._world.etcd.view, view.primary)

    def _lose(self, view: View) -> None:
        for member in self._world.etcd.in_sync():
            host = self._world.hosts[member.server]
            if host.healthy(member.incarnation):
                raise Violation(f"the group was given up although {member} lives")
        self._world.lost = True
