"""A made-up cluster for the dashboard: documents as etcd would have them, without etcd, servers or objects.

Owns documents, members and events, and the changes that tests ask for. Leaves showing them to the dashboard.
Invariant: every change is told to whoever listens, as the caches of a kernel server would.
Failure behaviour: none, but what tests ask for (``away``).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from amino.contracts.documents import (
    DmSpec,
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    Move,
    Phase,
    ReplicaDocument,
    ServerRecord,
)
from amino.contracts.services import (
    ByName,
    CordonRequest,
    Description,
    DrainReply,
    DrainRequest,
    Empty,
    EventInfo,
    KernelStatistics,
    Location,
    Membership,
    MoveRequest,
    ObserveReply,
    PauseRequest,
    ScaleRequest,
    ServerInfo,
)
from amino.errors import CoordinationUnavailable, NotFound
from amino.ids import slot_of
from amino.oms.group_machine import state_of

STARTED = 1_790_000_000.0
CLASSES = (
    ("shop.stock:Stock", ("AtLeastOnceRPC", "DHT", "ConsensusRSM")),
    ("shop.orders:Orders", ("AtLeastOnceRPC", "ConsensusRSM")),
    ("shop.carts:Cart", ("AtLeastOnceRPC", "PeriodicCheckpoint")),
    ("shop.users:Profile", ("SerializableRPC", "ExplicitCheckpoint")),
    ("shop.hits:Counter", ()),
)


class MadeUp:
    """Implements ``dashboard.ports.Source``."""

    def __init__(self, servers: int = 3, wall: Callable[[], float] = lambda: STARTED) -> None:
        self.server = "s1"
        self.wall = wall
        self.live: dict[str, ServerInfo] = {}
        self.documents: dict[str, dict[str, GroupDocument]] = {}
        self.specs: dict[str, MicroserviceRecord] = {}
        self.history: list[EventInfo] = []
        self.asked: list[msgspec.Struct] = []
        self.away = False
        self.paused = False
        self.calls = 0
        self.stopped = asyncio.Event()
        self._groups: list[Callable[[str], None]] = []
        self._members: list[Callable[[], None]] = []
        self._news = asyncio.Event()
        self.registry: Any = MadeUpRegistry(self)
        for number in range(1, servers + 1):
            self.join(f"s{number}")

    # --- what tests do ------------------------------------------------------------------------------------------------

    def join(self, name: str, incarnation: int = 0, **record: Any) -> None:
        """Have a server join."""
        number = len(self.live)
        self.live[name] = ServerInfo(
            ServerRecord(
                name,
                f"127.0.0.1:{7400 + 10 * number}",
                labels={"host": name, "region": ("north", "south", "west")[number % 3]},
                version="0.1.0",
                pid=4000 + number,
                started_at=self.wall() - 3600 * (number + 1),
                **record,
            ),
            incarnation or 100 + number,
            slots=64 // max(1, number + 1),
        )
        self.told()

    def lose(self, name: str) -> None:
        """Have a server vanish."""
        del self.live[name]
        self.happen("server-lost", server=name, text="incarnation 100")
        self.told()

    def told(self) -> None:
        """Tell that members changed."""
        for callback in self._members:
            callback()

    def happen(self, kind: str, microservice: str = "", server: str = "", text: str = "") -> None:
        """Add an event."""
        self.history.append(EventInfo(len(self.history) + 1, kind, self.wall(), microservice, server, text))
        self._news.set()

    def fill(self, count: int) -> None:
        """Make ``count`` microservices of five kinds, a few of them in trouble."""
        for number in range(count):
            cls, dms = CLASSES[number % len(CLASSES)]
            ms_id = f"{number * 7919 + 1:024x}"
            name = f"{cls.rpartition(':')[2].lower()}-{number // len(CLASSES) + 1}"
            spec = MicroserviceSpec(
                cls=cls, name=name, dms=tuple(DmSpec(dm) for dm in dms), labels={"team": "shop"}, application="shop"
            )
            self.specs[ms_id] = MicroserviceRecord(spec, created_at=self.wall() - 60.0 * number)
            self.documents[ms_id] = self._groups_of(number, dms)

    def _groups_of(self, number: int, dms: tuple[str, ...]) -> dict[str, GroupDocument]:
        if "DHT" in dms:
            shards = {f"/{shard}": self._replicated(number + shard) for shard in range(2)}
            root = GroupDocument(phase=Phase.ACTIVE, kind="shards", wanted=2, children=("0", "1"))
            return {"/": root, **shards}
        if "ConsensusRSM" in dms:
            return {"/": self._replicated(number)}
        return {"/": self._single(self._at(number))}

    def _at(self, number: int) -> str:
        names = sorted(self.live)
        return names[number % len(names)]

    def _single(self, server: str, epoch: int = 1, replica: str = "r1", **fields: Any) -> GroupDocument:
        at = self.live[server].incarnation if server in self.live else 1
        return GroupDocument(
            phase=Phase.ACTIVE,
            epoch=epoch,
            replicas=(ReplicaDocument(replica, server, at, confirmed=True),),
            explanation={replica: f"{server} has the fewest replicas of those that fit"},
            **fields,
        )

    def _replicated(self, number: int) -> GroupDocument:
        servers = [self._at(number + step) for step in range(min(3, len(self.live)))]
        replicas = tuple(
            ReplicaDocument(f"r{place}", server, self.live[server].incarnation, confirmed=True)
            for place, server in enumerate(servers, 1)
        )
        return GroupDocument(
            phase=Phase.ACTIVE,
            kind="replicated",
            replicas=replicas,
            primary="r1",
            in_sync=tuple(one.id for one in replicas),
            wanted=3,
            explanation={one.id: "spread over hosts; the fewest replicas there" for one in replicas},
        )

    def put(self, ms_id: str, path: str, document: GroupDocument | None) -> None:
        """Write a group's document, or remove it."""
        groups = self.documents.setdefault(ms_id, {})
        if document is None:
            groups.pop(path, None)
        else:
            groups[path] = document
        if not groups:
            del self.documents[ms_id]
        for callback in self._groups:
            callback(ms_id)

    def edit(self, ms_id: str, path: str = "/", **fields: Any) -> None:
        """Change fields of a group's document."""
        self.put(ms_id, path, msgspec.structs.replace(self.documents[ms_id][path], **fields))

    def begin_move(self, ms_id: str, server: str) -> None:
        """Write the intent of a move."""
        document = self.documents[ms_id]["/"]
        target = ReplicaDocument(f"r{document.epoch + 1}", server, self.live[server].incarnation)
        self.edit(ms_id, move=Move(document.replicas[0].id, target, "asked for"))

    def end_move(self, ms_id: str) -> None:
        """Put the move under way into effect."""
        document = self.documents[ms_id]["/"]
        assert document.move is not None
        server = document.move.target.server
        self.put(ms_id, "/", self._single(server, document.epoch + 1, document.move.target.id))
        self.happen("moved", ms_id, server, f"from {document.replicas[0].server}: asked for")

    def fail_over(self, name: str) -> list[str]:
        """Lose a server and recover what it had: replicated groups get another primary, others a new place."""
        self.lose(name)
        touched = []
        for number, (ms_id, groups) in enumerate(list(self.documents.items())):
            for path, document in groups.items():
                if all(one.server != name for one in document.replicas):
                    continue
                touched.append(ms_id)
                if document.kind == "replicated":
                    left = tuple(one for one in document.replicas if one.server != name)
                    primary = document.primary if any(one.id == document.primary for one in left) else left[0].id
                    ids = tuple(one.id for one in left)
                    promoted = primary != document.primary
                    self.edit(
                        ms_id, path, replicas=left, primary=primary, in_sync=ids, epoch=document.epoch + int(promoted)
                    )
                    if promoted:
                        self.happen("promoted", ms_id, next(one.server for one in left if one.id == primary))
                else:
                    self.put(ms_id, path, self._single(self._at(number), document.epoch + 1, "r9"))
                    self.happen("recovered", ms_id, self._at(number), f"checkpoint, epoch {document.epoch + 1}")
        return touched

    # --- the port -----------------------------------------------------------------------------------------------------

    def on_group(self, callback: Callable[[str], None]) -> None:
        self._groups.append(callback)

    def on_members(self, callback: Callable[[], None]) -> None:
        self._members.append(callback)

    def ids(self) -> list[str]:
        return list(self.documents)

    def groups(self, microservice: str) -> dict[str, GroupDocument]:
        return dict(self.documents.get(microservice, {}))

    def membership(self) -> Membership:
        return Membership(1, tuple(self.live[name] for name in sorted(self.live)), "shop", self.paused)

    async def records(self, generations: Mapping[str, int]) -> dict[str, MicroserviceRecord]:
        await asyncio.sleep(0)
        if self.away:
            raise CoordinationUnavailable("etcd does not answer")
        return {ms_id: self.specs[ms_id] for ms_id in generations if ms_id in self.specs}

    async def events(self, after: int, wait_s: float) -> tuple[EventInfo, ...]:
        if len(self.history) <= after and wait_s:
            self._news.clear()
            try:
                async with asyncio.timeout(wait_s):
                    await self._news.wait()
            except TimeoutError:
                return ()
        return tuple(event for event in self.history if event.revision > after)

    async def statistics(self) -> tuple[KernelStatistics, ...]:
        self.calls += 2500
        return tuple(
            KernelStatistics(name, one.incarnation, 5, 3, 12, 2.5, (180 + number) << 20, self.calls * (number + 2))
            for number, (name, one) in enumerate(sorted(self.live.items()))
        )

    async def describe(self, microservice: str) -> Description:
        if microservice not in self.documents:
            raise NotFound(f"there is no microservice {microservice}", microservice=microservice)
        groups = self.groups(microservice)
        record = self.specs[microservice]
        taken = [
            {
                "path": "/",
                "epoch": 1,
                "sequence": 40 - n,
                "url": "file:///c",
                "size": 48_300 + n,
                "taken_at": self.wall(),
            }
            for n in range(2)
        ]
        checkpoints = tuple(taken) if any("Checkpoint" in dm.name for dm in record.spec.dms) else ()
        slot = slot_of(microservice)
        state = state_of(groups["/"])
        return Description(microservice, record, groups, slot, self._at(slot), state, (), checkpoints)

    async def observe(self, microservice: str) -> dict[str, ObserveReply]:
        return {
            f"{path} {one.id}": ObserveReply(one.id, 12.0, 4210, 0.42, 2.9, 11.3, 1)
            for path, document in self.groups(microservice).items()
            for one in document.replicas
        }

    async def checkpoint(self, microservice: str) -> int:
        self.asked.append(ByName(microservice=microservice))
        return 41


class MadeUpRegistry:
    """Notes what it is asked for, and does some of it."""

    def __init__(self, cluster: MadeUp) -> None:
        self._cluster = cluster

    async def move(self, request: MoveRequest) -> Location:
        self._cluster.asked.append(request)
        if request.microservice not in self._cluster.documents:
            raise NotFound(f"there is no microservice {request.microservice}", microservice=request.microservice)
        self._cluster.begin_move(request.microservice, request.server or self._cluster._at(1))
        self._cluster.end_move(request.microservice)
        return Location(request.microservice, self._cluster.specs[request.microservice].spec, {})

    async def scale(self, request: ScaleRequest) -> Location:
        self._cluster.asked.append(request)
        return Location(request.microservice, self._cluster.specs[request.microservice].spec, {})

    async def drain(self, request: DrainRequest) -> DrainReply:
        self._cluster.asked.append(request)
        return DrainReply(3, ())

    async def cordon(self, request: CordonRequest) -> Empty:
        self._cluster.asked.append(request)
        info = self._cluster.live[request.server]
        self._cluster.live[request.server] = msgspec.structs.replace(
            info, cordoned=request.why if request.cordon else ""
        )
        self._cluster.told()
        return Empty()

    async def pause(self, request: PauseRequest) -> Empty:
        self._cluster.asked.append(request)
        self._cluster.paused = request.paused
        self._cluster.told()
        return Empty()
