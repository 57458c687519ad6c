"""A small cluster on virtual time: real OMS and election, memory etcd, kernels that keep a number per object.

Owns servers that can be crashed (at any call they make), killed, cut off and replaced, and the check that documents and
kernels agree. Leaves what to expect to the tests.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from typing import Any, Self

from amino.contracts.documents import (
    FORMAT_READ,
    DmSpec,
    GroupDocument,
    MicroserviceRecord,
    MicroserviceSpec,
    ServerRecord,
    Tombstone,
    decode,
    encode,
)
from amino.contracts.levels import Level
from amino.contracts.services import (
    CreateRequest,
    InstantiateRequest,
    LocateRequest,
    Location,
)
from amino.coordination.election import Identity, SlotElection
from amino.coordination.guarded import GuardedWriter
from amino.coordination.keys import Keys
from amino.coordination.memory import MemoryStore
from amino.coordination.memory_etcd import MemoryEtcd
from amino.coordination.store import Delete, Put, Record
from amino.errors import (
    NotExecuted,
    OutcomeUnknown,
)
from amino.ids import MicroserviceId, new_id, slot_of
from amino.oms.service import Oms
from amino.telemetry.trace import Telemetry
from tests.oms.fake_kernel import FakeKernel, FakeMaker

DURABLE = (DmSpec("PeriodicCheckpoint"),)
LATENCY_S = 0.001


def spec(cls: str = "shop:Counter", **changes: Any) -> MicroserviceSpec:
    """Return a spec; ``durable=True`` gives it checkpoints."""
    if changes.pop("durable", False):
        changes["dms"] = DURABLE
    return MicroserviceSpec(cls=cls, **changes)


class FakeChains:
    """Reads the chain by the names of its managers."""

    def validate(self, spec: MicroserviceSpec) -> None:
        """Everything works."""

    def levels(self, spec: MicroserviceSpec) -> tuple[Level, ...]:
        """``Replicated`` with its options."""
        return tuple(
            Level(dm.name, place, "replicated", dm.options.get("replicas", 3), dm.options.get("min_in_sync", 2))
            for place, dm in enumerate(spec.dms)
            if dm.name == "Replicated"
        )

    def recovers_from_checkpoint(self, spec: MicroserviceSpec) -> bool:
        """As its name says."""
        return any(dm.name == "PeriodicCheckpoint" for dm in spec.dms)

    def needs_store(self, spec: MicroserviceSpec) -> bool:
        """As recovery does."""
        return self.recovers_from_checkpoint(spec)

    def keeps_in_place(self, spec: MicroserviceSpec) -> str | None:
        """A manager of that name does."""
        return "KeepInPlace says so" if any(dm.name == "KeepInPlace" for dm in spec.dms) else None


class Remote:
    """A service of another server, reached over a network that loses what goes to the dead."""

    def __init__(self, caller: Server, address: str, service: Callable[[Server], Any]) -> None:
        self.caller = caller
        self.address = address
        self.service = service

    def __getattr__(self, method: str) -> Any:
        async def call(*args: Any) -> Any:
            await self.caller.step(f"{method} at {self.address}")
            await asyncio.sleep(LATENCY_S)
            server = self.caller.world.at(self.address)
            if server is not self.caller and {self.caller, server} & self.caller.world.cut_off:
                await asyncio.Event().wait()
            if server is None:
                raise NotExecuted(f"{self.address} refuses connections", reason="unreachable")
            if server.hung:
                await asyncio.Event().wait()
            running = server.run(getattr(self.service(server), method)(*args))
            result = await running
            await asyncio.sleep(LATENCY_S)
            return result

        return call


class CountingStore(MemoryStore):
    """A store client that tells its server of each call, so that the server can be crashed there."""

    server: Server

    async def _ask(self, do: Any, *, writes: bool) -> Any:
        if self.server.started:
            await self.server.step("write" if writes else "read")
        return await super()._ask(do, writes=writes)


class Server:
    """One kernel server in the simulation."""

    def __init__(self, world: World, name: str, number: int, **record: Any) -> None:
        self.world = world
        self.name = name
        self.keys = world.keys
        self.address = f"{name}:{number}"
        self.record = ServerRecord(
            name=name,
            address=self.address,
            labels={"host": name, **record.pop("labels", {})},
            store_id=record.pop("store_id", "shared"),
            format_read=record.pop("format_read", FORMAT_READ),
            **record,
        )
        self.store = CountingStore(world.etcd, clock=world.clock, name=name, request_timeout_s=0.5)
        self.store.server = self
        self.kernel = FakeKernel(self)
        self.alive = True
        self.hung = False
        self.silent = False
        self.started = False
        self.incarnation = 0
        self.lease = 0
        self.steps = 0
        self.crash_at: int | None = None
        self.trace: list[str] = []
        self.serving: set[asyncio.Task[Any]] = set()

    async def start(self) -> Server:
        """Claim the name and take part."""
        world = self.world
        self.lease = await world.admin.grant(100_000)
        key = self.keys.server(self.name)
        self.incarnation = (await world.admin.txn([], [Put(key, encode(self.record), self.lease)])).revision
        self.writer = GuardedWriter(self.store)
        self.oms = Oms(
            name=self.name,
            store=self.store,
            writer=self.writer,
            keys=self.keys,
            clock=world.clock,
            random=random.Random(self.incarnation),
            kernels=self,
            peers=self,
            chains=FakeChains(),
            blobs=self,
            telemetry=world.telemetry,
        )
        self.oms.make_with(FakeMaker(self))
        self.registry = self.oms.registry
        await self.oms.start()
        self.election = SlotElection(
            self.store,
            self.keys,
            Identity(self.name, self.incarnation, self.lease),
            self.oms.directory.servers_cache,
            self.oms.directory.slots_cache,
            eligible=self.oms.may_lead,
            on_gained=self.oms.slot_gained,
            on_lost=self.oms.slot_lost,
            clock=world.clock,
            aside=self.oms.reach.aside,
        )
        self.oms.lead_with(self.election)
        await self.election.start()
        self.started = True
        return self

    # ports

    def at(self, address: str) -> Any:
        """See ``KernelCaller``."""
        return Remote(self, address, lambda server: server.kernel)

    network = at

    async def forward(self, address: str, method: str, request: Any, timeout_s: float) -> Any:
        """See ``RegistryCaller``."""
        async with asyncio.timeout(timeout_s):
            return await Remote(self, address, lambda server: server.registry).forwarded(method, request)

    async def put(self, kind: str, name: str, content: bytes) -> str:
        """See ``Blobs``."""
        self.world.blobs[name] = content
        return f"memory://{kind}/{name}"

    async def take(self, url: str) -> bytes | None:
        """See ``Blobs``."""
        return self.world.blobs.pop(url.rpartition("/")[2], None)

    async def collect(self, manifests: Any, mine: Any) -> int:
        """See ``Blobs``."""
        looked_at = {ms_id: len(group) for ms_id, group in manifests.items() if mine(ms_id)}
        looked_at |= {ms_id: -1 for ms_id in self.world.orphans if mine(ms_id)}
        self.world.collected.append((self.name, looked_at))
        return 0

    async def delete_checkpoints(self, ms_id: str) -> None:
        """See ``Blobs``."""
        await self.step("delete checkpoints")
        self.world.checkpoints.pop(ms_id, None)

    # life and death

    async def step(self, what: str) -> None:
        """Count a call; crash where the test wants it."""
        self.steps += 1
        self.trace.append(what)
        if self.crash_at is not None and self.steps >= self.crash_at:
            self.die()
        if not self.alive:
            await asyncio.Event().wait()

    async def run(self, coroutine: Any) -> Any:
        """Run a request that came over the network; ends as unknown when this server dies."""
        task = asyncio.get_running_loop().create_task(coroutine)
        self.serving.add(task)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            if task.cancelled():
                raise OutcomeUnknown(f"the link to {self.address} broke") from None
            task.cancel()
            await asyncio.wait({task})
            raise
        finally:
            self.serving.discard(task)

    def die(self, *, silent: bool | None = None, suspects: tuple[tuple[str, str], ...] = ()) -> None:
        """Lose the process: nothing of it acts any more; its keys go with a tombstone, or without when ``silent``."""
        if not self.alive:
            return
        self.alive = False
        self.crash_at = None
        self.kernel.objects.clear()
        loop = asyncio.get_running_loop()
        for task in list(self.serving):
            loop.call_soon(task.cancel)  # the one that runs now, too, once it waits
        operations: list[Any] = [Delete(self.keys.server(self.name))]
        operations += [
            Delete(record.key)
            for record in self.world.etcd.list(self.keys.slots_prefix)[0]
            if record.lease == self.lease
        ]
        if not (self.silent if silent is None else silent):
            tombstone = Tombstone("signal 9", suspects)
            operations.append(Put(self.keys.tombstone(self.name, self.incarnation), encode(tombstone)))
        self.world.etcd.txn([], operations, [])
        self.world.corpses.append(self)

    async def bury(self) -> None:
        """Release what the simulation holds for a dead or stopped server."""
        self.alive = False
        for task in list(self.serving):
            task.cancel()
        self.store.partition()
        await self.election._tasks.aclose()
        await self.oms.aclose()
        await self.writer._tasks.aclose()


class World:
    """The cluster."""

    def __init__(self, clock: Any) -> None:
        self.clock = clock
        self.etcd = MemoryEtcd(clock)
        self.keys = Keys("test")
        self.admin = MemoryStore(self.etcd, clock=clock, name="admin")
        self.servers: dict[str, Server] = {}
        self.corpses: list[Server] = []
        self.checkpoints: dict[str, int] = {}
        self.blobs: dict[str, bytes] = {}
        self.collected: list[tuple[str, dict[str, int]]] = []
        self.corrupt: set[str] = set()
        self.orphans: set[str] = set()
        self.busy: set[str] = set()
        self.cut_off: set[Server] = set()
        self.behaviour: dict[str, Callable[[Server, InstantiateRequest], Any]] = {}
        self.verdicts: list[Exception] = []
        self.telemetry: Telemetry = Telemetry.disabled()
        self.numbers = 0
        self.ids = random.Random(7)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        for server in {*self.servers.values(), *self.corpses}:
            await server.bury()
        await self.admin.aclose()

    async def add(self, *names: str, **record: Any) -> None:
        """Start servers."""
        for name in names:
            self.numbers += 1
            self.servers[name] = await Server(self, name, self.numbers, **record).start()
        await self.elected()

    async def elected(self) -> None:
        """Wait until every slot has a leader that every server knows."""

        def settled() -> bool:
            live = [server for server in self.servers.values() if server.alive]
            led = [slot for server in live for slot in server.oms.reconciler.led]
            return sorted(led) == list(range(64)) and all(
                server.oms.directory.leader(slot) is not None for server in live for slot in range(64)
            )

        await self.until(settled)

    async def until(self, holds: Callable[[], bool], timeout_s: float = 60.0) -> None:
        """Wait for a condition, in virtual time."""
        async with asyncio.timeout(timeout_s):
            while not holds():  # noqa: ASYNC110 - any condition at all, and time is virtual
                await asyncio.sleep(0.005)

    def at(self, address: str) -> Server | None:
        """Return the live server at an address."""
        for server in self.servers.values():
            if server.address == address and server.alive:
                return server
        return None

    def leader_of(self, ms_id: str) -> Server:
        """Return the live server that leads the microservice's slot."""
        for server in self.servers.values():
            if server.alive and slot_of(ms_id) in server.oms.reconciler.led:
                return server
        raise AssertionError("no leader")

    def other_than(self, *servers: Server) -> Server:
        """Return a live server that is none of these."""
        return next(server for server in self.servers.values() if server.alive and server not in servers)

    def new_id(self) -> MicroserviceId:
        """Return the next id of this world."""
        return new_id(self.ids.randbytes(12))

    def id_led_by(self, name: str) -> MicroserviceId:
        """Return a fresh id whose slot the server leads."""
        while True:
            ms_id = self.new_id()
            if self.leader_of(ms_id).name == name:
                return ms_id

    async def create(self, at: str = "s1", ms_id: str = "", timeout_s: float = 30.0, **changes: Any) -> Location:
        """Create a microservice through a server."""
        if_exists = changes.pop("if_exists", "fail")
        request = CreateRequest(ms_id or self.new_id(), spec(**changes), b"\x01x", if_exists, timeout_s)
        return await self.servers[at].registry.create(request)

    async def locate(self, ms_id: str, at: str = "", wait_s: float = 10.0) -> Location:
        """Locate a microservice through a (live) server."""
        server = self.servers[at] if at else self.other_than()
        return await server.registry.locate(LocateRequest(microservice=ms_id, wait_s=wait_s))

    async def behave(self, server: Server, request: InstantiateRequest) -> None:
        """Do what the class of the request does when it is made."""
        does = self.behaviour.get(request.record.spec.cls)
        if does is not None:
            result = does(server, request)
            if asyncio.iscoroutine(result):
                await result

    def home(self, ms_id: str) -> Server:
        """Return the server whose kernel serves the microservice; there must be exactly one."""
        homes = [
            server
            for server in self.servers.values()
            if server.alive and ms_id in server.kernel.objects and server.kernel.objects[ms_id].serving
        ]
        assert len(homes) == 1, f"{ms_id} is served by {homes}"
        return homes[0]

    def document(self, ms_id: str) -> GroupDocument | None:
        """Return the document as etcd has it."""
        record = self.etcd.get(self.keys.group(slot_of(ms_id), ms_id, "/"))
        return decode(record.value, GroupDocument) if record is not None else None

    def record(self, ms_id: str) -> MicroserviceRecord:
        """Return the record as etcd has it."""
        record = self.etcd.get(self.keys.microservice(slot_of(ms_id), ms_id))
        assert record is not None
        return decode(record.value, MicroserviceRecord)

    def values(self) -> dict[str, list[Record]]:
        """Return what etcd holds, by kind of key."""
        found: dict[str, list[Record]] = {}
        for record in self.etcd.list(self.keys.root)[0]:
            found.setdefault(record.key.removeprefix(self.keys.root).split("/")[0], []).append(record)
        return found

    def problems(self) -> list[str]:
        """Return where documents and kernels disagree; empty when all is well and nothing is under way."""
        problems: list[str] = []
        held = {
            (server.name, server.incarnation, ms_id): one
            for server in self.servers.values()
            if server.alive
            for ms_id, one in server.kernel.objects.items()
        }
        values = self.values()
        ids = {self.keys.parse_microservice(record.key).id for record in values.get("microservices", [])}
        for record in values.get("groups", []):
            ms_id = self.keys.parse_group(record.key).id
            document = decode(record.value, GroupDocument)
            if ms_id not in ids:
                problems.append(f"group {ms_id} without record")
            ids.discard(ms_id)
            if document.move is not None or document.leftovers:
                problems.append(f"{ms_id}: unfinished move or leftovers")
            if document.phase in ("creating", "deleting"):
                problems.append(f"{ms_id}: still {document.phase}")
            for replica in document.replicas:
                one = held.pop((replica.server, replica.incarnation, ms_id), None)
                if one is None or one.replica != replica.id:
                    problems.append(f"{ms_id}: replica {replica} is not there")
                elif not one.serving or not replica.confirmed or one.epoch != document.epoch:
                    problems.append(f"{ms_id}: replica {replica} does not serve at epoch {document.epoch}")
        problems += [f"orphan object {key}" for key in held]
        problems += [f"record {ms_id} without group" for ms_id in ids]
        records = {record.key for record in values.get("microservices", [])}
        for record in values.get("names", []):
            ms_id = record.value.decode()
            if self.keys.microservice(slot_of(ms_id), ms_id) not in records:
                problems.append(f"orphan name {record.key}")
        return problems

    async def settled(self, timeout_s: float = 60.0) -> None:
        """Wait until documents and kernels agree."""
        try:
            await self.until(lambda: not self.problems(), timeout_s)
        except TimeoutError:
            raise AssertionError(self.problems()) from None
