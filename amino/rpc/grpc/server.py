"""The gRPC port of a kernel server: Registry, Kernel, Invoke, health checking and reflection.

Owns the listening port and its life. Leaves the services to their modules, and what they end in to OMS and kernel.
Invariants: nothing but loopback is served in plain text unless the operator says so; sizes and requests at a time are
bounded; the port is never shared with another process.
Failure behaviour: ``Invalid`` at start names address or TLS file and the remedy; later nothing that comes from outside
ends the process.
"""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from amino.contracts.services import Kernel, Registry
from amino.errors import Invalid
from amino.limits import IN_FLIGHT_PER_SERVER_MAX
from amino.rpc.address import Endpoint, format_address, parse_address
from amino.rpc.grpc.invoke import Invoker, InvokeService
from amino.rpc.grpc.kernel import KernelService
from amino.rpc.grpc.registry import RegistryService
from amino.rpc.grpc.service import MESSAGE_BYTES_MAX, Counters, generic_handler
from amino.rpc.tls import TlsConfig, check_listen
from amino.wire.gen.amino_v1 import invoke_pb2, kernel_pb2, registry_pb2
from amino.wire.typed import Bind

REGISTRY = "amino.v1.Registry"
KERNEL = "amino.v1.Kernel"
INVOKE = "amino.v1.Invoke"


class GrpcServer:
    """A running gRPC port; made by ``start``, on the event loop that it serves on.

    Under uvloop that must be the loop of the main thread, and there should be one gRPC loop per process
    (``docs/decisions/0009-grpc.md``).
    """

    def __init__(self, server: grpc.aio.Server, address: str, servicer: health.aio.HealthServicer) -> None:
        self._server = server
        self._address = address
        self._health = servicer
        self._counters: dict[str, Counters] = {}
        self._closing: asyncio.Future[None] | None = None

    def __repr__(self) -> str:
        return f"GrpcServer({self._address})"

    @classmethod
    async def start(
        cls,
        address: str,
        *,
        registry: Registry,
        kernel: Kernel,
        invoker: Invoker,
        tls: TlsConfig | None = None,
        insecure: bool = False,
        bind: Bind | None = None,
        message_bytes_max: int = MESSAGE_BYTES_MAX,
        requests_max: int = IN_FLIGHT_PER_SERVER_MAX,
    ) -> GrpcServer:
        """Listen on ``address`` and answer; health checkers hear NOT_SERVING until ``set_serving``.

        Args:
            address: ``host:port``; port 0 takes a free one.
            registry: answers ``amino.v1.Registry``.
            kernel: answers ``amino.v1.Kernel``.
            invoker: makes the calls of ``amino.v1.Invoke``.
            tls: our certificate; callers must show one of the same authority.
            insecure: whether plain text beyond loopback is accepted.
            bind: makes refs among arguments callable.
            message_bytes_max: size of one request or reply.
            requests_max: requests at a time; more are refused with RESOURCE_EXHAUSTED.

        Raises:
            Invalid: the address is malformed or taken, or needs TLS; the TLS material is unusable.
        """
        check_listen(address, tls, insecure=insecure)
        endpoint = parse_address(address)
        credentials = None if tls is None else _credentials(tls)
        _check_free(address, endpoint)
        server = grpc.aio.server(
            options=(
                ("grpc.so_reuseport", 0),
                ("grpc.max_receive_message_length", message_bytes_max),
                ("grpc.max_send_message_length", message_bytes_max),
                ("grpc.http2.max_ping_strikes", 0),
                ("grpc.keepalive_permit_without_calls", 1),
            ),
            maximum_concurrent_rpcs=requests_max,
        )
        servicer = health.aio.HealthServicer()
        self = cls(server, _bind_port(server, address, endpoint, credentials), servicer)
        try:
            for descriptor, methods in (
                (registry_pb2.DESCRIPTOR, RegistryService(registry, bind, secure=tls is not None).methods()),
                (kernel_pb2.DESCRIPTOR, KernelService(kernel, secure=tls is not None).methods()),
                (invoke_pb2.DESCRIPTOR, InvokeService(invoker, bind).methods()),
            ):
                for service in descriptor.services_by_name.values():
                    counters = self._counters[service.full_name] = Counters()
                    server.add_generic_rpc_handlers((generic_handler(service, methods, counters, message_bytes_max),))
            health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
            names = [REGISTRY, KERNEL, INVOKE, health.SERVICE_NAME, reflection.SERVICE_NAME]
            reflection.enable_server_reflection(names, server)
            await self.set_serving(serving=False)
            await server.start()
        except BaseException:
            await server.stop(None)
            raise
        return self

    @property
    def address(self) -> str:
        """``host:port`` actually bound."""
        return self._address

    async def set_serving(self, *, serving: bool) -> None:
        """Tell health checkers whether this server takes requests now. Idempotent."""
        status = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", REGISTRY, KERNEL, INVOKE):
            await self._health.set(name, status)

    def statistics(self) -> dict[str, Any]:
        """Return, by service, how many requests were answered, refused with an error, and failed by a bug."""
        return {
            name: {"answered": counters.answered, "refused": counters.refused, "failed": counters.failed}
            for name, counters in self._counters.items()
        }

    async def aclose(self, grace_s: float = 0.0) -> None:
        """Refuse new requests, let running ones end for up to ``grace_s`` seconds, then cancel them. Idempotent."""
        if self._closing is not None:
            await asyncio.shield(self._closing)
            return
        self._closing = asyncio.get_running_loop().create_future()
        try:
            await self._health.enter_graceful_shutdown()
            await self._server.stop(grace_s or None)
        finally:
            self._closing.set_result(None)


def _check_free(address: str, endpoint: Endpoint) -> None:
    """Bind the address ourselves first: gRPC says less about what is wrong, and never frees a server it cannot bind."""
    if endpoint.path:
        return
    try:
        for family, kind, protocol, _, place in socket.getaddrinfo(
            endpoint.host, endpoint.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        ):
            with socket.socket(family, kind, protocol) as probe:
                if os.name == "posix":
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(place)
    except OSError as error:
        raise Invalid(
            f"gRPC cannot listen on {address!r}: {error.strerror or error}; another process may have the port, or the "
            "host is not this machine's: choose another address"
        ) from error


def _bind_port(
    server: grpc.aio.Server, address: str, endpoint: Endpoint, credentials: grpc.ServerCredentials | None
) -> str:
    try:
        port = (
            server.add_insecure_port(address) if credentials is None else server.add_secure_port(address, credentials)
        )
    except RuntimeError as error:
        raise Invalid(f"gRPC cannot listen on {address!r}: {error}; choose another address") from error
    return address if endpoint.path else format_address(endpoint.host, port)


def _credentials(tls: TlsConfig) -> grpc.ServerCredentials:
    tls.server_context()  # the same check of the material as on the peer link, with its errors
    return grpc.ssl_server_credentials(
        [(Path(tls.key).read_bytes(), Path(tls.cert).read_bytes())],
        root_certificates=Path(tls.ca).read_bytes(),
        require_client_auth=True,
    )
