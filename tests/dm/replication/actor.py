"""A replica in the simulation: the machine with an object, and an adapter that is as slow and unlucky as chance has it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from amino.dm.replication import effects as does
from amino.dm.replication.machine import Machine, Role
from amino.dm.replication.messages import Entry, Member, SnapshotHeader, decode, encode
from tests.dm.replication.oracle import EMPTY, Call, State, Violation, following

if TYPE_CHECKING:
    from tests.dm.replication.world import Host, World


class Actor:
    """One replica on one host. ``state``: of the object; ``constructed``: the constructor has run here."""

    def __init__(self, world: World, host: Host, replica: str, *, constructed: bool) -> None:
        self.world, self.host = world, host
        self.me = Member(replica, host.name, host.incarnation)
        self.machine = Machine(self.me, world.options, state_at=0 if constructed else None, rules=world.rules)
        self.state: State = EMPTY
        self.gone = False
        self._writes: dict[int, tuple[Call, State]] = {}
        self._reads: list[tuple[int, Call, State, float]] = []
        self._work: deque[Entry | SnapshotHeader] = deque()
        self._working = False
        self._snapshots: dict[Member, State] = {}
        self._arrived: dict[SnapshotHeader, State] = {}
        self._checked = 0

    def later(self, delay: float, step, *args) -> None:
        """Call a step of this replica later, unless its process has ended or the replica is gone by then."""
        self.world.on_host(self.host, delay, lambda: None if self.gone else step(*args))

    # -- events

    def event(self, name: str, *args, **more):
        """Hand an event to the machine and do what it asks."""
        if self.gone:
            return None
        found = getattr(self.machine, name)(*args, self.host.clock(), **more)
        value, effects = found if isinstance(found, tuple) else (None, found)
        self._check()
        for effect in effects:
            _DO[type(effect)](self, effect)
        self._release_reads()
        return value

    def _check(self) -> None:
        log, commit = self.machine._state.log, self.machine.commit_index
        self._checked = max(self._checked, log.base)
        while self._checked < commit:
            self._checked += 1
            entry = log.at(self._checked)
            self.world.oracle.committed(str(self.me), entry.index, entry.epoch, entry.payload)

    # -- calls

    def write(self, call: Call) -> None:
        """Run a mutating call."""
        why = self.machine.may_write()
        if why is not None or not self.host.valid():
            call.outcome = f"not executed: {why}"
            return
        self.state = following(self.state, call.name)
        state = self.state
        index = self.machine.log_end + 1
        self._writes[index] = (call, state)
        given = self.event("executed", call.name, state[1])
        if given is None:
            self._unknown(index)
        elif given != index:
            raise Violation("an index was given twice")

    def read(self, call: Call) -> None:
        """Run a read."""
        if self.machine.role is not Role.PRIMARY:
            call.outcome = "not executed"
            return
        self._reads.append((self.machine.log_end, call, self.state, self.host.clock() + 0.3))
        self._release_reads()

    def _release_reads(self) -> None:
        waiting, self._reads = self._reads, []
        for index, call, state, until in waiting:
            if not self.host.valid() or self.host.clock() > until:
                call.outcome = call.outcome or "not executed"
            elif self.machine.may_read(index, self.host.clock()) is None:
                if not call.outcome:
                    self.world.oracle.read(call, self.machine.epoch, state)
            else:
                self._reads.append((index, call, state, until))

    def _unknown(self, index: int) -> None:
        for waiting in [waiting for waiting in self._writes if waiting <= index]:
            call, _ = self._writes.pop(waiting)
            call.outcome = call.outcome or "unknown"

    def end(self) -> None:
        """End everything: the process is no more, or the replica is dropped."""
        self.gone = True
        self._unknown(1 << 60)

    # -- effects

    def _send(self, effect: does.Send) -> None:
        data = encode(effect.message)
        self.world.send(self.host, effect.to.server, lambda host: host.receive(effect.to.id, data))

    def received(self, data: bytes) -> None:
        """Take a message from the network."""
        self.event("message", decode(data))

    def _committed(self, effect: does.Committed) -> None:
        for index in [index for index in self._writes if index <= effect.index]:
            call, state = self._writes.pop(index)
            if call.outcome:
                continue
            if self.host.valid():
                self.world.oracle.wrote(call, self.machine.epoch, state)
            else:
                call.outcome = "unknown"

    def _timed_out(self, effect: does.TimedOut) -> None:
        self._unknown(effect.index)

    def _serving(self, effect: does.Serving) -> None:
        self.world.takeovers += 1

    def _deposed(self, effect: does.Deposed) -> None:
        self._unknown(1 << 60)
        self._reads.clear()
        self._snapshots.clear()

    def _discard(self, effect: does.Discard) -> None:
        self.end()
        self.host.actors.pop(self.me.id, None)

    def _diverged(self, effect: does.Diverged) -> None:
        self.world.divergences += 1

    def _report(self, effect: does.Report) -> None:
        view = self.machine.view
        self.later(self.world.chance.uniform(0, 0.05), self.world.leader.reported, view, effect)

    def _apply(self, effect: does.Apply) -> None:
        self._work.extend(effect.entries)
        self._go_on()

    def _install(self, effect: does.Install) -> None:
        self._work.append(effect.header)
        self._go_on()

    def _go_on(self) -> None:
        if self._work and not self._working:
            self._working = True
            slow = 0.02 if isinstance(self._work[0], SnapshotHeader) else 0.001
            self.later(self.world.chance.uniform(0, slow), self._do_next)

    def _do_next(self) -> None:
        self._working = False
        if not self._work:
            return
        work = self._work.popleft()
        if isinstance(work, SnapshotHeader):
            self.state = self._arrived.pop(work)
            self.event("installed", work)
        else:
            self.state = following(self.state, work.payload)
            cheats = self.world.chance.random() < self.world.faults.divergence
            self.event("applied", work.index, self.state[1] ^ cheats)
        self._go_on()

    def _take_snapshot(self, effect: does.TakeSnapshot) -> None:
        self.later(self.world.chance.uniform(0, 0.02), self._take, effect.to)

    def _take(self, to: Member) -> None:
        if self.world.chance.random() < 0.1:
            self.event("snapshot_ended", to)
            return
        machine = self.machine
        self._snapshots[to] = self.state
        self.event("snapshot_taken", to, machine.log_end if machine.role is Role.PRIMARY else machine.applied_index)

    def _send_snapshot(self, effect: does.SendSnapshot) -> None:
        state = self._snapshots.pop(effect.to)
        if state[0] != effect.header.index:
            raise Violation(f"snapshot of {state[0]} labelled {effect.header.index}")
        if state != self.world.oracle.states[state[0]]:
            raise Violation(f"a snapshot of what was never committed left {self.me}")
        self.world.send(
            self.host, effect.to.server, lambda host: host.receive_snapshot(effect.to.id, effect.header, state)
        )
        self.later(self.world.chance.uniform(0, 0.1), self.event, "snapshot_ended", effect.to)

    def snapshot(self, header: SnapshotHeader, state: State) -> None:
        """Take a snapshot from the network."""
        if header not in self._arrived:
            self._arrived[header] = state
            self.event("snapshot_arrived", header)
            if self.machine._state.installing != header:
                self._arrived.pop(header, None)

    def _edit(self, effect: does.Edit) -> None:
        self.world.etcd.edit(self, effect)


_DO = {
    does.Send: Actor._send,
    does.Committed: Actor._committed,
    does.TimedOut: Actor._timed_out,
    does.Apply: Actor._apply,
    does.Serving: Actor._serving,
    does.Deposed: Actor._deposed,
    does.Discard: Actor._discard,
    does.Edit: Actor._edit,
    does.Report: Actor._report,
    does.TakeSnapshot: Actor._take_snapshot,
    does.SendSnapshot: Actor._send_snapshot,
    does.Install: Actor._install,
    does.Diverged: Actor._diverged,
}
