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
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import msgspec

from amino.aio.clock import Clock
from amino.contracts.documents import ApplicationRecord, CodeRecord, decode, encode
from amino.contracts.services import (
    AbsentRequest,
    ApplicationRequest,
    ByName,
    ChangeReply,
    ChangeRequest,
    ClearDeathsRequest,
    CreateRequest,
    DeleteRequest,
    Description,
    Empty,
    EventList,
    EventsRequest,
    FindReply,
    FindRequest,
    LocateRequest,
    Location,
    Membership,
    MoveRequest,
    PushCodeRequest,
    RegistryCaller,
    ScaleRequest,
    SlotList,
)
from amino.coordination.keys import Keys
from amino.coordination.store import Put, Record, Store, unchanged
from amino.errors import (
    AlreadyExists,
    AminoError,
    CoordinationUnavailable,
    Invalid,
    NoEligibleServer,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    StoreFailed,
)
from amino.ids import derived_id, slot_of
from amino.limits import INLINE_ARGUMENTS_BYTES_MAX, SPEC_BYTES_MAX
from amino.oms.changing import Changes
from amino.oms.decisions import DecisionOperations
from amino.oms.directory import Directory, Found, Host, LiveServer
from amino.oms.events import EventLog
from amino.oms.finding import Finder
from amino.oms.locating import Locator
from amino.oms.lock_service import LockOperations, LockService
from amino.oms.maintenance import Maintenance
from amino.oms.operations import Operations, Taken
from amino.oms.ports import Blobs
from amino.oms.records import Records
from amino.telemetry import names
from amino.telemetry.trace import Telemetry

TIMEOUT_S = 30.0
PUSH_NOTED_S = 60.0
"""A bundle that is pushed again sooner than this is left as it is."""
ANSWER_S = 0.5
PAUSE_S_MIN = 0.02
PAUSE_S_MAX = 0.25
ASK_AGAIN = frozenset({"not-ready", "unreachable", "fenced", "stale-epoch", "overloaded", "older-release"})


class RegistryService(LockOperations, DecisionOperations, Maintenance):
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
        changes: Changes,
        locator: Locator,
        finder: Finder,
        events: EventLog,
        blobs: Blobs,
        caller: RegistryCaller,
        locks: LockService,
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
        self._changes = changes
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
            "scale": self._scale_here,
            "change": self._change_here,
            "restore": self._restore_here,
            "release": self._release_here,
            "clear_deaths": self._clear_deaths_here,
            "report_absent": self._report_absent_here,
            **locks.led_here,
        }

    def __repr__(self) -> str:
        return f"RegistryService({self._server})"

    # --- operations on one microservice -----------------------------------------------------------------------------

    async def create(self, request: CreateRequest) -> Location:
        """See ``contracts.services.Registry.create``."""
        if request.if_exists == "get" or not self._leads(
            slot_of(request.microservice)
        ):  # else it is checked in a moment
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

    async def scale(self, request: ScaleRequest) -> Location:
        """See ``contracts.services.Registry.scale``."""
        ms_id = request.microservice or await self._locator.id_of(request.name)
        named = msgspec.structs.replace(request, microservice=ms_id)
        return await self._on_leader(ms_id, "scale", named, request.timeout_s)  # type: ignore[no-any-return]

    async def change(self, request: ChangeRequest) -> ChangeReply:
        """See ``contracts.services.Registry.change``."""
        ms_id = request.microservice or await self._locator.id_of(request.spec.name)
        named = msgspec.structs.replace(request, microservice=ms_id)
        return await self._on_leader(ms_id, "change", named, request.timeout_s)  # type: ignore[no-any-return]

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

    async def report_absent(self, request: AbsentRequest) -> Empty:
        """See ``contracts.services.Registry.report_absent``."""
        return await self._on_leader(  # type: ignore[no-any-return]
            request.microservice, "report_absent", request, request.timeout_s
        )

    async def forwarded(self, method: str, request: Any) -> Any:
        """Serve an operation that another server passed on to us as the leader of its slot.

        Raises:
            NotExecuted: we do not lead the slot (reason ``not-ready``). Invalid: not an operation of slot leaders.
        """
        here = self._led_here.get(method)
        if here is None:
            raise Invalid(f"{method!r} is not done by slot leaders; call it directly")
        slot = slot_of(getattr(request, "lock", "") or request.microservice)
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
        with (
            self._telemetry.span(names.CREATE, attributes=self._about(request)),
            self._telling_refusals("create", request.microservice),
        ):
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
        with (
            self._telemetry.span(names.MIGRATE, attributes=self._about(request)),
            self._telling_refusals("move", request.microservice),
        ):
            return await self._location(request.microservice, await self._operations.move(request))

    async def _scale_here(self, request: ScaleRequest) -> Location:
        with self._telling_refusals("scale", request.microservice):
            return await self._location(request.microservice, await self._operations.scale(request))

    async def _change_here(self, request: ChangeRequest) -> ChangeReply:
        with self._telemetry.span(names.CHANGE, attributes=self._about(request)):
            found, changes = await self._changes.change(request)
        return ChangeReply(await self._location(request.microservice, found), changes)

    def _about(
        self, request: CreateRequest | DeleteRequest | MoveRequest | ChangeRequest
    ) -> dict[str, str | bool | int | float]:
        return {names.MICROSERVICE: request.microservice} if self._telemetry.tracing else {}

    @contextlib.contextmanager
    def _telling_refusals(self, what: str, ms_id: str) -> Iterator[None]:
        try:
            yield
        except NoEligibleServer as error:
            self._events.add("refused", ms_id, text=f"{what}: {error.message}")
            raise

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

    async def _report_absent_here(self, request: AbsentRequest) -> Empty:
        await self._operations.report_absent(request)
        return Empty()

    async def _location(self, ms_id: str, found: Found, *, created: bool = False) -> Location:
        record = await self._records.get(ms_id, found.document.generation)
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
        return await self._finder.describe(ms_id)

    async def members(self, request: Empty) -> Membership:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Registry.members``."""
        return self._finder.members()

    async def slots(self, request: Empty) -> SlotList:  # noqa: ARG002 - the service's form
        """See ``contracts.services.Registry.slots``."""
        return self._finder.slots()

    async def events(self, request: EventsRequest) -> EventList:
        """See ``contracts.services.Registry.events``."""
        if request.after or request.wait_s:
            return EventList(await self._events.after(request.after, request.wait_s))
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
        present = await self._store.get(key)
        if present is not None and await self._pushed_again(present, request):
            return Empty()
        url = await self._stored(request)
        inline = request.content if len(request.content) <= INLINE_ARGUMENTS_BYTES_MAX else b""
        kind: Any = request.kind
        record = CodeRecord(kind, inline, url, len(request.content), self._clock.wall())
        await self._store.txn([unchanged(key, 0)], [Put(key, encode(record))])
        return Empty()

    async def _stored(self, request: PushCodeRequest) -> str:
        """Have the bundle in the checkpoint store, a small one too where there is a store: etcd may be lost; returns its url."""
        try:
            return await self._blobs.put("code", request.sha256, request.content)
        except StoreFailed:
            if len(request.content) > INLINE_ARGUMENTS_BYTES_MAX:
                raise
            return ""

    async def _pushed_again(self, present: Record, request: PushCodeRequest) -> bool:
        """Note that a bundle is wanted, so that it is not removed as unused; returns whether it is still there."""
        record = decode(present.value, CodeRecord, present.key)
        now = self._clock.wall()
        if 0.0 <= now - record.uploaded_at < PUSH_NOTED_S:  # not if it was noted by a clock that was ahead
            return True
        url = record.url or await self._stored(request)  # an earlier release kept small ones in etcd only
        noted = Put(present.key, encode(msgspec.structs.replace(record, url=url, uploaded_at=now)))
        await self._store.txn([unchanged(present.key, present.mod_revision)], [noted])
        return await self._store.get(present.key) is not None

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
