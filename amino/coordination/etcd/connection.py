"""One connection to one member of etcd: a gRPC channel with its stubs, token and count of users.

Owns the channel's life: it is closed only when it has been retired and its last call has ended, because gRPC answers
calls in flight on a closed channel with a bare cancellation. Leaves the choice of the member to ``store``.
Invariant: no channel is closed with a call in flight.
Failure behaviour: gRPC's errors pass through; ``translate`` judges them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from aetcd import rpc

from amino.aio.tasks import TaskOwner
from amino.errors import Invalid

_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),  # a new channel must not inherit the back-off of a retired one
    ("grpc.max_receive_message_length", -1),  # bounded by etcd's own limits and our page size
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),  # a hidden second send would make the outcome of a write ours to guess
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 2000),  # which is, by its other meaning, how long one connection attempt may take
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
)
CALLS_END_S = 0.02  # gRPC tells its own tasks of a cancelled call about so much later, and lets nobody wait for them
Metadata = tuple[tuple[str, str], ...]
_HAS_LEADER = ("hasleader", "true")  # a member cut off from the majority then says so, instead of letting us wait


@dataclass(frozen=True, slots=True)
class EtcdTls:
    """TLS towards etcd; files are read again at each connection, so that renewed certificates are picked up.

    Args:
        ca_file: PEM file of the authority that signed etcd's certificate; None uses gRPC's default roots.
        cert_file: PEM file of our certificate, if etcd asks for one.
        key_file: PEM file of its private key.
        server_name: name to expect in etcd's certificate, if other than the endpoint's host.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise Invalid("TLS towards etcd: cert_file and key_file belong together; give both or none")

    def credentials(self) -> grpc.ChannelCredentials:
        """Read the files and return gRPC credentials.

        Raises:
            Invalid: a file cannot be read.
        """
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))


def _read(path: str | Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise Invalid(f"TLS towards etcd: cannot read {path}: {error.strerror}") from error


class Connection:
    """A channel to ``endpoint`` with everything that belongs to it.

    Args:
        endpoint: ``host:port``.
        tls: None for plain text.
        tasks: owns the closing of a retired channel.
    """

    def __init__(self, endpoint: str, tls: EtcdTls | None, tasks: TaskOwner) -> None:
        self.endpoint = endpoint
        self._tasks = tasks
        options: list[tuple[str, str | int]] = list(_OPTIONS)
        if tls is None:
            self._channel = rpc.insecure_channel(endpoint, options=options)
        else:
            if tls.server_name is not None:
                options.append(("grpc.ssl_target_name_override", tls.server_name))
            self._channel = rpc.secure_channel(endpoint, tls.credentials(), options=options)
        self.kv = rpc.KVStub(self._channel)
        self.lease = rpc.LeaseStub(self._channel)
        self.watch = rpc.WatchStub(self._channel)
        self.maintenance = rpc.MaintenanceStub(self._channel)
        self._auth = rpc.AuthStub(self._channel)
        self.metadata: Metadata = (_HAS_LEADER,)
        self.progress_trusted: bool | None = None
        self.authenticated = False
        self._users = 0
        self._retired = False
        self._closing = False
        self._closed = asyncio.Event()
        self._interrupts: set[Callable[[], None]] = set()

    def __repr__(self) -> str:
        return f"Connection({self.endpoint}, {self._users} calls{', retired' if self._retired else ''})"

    @property
    def retired(self) -> bool:
        """Whether it takes no more calls."""
        return self._retired

    @property
    def closed(self) -> bool:
        """Whether its channel has been closed."""
        return self._closed.is_set()

    async def authenticate(self, user: str, password: str, timeout_s: float) -> None:
        """Get a token and send it with all further calls; repeating replaces the token."""
        request = rpc.AuthenticateRequest(name=user, password=password)
        answer = await self._auth.Authenticate(request, timeout=timeout_s)
        self.metadata = (_HAS_LEADER, ("token", answer.token))
        self.authenticated = True

    @contextmanager
    def use(self, interrupt: Callable[[], None] | None = None) -> Iterator[None]:
        """Count a call; ``interrupt`` is called when the connection is retired meanwhile (long streams leave then)."""
        self._users += 1
        if interrupt is not None:
            self._interrupts.add(interrupt)
        try:
            yield
        finally:
            if interrupt is not None:
                self._interrupts.discard(interrupt)
            self._users -= 1
            self._close_if_idle()

    def retire(self) -> None:
        """Take no more calls; streams are asked to leave, the channel closes after its last call. Idempotent."""
        if self._retired:
            return
        self._retired = True
        for interrupt in tuple(self._interrupts):
            interrupt()
        self._close_if_idle()

    def _close_if_idle(self) -> None:
        if self._retired and self._users == 0 and not self._closing:
            self._closing = True
            self._tasks.spawn(self._close(), f"close {self.endpoint}")

    async def _close(self) -> None:
        await asyncio.sleep(CALLS_END_S)
        await self._channel.close()
        self._closed.set()

    async def wait_closed(self) -> None:
        """Wait until a retired connection has closed its channel."""
        await self._closed.wait()
