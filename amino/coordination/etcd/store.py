"""``EtcdStore``: the coordination store port on etcd.

Owns which member is asked, what is repeated and when to give up. Leaves messages to ``messages``, the meaning of errors
to ``translate``, streams to ``stream``, who is alive to ``members``.
Invariants: only the first failure on a connection rotates to the next member, so that concurrent failures do not
cascade through all of them; a write is sent again only when the try before certainly did nothing; an answer from a
member that is behind what was seen before is not believed.
Failure behaviour: ``CoordinationUnavailable`` after ``request_timeout_s``, or at once for a write of unknown outcome.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeVar

import grpc
from aetcd import rpc
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_random_exponential

from amino.aio.clock import Clock, RealClock
from amino.aio.tasks import TaskOwner
from amino.coordination.etcd import messages
from amino.coordination.etcd.connection import Connection, EtcdTls
from amino.coordination.etcd.members import LOOK_S, Answer, Members
from amino.coordination.etcd.stream import watch_prefix
from amino.coordination.etcd.translate import LeaseExists, Next, Verdict, judge
from amino.coordination.rules import check_start_revision, check_transaction, check_ttl, is_lease_gone, read_only
from amino.coordination.store import Compare, Operation, Record, TxnResult, WatchBatch
from amino.errors import Conflict, CoordinationUnavailable, Invalid
from amino.telemetry import names
from amino.telemetry.trace import Attributes, Telemetry

T = TypeVar("T")
TRY_TIMEOUT_S = 1.5  # gRPC's own keepalive cannot notice a frozen member faster than in 5 s at etcd's defaults
FIRST_PAUSE_S = 0.02
PAGE = 500
LIST_ATTEMPTS_MAX = 5
_SILENT = Telemetry.disabled()
Records = list[Record]
_SCHEMES = ("http://", "https://")


class _Again(Exception):
    """Moves to the next try; never leaves this module."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(verdict.error.message)
        self.verdict = verdict


class EtcdStore:
    """The store port on etcd (3.4 or newer); made by ``open``."""

    def __init__(
        self,
        endpoints: Sequence[str],
        *,
        tls: EtcdTls | None,
        user: str | None,
        password: str | None,
        request_timeout_s: float,
        clock: Clock,
        telemetry: Telemetry = _SILENT,
    ) -> None:
        if not endpoints:
            raise Invalid("no etcd endpoint given; name at least one as host:port")
        if (user is None) != (password is None):
            raise Invalid("etcd user and password belong together; give both or none")
        if request_timeout_s <= 0:
            raise Invalid(f"etcd request_timeout_s is {request_timeout_s}; it must be more than 0")
        self._endpoints = [_address(endpoint, tls) for endpoint in endpoints]
        self._tls = tls
        self._user = user
        self._password = password
        self._timeout_s = request_timeout_s
        self._try_timeout_s = min(TRY_TIMEOUT_S, request_timeout_s)
        self._clock = clock
        self._telemetry = telemetry
        self._tasks = TaskOwner("etcd")
        self._members = Members(self._endpoints, self._status, clock, self._tasks)
        self._turn = 0
        self._open_connections: set[Connection] = set()
        self._connection = self._connect()
        self._login = asyncio.Lock()
        self._cluster_id = 0
        self._seen = (0, 0)  # highest raft term, highest revision
        self._foreign: tuple[float, str] | None = None  # since when every answer was of another etcd, and the last one
        self._closed = False
        self._wait = wait_random_exponential(multiplier=FIRST_PAUSE_S, max=0.25)

    def __repr__(self) -> str:
        return f"EtcdStore({self._connection.endpoint} of {len(self._endpoints)}, revision {self._seen[1]})"

    @classmethod
    async def open(
        cls,
        endpoints: Sequence[str],
        *,
        tls: EtcdTls | None = None,
        user: str | None = None,
        password: str | None = None,
        request_timeout_s: float = 5.0,
        clock: Clock | None = None,
        telemetry: Telemetry = _SILENT,
    ) -> EtcdStore:
        """Return a store on the running loop. Sends nothing yet: etcd may start after us.

        Args:
            endpoints: ``host:port`` of each member (``http://`` or ``https://`` before it is allowed).
            tls: certificates; None talks plain text.
            user: name for password authentication, with ``password``.
            password: see ``user``.
            request_timeout_s: most seconds one call takes, tries on several members included.
            clock: for tests.
            telemetry: shows operations that somebody's span waits for.

        Raises:
            Invalid: an endpoint, a time-out or a certificate file is unusable.
        """
        return cls(
            endpoints,
            tls=tls,
            user=user,
            password=password,
            request_timeout_s=request_timeout_s,
            clock=clock if clock is not None else RealClock(),
            telemetry=telemetry,
        )

    @property
    def endpoint(self) -> str:
        """The member that is asked now."""
        return self._connection.endpoint

    def foreign(self, for_s: float) -> str:
        """Return why this is not the etcd we knew, if every answer for ``for_s`` seconds was another's; else empty.

        One that was emptied, or restored from a backup, is another one too. Nothing that it answers is ever believed here: who
        wants to go on with it drops everything it knows, and opens a store anew.
        """
        if self._foreign is None or self._clock.monotonic() - self._foreign[0] < for_s:
            return ""
        return self._foreign[1]

    async def get(self, key: str) -> Record | None:
        """See ``Store.get``. May be stale on etcd 3.4 after a pause of its leader; ownership needs a transaction."""
        answer = await self._range(messages.range_request(key))
        return messages.record(answer.kvs[0]) if answer.kvs else None

    async def list(self, prefix: str) -> tuple[Records, int]:
        """See ``Store.list``. Pages of ``PAGE`` keys, all at the revision of the first."""
        for attempt in range(LIST_ATTEMPTS_MAX):
            try:
                return await self._list_once(prefix)
            except Conflict:  # compacted between two pages: start over
                if attempt == LIST_ATTEMPTS_MAX - 1:
                    raise CoordinationUnavailable(
                        f"list of {prefix!r}: compacted away {LIST_ATTEMPTS_MAX} times while paging; "
                        "compact etcd less often"
                    ) from None
        raise AssertionError("unreachable")

    async def _list_once(self, prefix: str) -> tuple[Records, int]:
        request = messages.range_request(prefix, prefix=True)
        request.limit = PAGE
        found: list[Record] = []
        while True:
            answer = await self._range(request)
            found.extend(messages.records(answer.kvs))
            if request.revision == 0:
                request.revision = answer.header.revision
            if not answer.more:
                return found, request.revision
            request.key = answer.kvs[-1].key + b"\0"

    async def _range(self, request: Any) -> Any:
        async def send(connection: Connection, timeout_s: float) -> Any:
            return await connection.kv.Range(request, timeout=timeout_s, metadata=connection.metadata)

        return await self._call(send, "get", repeatable=True)

    async def txn(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TxnResult:
        """See ``Store.txn``. Sent once, unless it only reads or the try before certainly did nothing.

        Raises:
            Conflict: a lease named in the operations does not exist; nothing was done.
        """
        check_transaction(compares, then, otherwise)
        request = messages.txn_request(compares, then, otherwise)

        async def send(connection: Connection, timeout_s: float) -> Any:
            return await connection.kv.Txn(request, timeout=timeout_s, metadata=connection.metadata)

        return messages.txn_result(await self._call(send, "txn", repeatable=read_only(then, otherwise)))

    async def grant(self, ttl_s: int) -> int:
        """See ``Store.grant``. We choose the id, so that a repeated grant is recognised as our own."""
        check_ttl(ttl_s)
        lease = random.SystemRandom().randrange(1, 1 << 63)

        async def send(connection: Connection, timeout_s: float) -> Any:
            request = rpc.LeaseGrantRequest(TTL=ttl_s, ID=lease)
            try:
                return await connection.lease.LeaseGrant(request, timeout=timeout_s, metadata=connection.metadata)
            except grpc.RpcError as error:
                if "lease already exists" in (error.details() or ""):
                    raise LeaseExists from error
                raise

        with contextlib.suppress(LeaseExists):
            await self._call(send, "grant", repeatable=True)
        return lease

    async def keep_alive(self, lease: int) -> int:
        """See ``Store.keep_alive``. etcd 3.4 can answer OK for a revoked lease: confirm by a transaction."""

        async def send(connection: Connection, timeout_s: float) -> Any:
            call = connection.lease.LeaseKeepAlive(timeout=timeout_s, metadata=connection.metadata)
            try:
                with contextlib.suppress(asyncio.InvalidStateError):  # ended already; the read says how
                    await call.write(rpc.LeaseKeepAliveRequest(ID=lease))
                answer = await call.read()
                if not isinstance(answer, rpc.LeaseKeepAliveResponse):
                    raise ConnectionResetError("the keepalive stream ended without an answer")
                return answer
            finally:
                call.cancel()

        try:
            answer = await self._call(send, "keep_alive", repeatable=True)
        except Conflict as error:
            if not is_lease_gone(error):
                raise
            return 0
        return max(0, int(answer.TTL))

    async def revoke(self, lease: int) -> None:
        """See ``Store.revoke``."""

        async def send(connection: Connection, timeout_s: float) -> Any:
            request = rpc.LeaseRevokeRequest(ID=lease)
            return await connection.lease.LeaseRevoke(request, timeout=timeout_s, metadata=connection.metadata)

        try:
            await self._call(send, "revoke", repeatable=True)
        except Conflict as error:
            if not is_lease_gone(error):
                raise

    def watch(self, prefix: str, start_revision: int) -> AsyncIterator[WatchBatch]:
        """See ``Store.watch``. Progress batches advance the revision only on versions that report it correctly."""
        check_start_revision(start_revision)
        return watch_prefix(self, prefix, start_revision)

    async def compact(self, revision: int) -> None:
        """Forget history before ``revision``; for tests and administration."""

        async def send(connection: Connection, timeout_s: float) -> Any:
            request = rpc.CompactionRequest(revision=revision)
            return await connection.kv.Compact(request, timeout=timeout_s, metadata=connection.metadata)

        await self._call(send, "compact", repeatable=True)

    async def aclose(self) -> None:
        """See ``Store.aclose``."""
        self._closed = True
        for connection in tuple(self._open_connections):
            connection.retire()
        for connection in tuple(self._open_connections):
            await connection.wait_closed()
        await self._tasks.aclose()

    # What follows is for ``stream`` too.

    @property
    def clock(self) -> Clock:
        """Where this store reads time."""
        return self._clock

    @property
    def closed(self) -> bool:
        """Whether ``aclose`` has been called."""
        return self._closed

    @property
    def tasks(self) -> TaskOwner:
        """Owner of the background tasks of this store."""
        return self._tasks

    async def connection(self) -> Connection:
        """Return the current connection, with a token if we have a user.

        Raises:
            grpc.RpcError: the member did not authenticate us.
        """
        if self._closed:
            raise CoordinationUnavailable("the etcd store is closed; open another one")
        connection = self._connection
        if self._user is not None and not connection.authenticated:
            async with self._login:
                if not connection.authenticated:
                    with connection.use():
                        await connection.authenticate(self._user, self._password or "", self._try_timeout_s)
        return connection

    def note_failure(self, connection: Connection, error: BaseException) -> Verdict:
        """Judge ``error`` and act on it: rotate, or have the next user get a new token."""
        verdict = judge(error, connection.endpoint)
        if verdict.then is Next.NEXT_MEMBER:
            self.rotate(connection)
        elif verdict.then is Next.NEW_TOKEN:
            if self._user is None:
                return Verdict(verdict.error, Next.NOWHERE, untouched=True)
            connection.authenticated = False
        return verdict

    def rotate(self, connection: Connection) -> None:
        """Leave ``connection`` for the next member, unless somebody did so before."""
        if connection is not self._connection or self._closed:
            return
        self._turn = self._members.next_turn(self._turn)
        self._connection = self._connect()
        connection.retire()

    def _connect(self, endpoint: str = "") -> Connection:
        self._open_connections = {one for one in self._open_connections if not one.closed}
        chosen = endpoint or self._endpoints[self._turn % len(self._endpoints)]
        connection = Connection(chosen, self._tls, self._tasks)
        self._open_connections.add(connection)
        return connection

    async def _status(self, endpoint: str) -> Answer | None:
        """Ask a member for what it knows by itself, on a connection for that alone."""
        if self._closed:
            return None
        connection = self._connect(endpoint)
        try:
            with connection.use():
                answer = await connection.maintenance.Status(rpc.StatusRequest(), timeout=LOOK_S)
        except grpc.RpcError as error:
            silent = error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return None if silent else Answer(0, 0)
        except OSError:
            return None
        finally:
            connection.retire()
        return Answer(answer.header.member_id, answer.leader, answer.raftTerm)

    async def _call(self, send: Callable[[Connection, float], Awaitable[T]], operation: str, *, repeatable: bool) -> T:
        telemetry = self._telemetry
        if not telemetry.observing:
            return await self._send(send, repeatable=repeatable)
        began = self._clock.monotonic()
        done = False
        try:
            if not telemetry.tracing or telemetry.traceparent() is None:  # what runs in the background is in no trace
                answer = await self._send(send, repeatable=repeatable)
            else:
                with telemetry.span(names.ETCD, kind="client", attributes=self._about(operation)):
                    answer = await self._send(send, repeatable=repeatable)
            done = True
            return answer
        finally:
            telemetry.metrics.etcd(operation, self._clock.monotonic() - began, ok=done)

    def _about(self, operation: str) -> Attributes:
        endpoint = self._connection.endpoint
        host, _, port = endpoint.rpartition(":")
        return {
            names.OPERATION: operation,
            names.PEER: endpoint,
            names.DB_SYSTEM: "etcd",
            names.DB_OPERATION: operation,
            names.SERVER_ADDRESS: host,
            names.SERVER_PORT: int(port) if port.isdigit() else 0,
        }

    async def size(self) -> tuple[str, int] | None:
        """Return the member that is asked now and how large its database is, in bytes; None if it does not say."""
        connection = self._connection
        try:
            with connection.use():
                answer = await connection.maintenance.Status(rpc.StatusRequest(), timeout=LOOK_S)
        except (grpc.RpcError, OSError):
            return None
        return connection.endpoint, int(answer.dbSize)

    async def _send(self, send: Callable[[Connection, float], Awaitable[T]], *, repeatable: bool) -> T:
        deadline = self._clock.monotonic() + self._timeout_s
        strikes: dict[Next, int] = {}
        try:
            return await self._try(send, deadline, repeatable, strikes)
        except _Again as again:
            pause_s = random.uniform(0.0, FIRST_PAUSE_S)
            if self._clock.monotonic() + pause_s >= deadline:
                raise again.verdict.error from again.__cause__
        await asyncio.sleep(pause_s)

        def too_late(state: RetryCallState) -> bool:
            return self._clock.monotonic() + state.upcoming_sleep >= deadline

        retrying = AsyncRetrying(retry=retry_if_exception_type(_Again), wait=self._wait, stop=too_late, reraise=True)
        try:
            return await retrying(self._try, send, deadline, repeatable, strikes)
        except _Again as again:
            raise again.verdict.error from again.__cause__

    async def _try(
        self,
        send: Callable[[Connection, float], Awaitable[T]],
        deadline: float,
        repeatable: bool,
        strikes: dict[Next, int],
    ) -> T:
        connection = self._connection
        sent = False
        begun = self._clock.monotonic()
        # What can be repeated gets a second chance on another member within the time of the whole call.
        try_timeout_s = min(self._try_timeout_s, self._timeout_s / 2) if repeatable else self._try_timeout_s
        try:
            connection = await self.connection()
            with connection.use():
                seen = self._seen
                timeout_s = max(0.001, min(try_timeout_s, deadline - self._clock.monotonic()))
                sent = True
                async with self._members.trying(seen[0]):
                    answer = await send(connection, timeout_s)
            if not isinstance(answer, rpc.LeaseKeepAliveResponse):  # those do not wait for the member to catch up
                self._believe(answer, seen, connection.endpoint)
            return answer
        except asyncio.CancelledError:
            if self._clock.monotonic() - begun >= try_timeout_s / 2:  # the caller's own time-out: this member is slow
                self.rotate(connection)
            raise
        except (grpc.RpcError, OSError) as error:
            verdict = self.note_failure(connection, error)
            strikes[verdict.then] = strikes.get(verdict.then, 0) + 1
            if verdict.then is Next.SAME_MEMBER and strikes[verdict.then] > 1:
                self.rotate(connection)
            hopeless = verdict.then is Next.NOWHERE or strikes.get(Next.NEW_TOKEN, 0) > 1
            if hopeless or (sent and not repeatable and not verdict.untouched):
                raise verdict.error from error
            raise _Again(verdict) from error

    def _believe(self, answer: Any, seen: tuple[int, int], endpoint: str) -> None:
        header = answer.header
        if self._cluster_id == 0:
            self._cluster_id = header.cluster_id
        why = ""
        if header.cluster_id != self._cluster_id:
            why = f"{endpoint} belongs to another etcd cluster than the one we started with"
        elif header.raft_term < seen[0] or header.revision < seen[1]:
            why = (
                f"{endpoint} is behind: term {header.raft_term}, revision {header.revision}; seen {seen[0]}, {seen[1]}"
            )
        if why:
            self._foreign = (self._foreign[0] if self._foreign is not None else self._clock.monotonic(), why)
            raise ConnectionAbortedError(why)
        self._foreign = None
        self._seen = (max(self._seen[0], header.raft_term), max(self._seen[1], header.revision))


def _address(endpoint: str, tls: EtcdTls | None) -> str:
    scheme = next((one for one in _SCHEMES if endpoint.startswith(one)), "")
    address = endpoint[len(scheme) :].rstrip("/")
    if scheme == "https://" and tls is None:
        raise Invalid(f"etcd endpoint {endpoint!r} asks for TLS; give its certificates")
    if scheme == "http://" and tls is not None:
        raise Invalid(f"etcd endpoint {endpoint!r} is plain text but TLS is configured; use https://")
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise Invalid(f"etcd endpoint {endpoint!r} is not host:port; write for example 127.0.0.1:2379")
    return address
