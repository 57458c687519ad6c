"""Journals: objects whose managers may lose the last of what was acknowledged, and how much of it they may lose.

Owns noticing what is gone, since when, and whether the manager's guarantee allows it. Leaves managers that lose nothing to
``ledgers``.
Invariants: a journal only grows, so an entry that survives has everything before it below it; state goes back only when a
server is lost, or when that is asked for.
Failure behaviour: an entry that is gone though the guarantee covers it is a finding, and so is one that is there twice.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import amino
from amino.contracts.documents import GroupDocument, decode
from amino.coordination.store import Event, EventKind
from amino.dm import AtLeastOnceRPC, ExplicitCheckpoint, LoadBalancedMasterSlave, Manager, PeriodicCheckpoint
from amino.errors import AminoError, NotExecuted, NotFound, StateLost
from amino.testing.simulation.workloads.base import DEADLINE_S, Kind, Setting

if TYPE_CHECKING:
    from amino.testing.simulation.client import SimulatedClient

PAUSE_S = 0.5
CHECKPOINT_PAUSE_S = (0.5, 4.0)
RESTORE_SHARE = 0.15
JOURNALS = 1
Entry = tuple[str, int]


class Journal:
    """A list of entries that only grows."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def write(self, caller: str, number: int) -> tuple[str, int, int]:
        """Add an entry; returns it and its place, from 1."""
        self.entries.append((caller, number))
        return caller, number, len(self.entries)

    @amino.readonly
    def read(self) -> list[Entry]:
        """Return all."""
        return self.entries


@dataclass(slots=True)
class Told:
    """An acknowledged entry: its place, when it was sent, and when it was acknowledged."""

    place: int
    sent_s: float
    told_s: float


@dataclass(slots=True)
class Return:
    """A time at which the state may have gone back: ``began_s`` to ``ended_s``; they differ for ``restore()``."""

    began_s: float
    ended_s: float


@dataclass(slots=True)
class Life:
    """One journal as its callers know it.

    Args:
        told: acknowledged entries. refused: that certainly were not written.
        kept: (began, returned) of each successful ``checkpoint()``.
        returns: when the state may have gone back, in order.
    """

    name: str
    stub: Any
    told: dict[Entry, Told] = field(default_factory=dict)
    refused: set[Entry] = field(default_factory=set)
    kept: list[tuple[float, float]] = field(default_factory=list)
    returns: list[Return] = field(default_factory=list)
    lost: bool = False


class Journals:
    """The load.

    Args:
        chain: of managers. allowed: judges what is gone of one life at one return: (load, life, return, entries) -> what is
            wrong with that, empty if nothing.
        explicit: whether ``checkpoint`` and ``restore`` are called.
    """

    def __init__(
        self,
        setting: Setting,
        chain: tuple[Manager, ...],
        allowed: Callable[[Journals, Life, Return, list[Told]], str],
        *,
        explicit: bool = False,
    ) -> None:
        self.setting = setting
        self.store_trouble: list[float] = []
        self._chain = chain
        self._allowed = allowed
        self._explicit = explicit
        self._lives: dict[str, Life] = {}
        self._by_id: dict[str, Life] = {}
        self._primaries: dict[str, str] = {}
        self._numbers: Counter[str] = Counter()

    def start(self) -> None:
        """See ``Load.start``."""
        setting = self.setting
        setting.cluster.etcd.on_commit.append(self._committed)
        for number, client in enumerate(setting.clients):
            if number < JOURNALS:
                setting.spawn(client, self._keep(client, f"{setting.name}-{number}"), f"keeper {number}")
            setting.spawn(client, self._write(client), f"writer of {client.name}")
        if self._explicit:
            setting.spawn(setting.clients[-1], self._checkpoint(setting.clients[-1]), "checkpointer")
        setting.spawn(setting.administrator, self._watch_stores(), "watching stores")

    # --- the truth --------------------------------------------------------------------------------------------------

    def _committed(self, _revision: int, events: tuple[Event, ...]) -> None:
        keys = self.setting.cluster.keys
        for event in events:
            if event.kind is EventKind.DELETE or not event.record.key.startswith(keys.groups_prefix):
                continue
            ms_id = keys.parse_group(event.record.key).id
            document = decode(event.record.value, GroupDocument, event.record.key)
            one = document.replicas[0] if document.replicas else None
            back = one is not None and not one.confirmed and one.source == "checkpoint"
            primary = self._primaries.get(ms_id)
            if back or (document.primary and primary not in (None, document.primary)):
                life, now = self._by_id.get(ms_id), self.setting.now
                if life is not None:
                    life.returns.append(Return(now, now))
            if document.primary:
                self._primaries[ms_id] = document.primary

    async def _watch_stores(self) -> None:
        while not self.setting.stopping:
            kernels = [server.kernel for server in self.setting.cluster.servers.values() if server.kernel is not None]
            if any(one.access.down or one.access.slow_s or not one.store.reachable for one in kernels):
                self.store_trouble.append(self.setting.now)
            await asyncio.sleep(0.1)

    # --- calling ----------------------------------------------------------------------------------------------------

    async def _keep(self, client: SimulatedClient, name: str) -> None:
        """Have a journal of that name; make another when one is lost."""
        await self.setting.keep(client, amino.spec(Journal, name=name, dms=self._chain), partial(self._known_as, name))

    def _known_as(self, name: str, stub: Any | None) -> Life | None:
        if stub is None:
            del self._lives[name]
            return None
        life = self._lives[name] = Life(name, stub)
        self._by_id[stub.__amino_reference__.microservice] = life
        return life

    async def _write(self, client: SimulatedClient) -> None:
        random = self.setting.random_for(client.name)
        while not self.setting.stopping:
            await asyncio.sleep(random.expovariate(1 / PAUSE_S))
            if self._lives:
                await self._once(client, random.choice(list(self._lives.values())))

    async def _once(self, client: SimulatedClient, life: Life) -> None:
        number = self._numbers[client.name] = self._numbers[client.name] + 1
        entry, sent_s = (client.name, number), self.setting.now
        try:
            with amino.deadline(DEADLINE_S):
                call = amino.aio(client.cluster.bind(life.stub).write)(*entry)
                *answer, place = await self.setting.timed(client, "write", call)
            if tuple(answer) != entry:
                self.setting.find(5, f"{entry} on {life.name} was answered {answer}")
            life.told[entry] = Told(place, sent_s, self.setting.now)
        except NotExecuted as error:
            self.setting.note("write", error)
            life.refused.add(entry)
        except StateLost as error:
            self._note_lost(life, "write", error)
        except AminoError as error:
            self.setting.note("write", error)

    async def _checkpoint(self, client: SimulatedClient) -> None:
        random = self.setting.random_for("checkpoints")
        while not self.setting.stopping:
            await asyncio.sleep(random.uniform(*CHECKPOINT_PAUSE_S))
            if not self._lives:
                continue
            life = random.choice(list(self._lives.values()))
            going_back = random.random() < RESTORE_SHARE
            back = Return(self.setting.now, float("inf"))
            try:
                with amino.deadline(DEADLINE_S):
                    stub = client.cluster.bind(life.stub)
                    await amino.aio(stub.read)()  # so that the client knows the chain
                    control = amino.control(stub, ExplicitCheckpoint)
                    back.began_s = began_s = self.setting.now
                    if going_back:
                        life.returns.append(back)
                        await self.setting.timed(client, "restore", amino.aio(control.restore)())
                        back.ended_s = self.setting.now
                    else:
                        await self.setting.timed(client, "checkpoint", amino.aio(control.checkpoint)())
                        life.kept.append((began_s, self.setting.now))
            except (NotFound, NotExecuted) as error:
                self.setting.note("restore" if going_back else "checkpoint", error)
                if going_back and back in life.returns:
                    life.returns.remove(back)
            except StateLost as error:
                self._note_lost(life, "checkpoint", error)
            except AminoError as error:
                self.setting.note("restore" if going_back else "checkpoint", error)
                back.ended_s = self.setting.now + self.setting.cluster.ttl_s  # what was begun ends within a lease

    # --- judging ----------------------------------------------------------------------------------------------------

    async def audit(self) -> None:
        """See ``Load.audit``."""
        client = self.setting.administrator
        await asyncio.sleep(
            DEADLINE_S
        )  # a restore whose outcome nobody knows is over by then; reads of slaves are fresh
        for life in self._lives.values():
            try:
                entries = await amino.aio(client.cluster.bind(life.stub).read)()
            except StateLost as error:
                self._note_lost(life, "audit", error)
                continue
            except AminoError as error:
                self.setting.find(6, f"{life.name} cannot be read at rest: {error!r}")
                continue
            self.judge(life, [tuple(entry) for entry in entries])

    def _note_lost(self, life: Life, what: str, error: StateLost) -> None:
        self.setting.note(what, error)
        life.lost = True
        if life.kept:
            self.setting.find(3, f"{life.name} is lost although a checkpoint was acknowledged: {error}")

    def judge(self, life: Life, entries: list[Entry]) -> None:
        """Compare what a journal has with what was told."""
        for entry, times in Counter(entries).items():
            if times > 1:
                self.setting.find(4, f"{life.name} has {entry} {times} times")
        for entry in sorted(life.refused & set(entries)):
            self.setting.find(4, f"{life.name} has {entry}, which was told not to have run")
        there, gone = set(entries), []
        for entry, told in life.told.items():
            if entry not in there:
                gone.append(told)
            elif entries[told.place - 1] != entry and not self._written_again(life, told):
                self.setting.find(3, f"{life.name} has {entry} not at {told.place}, where it was written")
        by_return: dict[int, list[Told]] = {}
        for told in gone:
            back = next((n for n, one in enumerate(life.returns) if one.ended_s >= told.sent_s), None)
            if back is None:
                self.setting.find(3, f"{life.name} lost {told}, and no server was lost since then")
            else:
                by_return.setdefault(back, []).append(told)
        for number, those in by_return.items():
            wrong = self._allowed(self, life, life.returns[number], those)
            if wrong:
                self.setting.find(
                    3, f"{life.name} lost {len(those)} acknowledged entries at {life.returns[number]}: {wrong}"
                )

    @staticmethod
    def _written_again(life: Life, told: Told) -> bool:
        """Return whether a request that was lost may have come again from a caller that did not have its answer yet."""
        return any(told.sent_s <= one.ended_s and one.began_s <= told.told_s for one in life.returns)


def _since_checkpoint(_load: Journals, life: Life, back: Return, gone: list[Told]) -> str:
    """What is lost came after the last checkpoint."""
    last_s = max((began_s for began_s, ended_s in life.kept if ended_s <= back.began_s), default=0.0)
    covered = [told for told in gone if told.told_s <= last_s]
    return f"{covered} were acknowledged before the checkpoint begun at {last_s:.3f} s" if covered else ""


def _fewer_than(every: int) -> Callable[[Journals, Life, Return, list[Told]], str]:
    def allowed(_load: Journals, _life: Life, back: Return, gone: list[Told]) -> str:
        before = [told for told in gone if told.told_s <= back.ended_s]  # others may have been lost at the next return
        return f"at most {every - 1} may be" if len(before) >= every else ""

    return allowed


def _younger_than(bound_s: float) -> Callable[[Journals, Life, Return, list[Told]], str]:
    """What is lost was acknowledged not longer than that before the last acknowledgement.

    Unless checkpoints could not be stored or published: nobody can say how long that lasts.
    """

    def allowed(load: Journals, life: Life, back: Return, gone: list[Told]) -> str:
        last_s = max((told.told_s for told in life.told.values() if told.told_s <= back.began_s), default=0.0)
        old = [told for told in gone if last_s - told.told_s > bound_s]
        troubled = any(told.told_s - bound_s <= at_s <= last_s for told in old for at_s in load.store_trouble)
        return f"{old} were older than {bound_s:g} s" if old and not troubled else ""

    return allowed


def _journals(*chain: Manager, allowed: Any, explicit: bool = False) -> Callable[[Setting], Journals]:
    return lambda setting: Journals(setting, chain, allowed, explicit=explicit)


LOADS = (
    Kind(
        "explicit-checkpoint",
        "journals under ExplicitCheckpoint: what is lost with a server came after the last checkpoint",
        _journals(AtLeastOnceRPC(), ExplicitCheckpoint(), allowed=_since_checkpoint, explicit=True),
    ),
    Kind(
        "periodic-calls",
        "journals under PeriodicCheckpoint(every=5): at most 4 acknowledged entries are lost with a server",
        _journals(AtLeastOnceRPC(), PeriodicCheckpoint(every=5), allowed=_fewer_than(5)),
    ),
    Kind(
        "periodic-time",
        "journals under PeriodicCheckpoint(interval_s=1): what is lost was acknowledged in the last second and one lease",
        _journals(AtLeastOnceRPC(), PeriodicCheckpoint(every=None, interval_s=1.0), allowed=_younger_than(1.0 + 3.0)),
    ),
    Kind(
        "master-slave-async",
        "journals under LoadBalancedMasterSlave(sync=False): only what was acknowledged within one lease of the loss is lost",
        _journals(AtLeastOnceRPC(), LoadBalancedMasterSlave(replicas=3, sync=False), allowed=_younger_than(3.0 + 1.0)),
    ),
)
