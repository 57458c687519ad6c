"""``RegistryService``: the OMS as every kernel server offers it.

Owns passing each operation to the server that may do it, and waiting while there is none. Leaves doing it to
``operations`` and looking things up to ``locating`` and ``finding``.
Invariants: an operation on a microservice runs only on its slot's leader; a forwarded request is never forwarded again.
Failure behaviour: ``NotExecuted`` (not ready) when no leader could be found in time; other errors pass through.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import ApplicationRecord, ClusterDocument, CodeRecord, decode, encode
from amino.contracts.services import (
    ApplicationRequest,
    ByName,
    ClearDeathsRequest,
    CordonRequest,
    CreateRequest,
    DeleteRequest,
    Description,
    DrainReply,
    DrainRequest,
    Empty,
    EventList,
    FindReply,
    FindRequest,
    LocateRequest,
    Location,
    Membership,
    MoveRequest,
    PauseRequest,
    PushCodeRequest,
    RegistryCaller,
    SlotList,
)
from amino.coordination.keys import Keys
from amino.coordination.store import Put, Store, unchanged
from amino.errors import (
    AlreadyExists,
    AminoError,
    CoordinationUnavailable,
    Invalid,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
)
from amino.ids import derived_id, slot_of, valid_name
from amino.limits import INLINE_ARGUMENTS_BYTES_MAX, SPEC_BYTES_MAX
from amino.oms.directory import Directory, Found, Host, LiveServer
from amino.oms.events import EventLog
from amino.oms.finding import Finder
from amino.oms.locating import Locator
from amino.oms.operations import Operations, Taken
from amino.oms.ports import Blobs
from amino.oms.records import Records
from amino.telemetry import names
from amino.telemetry.trace import Telemetry

TIMEOUT_S = 30.0
ANSWER_S = 0.5
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.25
DRAIN_AT_ONCE = 8
ASK_AGAIN = frozenset({"not-ready", "unreachable", "fenced", "stale-epoch", "overloaded"})


class RegistryService:
    """Implements ``contracts.services.Registry``.

    Args:
        server: this server's name.
        leads: whether this server leads a slot now.
        caller: reaches other servers' registries.
    """

    def __init__(
        self,
        *,
        server: str,
        leads: Callable[[int], bool],
        store: Store,
        keys: Keys,
        clock: Clock,
        directory: Directory,
        records: Records,
        operations: Operations,
        locator: Locator,
        finder: Finder,
        events: EventLog,
        blobs: Blobs,
        caller: RegistryCaller,
        telemetry: Telemetry,
    ) -> None:
        self._server = server
        self._leads = leads
        self._store = store
        self._keys = keys
        self._clock = clock
        self._directory = directory
        self._records = records
        self._operations = operations
        self._locator = locator
        self._finder = finder
        self._events = events
        self._blobs = blobs
        self._caller = caller
        self._telemetry = telemetry
        self._forwards: dict[Host, dict[asyncio.Timeout, None]] = {}
        directory.on_loss(self._server_lost)
        self._led_here: dict[str, Callable[[Any], Awaitable[Any]]] = {
            "create": self._create_here,
            "delete": self._delete_here,
            "move": self._move_here,
            "restore": self._restore_here,
            "release": self._release_here,
            "clear_deaths": self._clear_deaths_here,
        }

    def __repr__(self) -> str:
        return f"RegistryService({self._server})"

    # --- operations on one microservice -----------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Location:
        """See ``contracts.services.Registry.create``."""
        self._operations.check(request)
        until = self._clock.monotonic() + request.timeout_s
        if request.if_exists == "get":
            with contextlib.suppress(NotFound):
                return await self._located(await self._locator.id_of(request.spec.name, fresh=True), until)
        return await self._on_leader(  # type: ignore[no-any-return]
            request.microservice, "create", request, request.timeout_s
        )

    async def delete(self, request: DeleteRequest) -> Empty:
        """See ``contracts.services.Registry.delete``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        named = msgspec.structs.replace(request, microservice=ms_id)
        return await self._on_leader(ms_id, "delete", named, request.timeout_s)  # type: ignore[no-any-return]

    async def move(self, request: MoveRequest) -> Location:
        """See ``contracts.services.Registry.move``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        named = msgspec.structs.replace(request, microservice=ms_id)
        return await self._on_leader(ms_id, "move", named, request.timeout_s)  # type: ignore[no-any-return]

    async def restore(self, request: ByName) -> Location:
        """See ``contracts.services.Registry.restore``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        return await self._on_leader(ms_id, "restore", ByName(microservice=ms_id), TIMEOUT_S)  # type: ignore[no-any-return]

    async def release(self, request: ByName) -> Empty:
        """See ``contracts.services.Registry.release``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        return await self._on_leader(ms_id, "release", ByName(microservice=ms_id), TIMEOUT_S)  # type: ignore[no-any-return]

    async def clear_deaths(self, request: ClearDeathsRequest) -> Empty:
        """See ``contracts.services.Registry.clear_deaths``."""
        return await self._on_leader(  # type: ignore[no-any-return]
            request.microservice, "clear_deaths", request, request.timeout_s
        )

    async def forwarded(self, method: str, request: Any) -> Any:
        """Serve an operation that another server passed on to us as the leader of its slot.

        Raises:
            NotExecuted: we do not lead the slot (reason ``not-ready``). Invalid: not an operation of slot leaders.
        """
        here = self._led_here.get(method)
        if here is None:
            raise Invalid(f"{method!r} is not done by slot leaders; call it directly")
        slot = slot_of(request.microservice)
        if not self._leads(slot):
            raise NotExecuted(f"{self._server} does not lead slot {slot}; ask again", reason="not-ready", slot=slot)
        return await here(request)

    async def _on_leader(self, ms_id: str, method: str, request: Any, timeout_s: float) -> Any:
        """Have the slot's leader do it, whoever that becomes, within ``timeout_s`` seconds."""
        until = self._clock.monotonic() + timeout_s
        slot = slot_of(ms_id)
        pause_s, tries = PAUSE_S_MIN, 0
        error: AminoError = NotExecuted(f"slot {slot} has no leader; ask again", reason="not-ready", slot=slot)
        while True:
            remaining_s = until - self._clock.monotonic()
            if remaining_s <= 0:
                raise error
            leader = self._server if self._leads(slot) else self._directory.leader(slot)
            with self._directory.pulse(f"slot:{slot}", "members") as changed:
                tries += 1
                try:
                    if leader == self._server:
                        return await self.forwarded(method, _within(request, remaining_s))
                    server = self._directory.server(leader) if leader is not None else None
                    if server is not None:
                        return await self._forward(server, method, request, remaining_s)
                except NotFound:
                    if method == "delete" and tries > 1:  # an earlier try went through
                        return Empty()
                    raise
                except NotExecuted as problem:
                    if problem.reason not in ASK_AGAIN:
                        raise
                    error = problem
                except (OutcomeUnknown, CoordinationUnavailable) as problem:
                    error = problem
                except TimeoutError:
                    error = OutcomeUnknown(f"{method} of {ms_id} was passed on to {leader}, which did not answer")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(pause_s, remaining_s)):
                        await changed.wait()
            pause_s = min(PAUSE_S_MAX, pause_s * 2)

    async def _forward(self, server: LiveServer, method: str, request: Any, timeout_s: float) -> Any:
        """Pass on to ``server``; ends with ``TimeoutError`` as soon as that server is lost."""
        host = (server.record.name, server.incarnation)
        async with asyncio.timeout(timeout_s) as scope:
            self._forwards.setdefault(host, {})[scope] = None
            try:
                within = _within(request, timeout_s - min(ANSWER_S, timeout_s / 10))  # so that its reason arrives
                return await self._caller.forward(server.record.address, method, within, timeout_s)
            finally:
                self._forwards[host].pop(scope, None)
                if not self._forwards[host]:
                    del self._forwards[host]

    def _server_lost(self, name: str, incarnation: int) -> None:
        for scope in self._forwards.get((name, incarnation), ()):
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def _create_here(self, request: CreateRequest) -> Location:
        until = self._clock.monotonic() + request.timeout_s
        with self._telemetry.span(names.CREATE, attributes=self._about(request)):
            return await self._create_or_get(request, until)

    async def _create_or_get(self, request: CreateRequest, until: float) -> Location:
        while True:
            done = await self._operations.create(request)
            if not isinstance(done, Taken):
                return await self._location(request.microservice, done, created=True)
            try:
                return await self._located(done.holder, until)
            except NotFound:  # deleted since: the name is free, or soon will be
                await asyncio.sleep(PAUSE_S_MIN)
                if self._clock.monotonic() >= until:
                    raise

    async def _delete_here(self, request: DeleteRequest) -> Empty:
        with self._telemetry.span(names.DELETE, attributes=self._about(request)):
            await self._operations.delete(request)
        return Empty()

    async def _move_here(self, request: MoveRequest) -> Location:
        with self._telemetry.span(names.MIGRATE, attributes=self._about(request)):
            return await self._location(request.microservice, await self._operations.move(request))

    def _about(self, request: CreateRequest | DeleteRequest | MoveRequest) -> dict[str, str | bool | int | float]:
        return {names.MICROSERVICE: request.microservice} if self._telemetry.tracing else {}

    async def _restore_here(self, request: ByName) -> Location:
        found, source = await self._operations.restore(request.microservice, TIMEOUT_S)
        location = await self._location(request.microservice, found)
        return msgspec.structs.replace(location, restored_from=source)

    async def _release_here(self, request: ByName) -> Empty:
        await self._operations.release(request.microservice, TIMEOUT_S)
        return Empty()

    async def _clear_deaths_here(self, request: ClearDeathsRequest) -> Empty:
        await self._operations.clear_deaths(request)
        return Empty()

    async def _location(self, ms_id: str, found: Found, *, created: bool = False) -> Location:
        record = await self._records.get(ms_id)
        if record is None:
            raise NotFound(f"microservice {ms_id} was deleted meanwhile", microservice=ms_id)
        return self._locator.location(ms_id, record, found, created=created)

    async def _located(self, ms_id: str, until: float) -> Location:
        wait_s = max(0.0, until - self._clock.monotonic())
        return await self._locator.locate(LocateRequest(microservice=ms_id, wait_s=wait_s))

    # --- looking up -------------------------------------------------------------------------------------------------

    async def locate(self, request: LocateRequest) -> Location:
        """See ``contracts.services.Registry.locate``."""
        return await self._locator.locate(request)

    async def find(self, request: FindRequest) -> FindReply:
        """See ``contracts.services.Registry.find``."""
        return await self._finder.find(request)

    async def describe(self, request: ByName) -> Description:
        """See ``contracts.services.Registry.describe``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        return await self._finder.describe(ms_id, await self._locator.group(ms_id))

    async def members(self, request: Empty) -> Membership:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Registry.members``."""
        return self._finder.members()

    async def slots(self, request: Empty) -> SlotList:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Registry.slots``."""
        return self._finder.slots()

    async def events(self, request: Empty) -> EventList:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Registry.events``."""
        return EventList(await self._events.newest())

    def subscribe_members(self, callback: Callable[[Membership], None]) -> Callable[[], None]:
        """Call ``callback`` with each new membership, soon after it changed; returns what ends that."""
        waiting = False

        def tell() -> None:
            nonlocal waiting
            waiting = False
            callback(self._finder.members())

        def changed() -> None:
            nonlocal waiting
            if not waiting:
                waiting = True
                asyncio.get_running_loop().call_soon(tell)

        return self._directory.on_members(changed)

    # --- the cluster ------------------------------------------------------------------------------------------------

    async def cordon(self, request: CordonRequest) -> Empty:
        """See ``contracts.services.Registry.cordon``."""
        return await self._cordon(request)

    async def _cordon(self, request: CordonRequest, *, keep_reason: bool = False) -> Empty:
        if not valid_name(request.server):
            raise Invalid(f"{request.server!r} is not a server's name")
        why = request.why or "by an operator"

        def change(cluster: ClusterDocument) -> ClusterDocument:
            if keep_reason and request.server in cluster.cordoned:
                return cluster
            cordoned = {name: text for name, text in cluster.cordoned.items() if name != request.server}
            if request.cordon:
                cordoned[request.server] = why
            return msgspec.structs.replace(cluster, cordoned=cordoned)

        if request.cordon and self._directory.server(request.server) is None:
            raise NotFound(f"there is no live server {request.server!r}; list them with `amino get servers`")
        if await self._change_cluster(change):
            self._events.add("cordoned" if request.cordon else "uncordoned", server=request.server, text=why)
        return Empty()

    async def pause(self, request: PauseRequest) -> Empty:
        """See ``contracts.services.Registry.pause``."""
        if await self._change_cluster(lambda cluster: msgspec.structs.replace(cluster, paused=request.paused)):
            self._events.add("paused" if request.paused else "resumed")
        return Empty()

    async def _change_cluster(self, change: Callable[[ClusterDocument], ClusterDocument]) -> bool:
        """Edit the cluster document by compare and swap; returns whether that made a difference."""
        while True:
            record = await self._store.get(self._keys.cluster)
            before = decode(record.value, ClusterDocument, record.key) if record is not None else ClusterDocument()
            after = change(before)
            if after == before:
                return False
            revision = record.mod_revision if record is not None else 0
            put = Put(self._keys.cluster, encode(after))
            if (await self._store.txn([unchanged(self._keys.cluster, revision)], [put])).succeeded:
                return True

    async def drain(self, request: DrainRequest) -> DrainReply:
        """See ``contracts.services.Registry.drain``."""
        until = self._clock.monotonic() + request.timeout_s
        await self._cordon(CordonRequest(request.server, why="being drained"), keep_reason=True)
        moved = 0
        left: dict[str, str] = {}
        gate = asyncio.Semaphore(DRAIN_AT_ONCE)

        async def move(ms_id: str) -> bool:
            async with gate:
                timeout_s = until - self._clock.monotonic()
                if timeout_s <= 0:
                    left[ms_id] = "no time left"
                    return False
                try:
                    await self.move(MoveRequest(microservice=ms_id, why="drain", timeout_s=timeout_s))
                except NotFound:
                    return False
                except AminoError as error:
                    left[ms_id] = str(error)
                    return False
                left.pop(ms_id, None)
                return True

        while True:
            server = self._directory.server(request.server)
            if server is None:
                break
            there = self._here(request.server, server.incarnation)
            done = sum(await asyncio.gather(*(move(ms_id) for ms_id in there)))
            moved += done
            if not done or self._clock.monotonic() >= until:
                break
        return DrainReply(moved, tuple(f"{ms_id}: {why}" for ms_id, why in sorted(left.items())))

    def _here(self, server: str, incarnation: int) -> list[str]:
        """Return the ids whose replica is at that incarnation (leftovers go by themselves)."""
        return [
            ms_id
            for ms_id in self._directory.hosted(server, incarnation)
            if (found := self._directory.group(ms_id)) is not None
            and any(replica.server == server for replica in found.document.replicas)
        ]

    # --- code and applications ----------------------------------------------------------------------------------------

    async def push_code(self, request: PushCodeRequest) -> Empty:
        """See ``contracts.services.Registry.push_code``."""
        if not self._directory.cluster.allow_bundles:
            raise PermissionDenied(
                "this cluster runs only code that its servers have; install the package there instead"
            )
        found = hashlib.sha256(request.content).hexdigest()
        if found != request.sha256:
            raise Invalid(f"the bundle's sha256 is {found}, not {request.sha256!r}; send it again")
        if request.kind not in ("pickle", "zip"):
            raise Invalid(f"bundle kind {request.kind!r}; use 'pickle' or 'zip'")
        key = self._keys.code(request.sha256)
        if await self._store.get(key) is not None:
            return Empty()
        inline, url = request.content, ""
        if len(inline) > INLINE_ARGUMENTS_BYTES_MAX:
            url = await self._blobs.put("code", request.sha256, inline)
            inline = b""
        kind: Any = request.kind
        record = CodeRecord(kind, inline, url, len(request.content), self._clock.wall())
        await self._store.txn([unchanged(key, 0)], [Put(key, encode(record))])
        return Empty()

    async def define_application(self, request: ApplicationRequest) -> Empty:
        """See ``contracts.services.Registry.define_application``."""
        size = len(request.arguments)
        if size > SPEC_BYTES_MAX:
            raise Invalid(
                f"the entry's arguments take {size} bytes; at most {SPEC_BYTES_MAX}: pass large data by a call"
            )
        self._operations.check(CreateRequest(derived_id("application", request.name), request.entry))
        key = self._keys.application(request.name)
        value = encode(ApplicationRecord(request.name, request.entry, request.arguments))
        while True:
            record = await self._store.get(key)
            if record is not None and record.value == value:
                return Empty()
            revision = record.mod_revision if record is not None else 0
            if (await self._store.txn([unchanged(key, revision)], [Put(key, value)])).succeeded:
                return Empty()

    async def application(self, request: ByName) -> Location:
        """See ``contracts.services.Registry.application``."""
        ms_id = derived_id("application", request.name)
        until = self._clock.monotonic() + TIMEOUT_S
        with contextlib.suppress(NotFound):
            return await self._located(ms_id, until)
        key = self._keys.application(request.name)
        record = await self._store.get(key)
        if record is None:
            raise NotFound(
                f"no application is named {request.name!r}; define it with `amino apply -f`", name=request.name
            )
        application = decode(record.value, ApplicationRecord, key)
        entry = msgspec.structs.replace(application.entry, application=request.name)
        try:
            return await self.create(CreateRequest(ms_id, entry, application.arguments, timeout_s=TIMEOUT_S))
        except AlreadyExists as error:
            if error.details.get("microservice") != ms_id:
                raise
            return await self._located(ms_id, until)  # made a moment ago, before the application was redefined


def _within(request: Any, remaining_s: float) -> Any:
    """Return ``request`` with its own time-out cut to what is left."""
    if getattr(request, "timeout_s", 0.0) > remaining_s:
        return msgspec.structs.replace(request, timeout_s=remaining_s)
    return request
