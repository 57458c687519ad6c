"""A stage for a few machines: every event is asked for by the script, and what happens is kept as text.

Messages wait until the script delivers or drops them. Replays and snapshots happen at once unless the script says no.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from amino.dm.replication import effects as does
from amino.dm.replication.machine import Machine
from amino.dm.replication.messages import (
    Append,
    Appended,
    Lagging,
    Member,
    Message,
    Resigned,
    SnapshotHeader,
    SnapshotWanted,
    Superseded,
)
from amino.dm.replication.view import ALL_RULES, Options, Rules, View

OPTIONS = Options(min_in_sync=2, append_timeout_s=0.5, read_lease_s=0.5, snapshot_every=1000)


def member(replica: str, incarnation: int = 1) -> Member:
    """Return the identity of replica ``r<n>``, which is hosted on server ``s<n>``."""
    return Member(replica, "s" + replica[1:], incarnation)


def told(message: Message) -> str:
    """Return a message as a few words."""
    match message:
        case Append(entries=()):
            return f"nothing after {message.previous} (epoch {message.previous_epoch}), commit {message.commit}"
        case Append():
            first, last = message.entries[0].index, message.entries[-1].index
            return f"append {first}..{last} after {message.previous} (epoch {message.previous_epoch}), commit {message.commit}"
        case Appended():
            return f"equal up to {message.match}"
        case Lagging():
            return f"does not follow; try after {message.end}"
        case SnapshotWanted():
            return "needs a snapshot"
        case Superseded():
            return f"refused: epoch {message.epoch} is known"
        case Resigned():
            return f"resigned as primary of epoch {message.served}, for epoch {message.epoch}"
        case SnapshotHeader():
            return f"snapshot at {message.index} (epoch {message.entry_epoch})"


class Stage:
    """Machines, what is under way between them, and the group's document.

    Args:
        view: the first document.
        rules: of all machines.
        state_at: of machines that do not start empty.
    """

    def __init__(self, view: View, rules: Rules = ALL_RULES, state_at: dict[str, int] | None = None) -> None:
        self.now = 10.0
        self.lines: list[str] = []
        self.view = view
        self.rules = rules
        self.machines: dict[str, Machine] = {}
        self.under_way: dict[tuple[str, str], deque[Message]] = {}
        self.seen: dict[str, list[does.Effect]] = {}
        self.edit: does.Edit | None = None
        self.digest_of: dict[tuple[str, int], int] = {}
        for listed in view.replicas:
            self.enter(listed, (state_at or {}).get(listed.id))

    def enter(self, who: Member, state_at: int | None) -> None:
        """Let a machine begin."""
        self.machines[who.id] = Machine(who, OPTIONS, state_at=state_at, rules=self.rules)
        self.seen[who.id] = []

    def say(self, text: str) -> None:
        """Write a heading into the trace."""
        self.lines.append(f"# {text}")

    def at(self, now: float) -> None:
        """Let time pass."""
        self.now = now

    def do(self, who: str, event: str, *args, **more):
        """Hand ``who`` an event and carry out what can be done at once."""
        machine = self.machines[who]
        words = " ".join([event, *map(self._word, args), *(f"{key}={value}" for key, value in more.items())])
        self.lines.append(f"{self.now:.2f} {who}: {words}")
        when = () if event == "may_write" else (self.now,)
        found = getattr(machine, event)(*args, *when, **more)
        value, effects = found if isinstance(found, tuple) else (found, found)
        if not isinstance(effects, list):
            self.lines.append(f"    = {value}")
            return value
        self.seen[who] += effects
        for effect in effects:
            self.lines.append(f"    -> {self._line(effect)}")
        for effect in effects:
            self._perform(who, effect)
        return value

    def _word(self, value) -> str:
        match value:
            case View():
                members = ", ".join(str(listed) for listed in value.replicas)
                in_sync = " ".join(value.in_sync)
                return f"revision {value.revision} epoch {value.epoch}: primary {value.primary}, in-sync {in_sync}, of {members}"
            case bytes():
                return value.decode()
            case SnapshotHeader():
                return told(value)
        return str(value)

    def _line(self, effect: does.Effect) -> str:
        match effect:
            case does.Send():
                return f"to {effect.to.id}: {told(effect.message)}"
            case does.Apply():
                return f"apply {effect.entries[0].index}..{effect.entries[-1].index}"
            case does.Install():
                return f"install {told(effect.header)}"
            case does.SendSnapshot():
                return f"to {effect.to.id}: {told(effect.header)}"
            case does.TakeSnapshot():
                return f"take a snapshot for {effect.to.id}"
            case does.Edit():
                return f"edit: in-sync {' '.join(effect.in_sync)}, if revision is {effect.revision}"
        return str(effect)

    def _perform(self, who: str, effect: does.Effect) -> None:
        machine = self.machines[who]
        match effect:
            case does.Send():
                self.under_way.setdefault((who, effect.to.id), deque()).append(effect.message)
            case does.Apply():
                for entry in effect.entries:
                    self.do(who, "applied", entry.index, self.digest_of.pop((who, entry.index), entry.digest))
            case does.TakeSnapshot():
                self.do(who, "snapshot_taken", effect.to, machine.log_end)
            case does.SendSnapshot():
                self.under_way.setdefault((who, effect.to.id), deque()).append(effect.header)
            case does.Install():
                self.do(who, "installed", effect.header)
            case does.Edit():
                self.edit = effect

    def deliver(self, source: str, target: str, count: int = 1) -> None:
        """Deliver the oldest messages from ``source`` to ``target``."""
        for _ in range(count):
            message = self.under_way[source, target].popleft()
            if isinstance(message, SnapshotHeader):
                self.do(target, "snapshot_arrived", message)
                self.do(source, "snapshot_ended", self.machines[target].me)
                continue
            self.lines.append(f"{self.now:.2f} {target} <- {source}: {told(message)}")
            effects = self.machines[target].message(message, self.now)
            self.seen[target] += effects
            self.lines += [f"    -> {self._line(effect)}" for effect in effects]
            for effect in effects:
                self._perform(target, effect)

    def lose(self, source: str, target: str) -> None:
        """Lose everything under way from ``source`` to ``target``."""
        for message in self.under_way.pop((source, target), ()):
            self.lines.append(f"{self.now:.2f} lost from {source} to {target}: {told(message)}")

    def talk(self, *replicas: str) -> None:
        """Deliver everything under way among ``replicas`` (all, if none are named) until nothing is."""
        names = replicas or tuple(self.machines)
        while pairs := [pair for pair, waiting in self.under_way.items() if waiting and set(pair) <= set(names)]:
            self.deliver(*pairs[0])

    def beat(self, source: str, *targets: str) -> None:
        """Let heartbeats of the primary ``source`` be acknowledged by the servers of ``targets``."""
        me, epoch = self.machines[source].me, self.machines[source].epoch
        for target in targets:
            peer = self.machines[target].me
            if self.do(target, "heartbeat", me.server, me.incarnation, epoch):
                self.do(source, "peer_acknowledged", peer.server, peer.incarnation, self.now)

    def write(self, who: str, text: str) -> int:
        """Execute something at the primary."""
        return self.do(who, "executed", text.encode(), len(text))

    def show(self, *replicas: str) -> None:
        """Let replicas see the document."""
        for replica in replicas:
            self.do(replica, "document", self.view)

    def rewrite(self, **changes) -> None:
        """Write the document."""
        self.view = replace(self.view, revision=self.view.revision + 1, **changes)

    def land(self, *, answered: str = "") -> None:
        """Carry out the edit asked for, if its guard holds; answer its primary, if it is named."""
        assert self.edit is not None
        if self.edit.revision == self.view.revision:
            self.rewrite(in_sync=self.edit.in_sync)
            self.say(f"the edit lands as revision {self.view.revision}")
        else:
            self.say("the edit is refused")
        self.edit = None
        if answered:
            self.do(answered, "edit_settled", self.view)

    def did(self, who: str, kind: type) -> list:
        """Return the effects of that kind that ``who`` has asked for."""
        return [effect for effect in self.seen[who] if isinstance(effect, kind)]

    def acknowledged(self, who: str) -> int:
        """Return the highest index whose reply ``who`` has released."""
        return max((effect.index for effect in self.did(who, does.Committed)), default=0)


def group(*replicas: str, rules: Rules = ALL_RULES) -> Stage:
    """Return a stage on which ``replicas`` are in sync, the first is the primary and all is quiet."""
    members = tuple(member(replica) for replica in replicas)
    stage = Stage(View(1, 1, members, replicas[0], replicas), rules, dict.fromkeys(replicas, 0))
    stage.show(*replicas)
    stage.talk()
    stage.beat(replicas[0], *replicas[1:])
    return stage
