"""A runtime whose transport and registry do as they are told."""

from __future__ import annotations

from typing import Any

from amino.aio.clock import RealClock
from amino.contracts.calls import decode_call_head
from amino.contracts.documents import MicroserviceSpec, ServerRecord
from amino.contracts.services import GroupLocation, Location, Membership, ReplicaLocation, ServerInfo
from amino.dm.chain import compose_client
from amino.dm.registry import managers_of
from amino.errors import AminoError
from amino.marks import method_table
from amino.rpc.port import Reply
from amino.stubs.addresses import AddressBook
from amino.stubs.runtime import Runtime
from amino.telemetry.trace import Telemetry
from amino.wire import codec
from amino.wire.frames import Status, encode_error


class Time:
    """Monotonic time that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        """Seconds."""
        return self.now


class Peer:
    """Who is at an address."""

    trusted = True


class Transport:
    """Hands each request to ``answer(address, head, args)``: returns its result, raises its error."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer
        self.heads: list[Any] = []
        self.dropped: list[str] = []

    async def peer(self, address: str, *, timeout_s: float) -> Peer:
        """Trust everybody."""
        return Peer()

    async def request(self, address: str, kind: int, head: bytes, segments: Any = (), *, timeout_s: float) -> Reply:
        """Answer a call."""
        decoded = decode_call_head(head)
        self.heads.append(decoded)
        args, _ = codec.decode_arguments(decoded.codec, segments, trusted=True)
        try:
            number, answer = codec.encode(self.answer(address, decoded, args))
        except AppError as error:
            failure, answer = codec.encode_exception(error.error, trusted=True)
            return Reply(Status.APPLICATION_ERROR, failure, [memoryview(each) for each in answer])
        except ServerSays as error:
            return Reply(Status.ERROR, encode_error(error.error), [])
        return Reply(Status.OK, bytes([number]), [memoryview(each) for each in answer])

    def drop(self, address: str, reason: str) -> None:
        """Note it."""
        self.dropped.append(address)

    async def aclose(self) -> None:
        """Do nothing."""


class AppError(Exception):
    """What the method raises."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class ServerSays(Exception):
    """What the server says of the call."""

    def __init__(self, error: AminoError) -> None:
        super().__init__(str(error))
        self.error = error


class Registry:
    """Answers ``locate`` with one location after the other, the last again and again."""

    def __init__(self, *locations: Location) -> None:
        self.locations = list(locations)
        self.asked: list[Any] = []
        self.problem: AminoError | None = None
        self.closed = False

    async def call(self, method: str, request: Any, *, timeout_s: float, avoid: str = "") -> Any:
        """Locate."""
        self.asked.append(request)
        if self.problem is not None:
            raise self.problem
        return self.locations.pop(0) if len(self.locations) > 1 else self.locations[0]

    def close(self) -> None:
        """Do nothing."""


def location(cls: type, *managers: Any, epoch: int = 1, server: str = "s1", incarnation: int = 1) -> Location:
    """Return where the microservice ``m`` is."""
    spec = MicroserviceSpec(
        cls=f"{cls.__module__}:{cls.__qualname__}", dms=tuple(manager.to_spec() for manager in managers)
    )
    replica = ReplicaLocation(f"r{epoch}", server, incarnation, f"{server}:1")
    return Location("m", spec, {"/": GroupLocation(epoch, (replica,))}, method_table(cls))


def members(revision: int, *servers: tuple[str, int]) -> Membership:
    """Return a membership of (name, incarnation) pairs."""
    return Membership(
        revision=revision,
        servers=tuple(ServerInfo(ServerRecord(name, f"{name}:1"), incarnation) for name, incarnation in servers),
    )


def runtime_of(
    transport: Any, registry: Any, *, clock: Any = None, local: Any = None, telemetry: Telemetry | None = None
) -> Runtime:
    """Return a runtime on them."""
    addresses = AddressBook(["seed:1"], lambda address: transport.drop(address, "it is lost"))
    return Runtime(
        client_id="c1",
        transport=transport,
        addresses=addresses,
        registry=registry,
        compose=lambda dms, world, innermost: compose_client(managers_of(dms), world, innermost, world.telemetry),
        describe_class=None,
        clock=clock or RealClock(),
        telemetry=telemetry or Telemetry.disabled(),
        local=local,
        seed=1,
    )
