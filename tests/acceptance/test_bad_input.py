"""Bad input of every kind: an error at once that names value, rule and remedy, and a cluster that does not mind."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

import amino
from amino import limits
from amino.config import ServerConfig, SessionConfig, TlsFiles
from amino.contracts.documents import DmSpec, MicroserviceSpec
from amino.contracts.services import CreateRequest, MoveRequest
from amino.dm import ExplicitMigration, PeriodicCheckpoint
from amino.errors import (
    AlreadyExists,
    AminoError,
    ClusterUnavailable,
    CodeUnavailable,
    ConstructionFailed,
    Invalid,
    NoEligibleServer,
    NotEncodable,
    NotFound,
    PermissionDenied,
)
from amino.ids import new_id
from amino.testing import LocalCluster
from tests.acceptance.audit import Audit
from tests.acceptance.conftest import ROOT
from tests.acceptance.figures import Figures
from tests.acceptance.refusals import WITHIN_S, refused
from tests.acceptance.services import Counter, Raises, Unpicklable
from tests.acceptance.test_server_loss import host_of
from tests.etcd_fixtures import an_etcd

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
ROW = "bad input"
amino_cluster = {"servers": 2, "app_dirs": [ROOT], "session_ttl_s": 2, "labels": {"region": "eu"}}


@pytest.fixture(scope="module")
def shared() -> Iterator[LocalCluster]:
    """One cluster for all that does it no harm, which is the point of it."""
    with LocalCluster(etcd_binary=an_etcd(), **amino_cluster) as running:
        yield running


@pytest.fixture
def unharmed(shared: LocalCluster) -> Iterator[tuple[LocalCluster, amino.Cluster]]:
    """The shared cluster and a client; afterwards no process has died, nothing is orphaned and everything still works."""
    pids = {name: (server.kernel_pid, server.supervisor_pid) for name, server in shared.servers.items()}
    with shared.connect() as client, Audit(shared) as audit:
        good = client.new(amino.spec(Counter, dms=[PeriodicCheckpoint(every=1)]), 41)
        yield shared, client
        assert good.add() == 42
        client.delete(good)
        for each in client.find():
            client.delete(client.get(each.name) if each.name else client.bind(_stub(client, each.id)))
        assert {name: (one.kernel_pid, one.supervisor_pid) for name, one in shared.servers.items()} == pids
        assert all(server.is_serving for server in shared.servers.values())
        audit.await_consistent(10.0)
        assert not audit.groups()


def _stub(client: amino.Cluster, ms_id: str) -> Any:
    from amino.stubs.stub import DynamicStub
    from amino.stubs.target import Target

    return DynamicStub(None, Target(ms_id, ""), "")


def create(client: amino.Cluster, document: MicroserviceSpec, arguments: bytes = b"") -> Any:
    return client.registry.create(CreateRequest(new_id(), document, arguments), timeout_s=10.0)


COUNTER = "tests.acceptance.services:Counter"

CREATIONS: dict[str, tuple[Callable[[amino.Cluster], Any], type[BaseException], tuple[str, ...]]] = {
    "unknown module": (
        lambda client: create(client, MicroserviceSpec("no.such.module:Thing")),
        (NoEligibleServer, CodeUnavailable),  # type: ignore[dict-item]
        ("no.such.module", "s1", "s2"),
    ),
    "unknown class": (
        lambda client: create(client, MicroserviceSpec("tests.acceptance.services:Missing")),
        (NoEligibleServer, CodeUnavailable),  # type: ignore[dict-item]
        ("Missing",),
    ),
    "malformed class": (
        lambda client: create(client, MicroserviceSpec("not a class")),
        AminoError,
        ("not a class",),
    ),
    "constructor that raises": (
        lambda client: client.new(amino.spec(Raises), "the reason it gives"),
        ConstructionFailed,
        ("Raises", "ValueError", "the reason it gives", "nothing was created"),
    ),
    "wrong constructor arguments": (
        lambda client: client.new(amino.spec(Counter), 1, 2, 3),
        ConstructionFailed,
        ("Counter", "TypeError"),
    ),
    "constructor argument that cannot be encoded": (
        lambda client: client.new(amino.spec(Counter), (each for each in "abc")),
        NotEncodable,
        ("generator",),
    ),
    "selector that nobody matches": (
        lambda client: client.new(amino.spec(Counter, selector={"region": "mars"})),
        NoEligibleServer,
        ("region", "mars", "s1", "s2"),
    ),
    "unknown deployment manager": (
        lambda client: create(client, MicroserviceSpec(COUNTER, dms=(DmSpec("MakeItFast"),))),
        AminoError,
        ("MakeItFast", "PeriodicCheckpoint"),
    ),
    "unknown option of a manager": (
        lambda client: create(client, MicroserviceSpec(COUNTER, dms=(DmSpec("PeriodicCheckpoint", {"evry": 1}),))),
        Invalid,
        ("PeriodicCheckpoint", "evry"),
    ),
    "option out of range": (
        lambda client: create(client, MicroserviceSpec(COUNTER, dms=(DmSpec("PeriodicCheckpoint", {"every": 0}),))),
        Invalid,
        ("PeriodicCheckpoint", "every", "1"),
    ),
    "managers that contradict each other": (
        lambda client: create(
            client, MicroserviceSpec(COUNTER, dms=(DmSpec("PeriodicCheckpoint"), DmSpec("PeriodicCheckpoint")))
        ),
        Invalid,
        ("PeriodicCheckpoint",),
    ),
    "invalid name": (
        lambda client: create(client, MicroserviceSpec(COUNTER, name="a/b")),
        Invalid,
        ("a/b", "letters"),
    ),
}


@pytest.mark.parametrize("what", CREATIONS)
def test_creations(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures, what: str) -> None:
    """A creation that cannot be is refused, and leaves nothing."""
    call, kind, words = CREATIONS[what]
    _, client = unharmed
    refused(figures, what, lambda: call(client), kind, *words)


def test_options_of_managers_are_checked_where_they_are_written(figures: Figures) -> None:
    """In Python a wrong option is refused before anything is sent."""
    refused(figures, "option out of range, in Python", lambda: PeriodicCheckpoint(every=0), Invalid, "every", "0", "1")
    refused(figures, "unknown option, in Python", lambda: PeriodicCheckpoint(evry=1), (Invalid, TypeError), "evry")  # type: ignore[call-arg,arg-type]


def test_a_name_that_is_taken(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """The second microservice of a name is refused; the first is not touched."""
    _, client = unharmed
    first = client.new(amino.spec(Counter, name="taken"), 5)
    spec = amino.spec(Counter, name="taken")
    refused(figures, "name taken", lambda: client.new(spec, 7), AlreadyExists, "taken", "get_or_create")
    assert first.get() == 5


def test_calls(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """Calls with bad arguments, of methods that do not exist or are private, and of what does not exist."""
    _, client = unharmed
    counter = client.new(amino.spec(Counter, name="callee"))
    strange = client.new(amino.spec(Unpicklable, name="strange"))
    untyped = client.get("callee")
    generator = (each for each in "abc")
    refused(figures, "argument that cannot be encoded", lambda: strange.take(generator), NotEncodable, "generator")
    refused(figures, "result that cannot be encoded", strange.give, AminoError, "generator")
    refused(figures, "wrong arguments", lambda: counter.add(1, 2, 3), TypeError, "add")
    refused(figures, "method that does not exist", lambda: untyped.subtract(1), AttributeError, "subtract", "add")
    refused(figures, "private method", lambda: untyped._private("x"), AttributeError, "_private", "public")
    from amino.aio.mode import drive

    runtime, target = untyped._amino_runtime, untyped._amino_target
    for what, method in (("method that does not exist, sent all the same", "subtract"),
                         ("private method, sent all the same", "_private"),
                         ("special method, sent all the same", "__reduce__")):  # fmt: skip
        refused(figures, what, lambda method=method: drive(runtime.invoke(target, method, 0, (), {})),
                (NotFound, Invalid, PermissionDenied), method)  # type: ignore[misc]  # fmt: skip
    refused(figures, "name that does not exist", lambda: client.get("nobody"), NotFound, "nobody")
    refused(figures, "delete what does not exist", lambda: client.delete("nobody"), NotFound, "nobody")
    stub = _stub(client, new_id())
    refused(
        figures,
        "id that does not exist",
        lambda: client.describe(stub),
        NotFound,
        stub.__amino_reference__.microservice,
    )


def test_moves(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """A move to a server that does not exist, or of what does not exist, changes nothing."""
    _, client = unharmed
    counter = client.new(amino.spec(Counter, name="mover", dms=[ExplicitMigration()]), 3)
    home = host_of(client, "mover")
    refused(figures, "unknown server in move", lambda: client.move("mover", "s9"), NotFound, "s9", "s1", "s2")
    handle = amino.control(counter, ExplicitMigration)
    refused(figures, "unknown server in migrate_to", lambda: handle.migrate_to("s9"), NotFound, "s9", "s1")
    refused(
        figures,
        "move of what does not exist",
        lambda: client.registry.move(MoveRequest(name="nobody")),
        NotFound,
        "nobody",
    )
    assert host_of(client, "mover") == home
    assert counter.get() == 3


def test_a_frame_of_100_mib(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """An argument beyond the limit is refused at the caller, and its link goes on."""
    _, client = unharmed
    strange = client.new(amino.spec(Unpicklable))
    refused(
        figures, "100 MiB argument", lambda: strange.take(bytes(100 << 20)), NotEncodable,
        str(limits.FRAME_BYTES_MAX),
    )  # fmt: skip
    assert strange.take("small") == 5


def _ports(local: LocalCluster) -> dict[str, tuple[str, int]]:
    server = local.server("s1")
    found = {}
    for name, address in (("peer link", server.address), ("gRPC", server.grpc_address)):
        host, _, port = address.rpartition(":")
        found[name] = (host, int(port))
    return found


GARBAGE: dict[str, bytes] = {
    "a length of 100 MiB": struct.pack("<I", 100 << 20) + bytes(64),
    "a length of 100 MiB, the other way round": struct.pack(">I", 100 << 20) + bytes(64),
    "zeros": bytes(4096),
    "ones": b"\xff" * 4096,
    "noise": bytes(range(256)) * 64,
    "HTTP": b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a TLS greeting": bytes.fromhex("16030100c8010000c40303") + bytes(200),
    "half a handshake": b"\x10\x00",
}


@pytest.mark.parametrize("port", ["peer link", "gRPC"])
def test_garbage_bytes(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures, port: str) -> None:
    """Garbage is answered with the end of the connection, and harms nobody else; what is half sent holds nothing up."""
    local, client = unharmed
    counter = client.new(amino.spec(Counter, name="bystander"))
    import psutil

    process = psutil.Process(local.server("s1").kernel_pid)
    before, longest = process.memory_info().rss, 0.0
    for what, garbage in GARBAGE.items():
        with socket.create_connection(_ports(local)[port], timeout=10) as link:
            begun = time.perf_counter()
            link.sendall(garbage)
            counter.add()
            longest = max(longest, time.perf_counter() - begun)
            if port == "peer link" and what != "half a handshake":
                link.settimeout(5.0)
                _drain(link)
                figures.note(
                    f"{what} to the peer link ends its connection", time.perf_counter() - begun, "s", at_most=1.0
                )
    assert counter.get() == len(GARBAGE)
    assert process.memory_info().rss - before < 32 << 20, "garbage must not make a server reserve memory"
    figures.note(f"garbage to {port}: longest call of a bystander", longest, "s", at_most=WITHIN_S)


def _drain(link: socket.socket) -> None:
    try:
        while link.recv(65536):
            pass
    except ConnectionError:
        pass


def test_the_wrong_cluster(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """A client of another cluster is told so at once."""
    local, _ = unharmed
    refused(
        figures, "wrong cluster name", lambda: amino.connect(*local.addresses, cluster="elsewhere", timeout_s=5),
        AminoError, "elsewhere", "amino",
    )  # fmt: skip


def test_nobody_there(figures: Figures) -> None:
    """An address where nobody listens ends in the time given, and says what was tried."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        refused(
            figures, "nobody listens", lambda: amino.connect(address, timeout_s=0.5), ClusterUnavailable, address
        )  # fmt: skip


def test_a_server_name_that_is_taken(unharmed: tuple[LocalCluster, amino.Cluster], figures: Figures) -> None:
    """A second server of a name ends and says why; the first serves on, as the same incarnation."""
    local, _ = unharmed
    before = local.server("s1").incarnation
    config = {"endpoints": local.etcd_endpoints}
    begun = time.perf_counter()
    with pytest.raises(ClusterUnavailable) as caught:
        LocalCluster(
            1, etcd_endpoints=config["endpoints"], session_ttl_s=2, store=(local.folder / "checkpoints").as_uri()
        ).start()
    assert "s1" in str(caught.value)
    assert "name" in str(caught.value)
    figures.note("duplicate server name", time.perf_counter() - begun, "s", note="includes starting two processes")
    assert local.server("s1").incarnation == before


CONFIGURATIONS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "TTL below etcd's": (lambda: SessionConfig(ttl_s=1), ("session_ttl_s=1", "2")),
    "times that do not fit": (lambda: SessionConfig(ttl_s=3, request_timeout_s=2.0), ("request_timeout_s", "ttl_s=3")),
    "no port": (lambda: ServerConfig(listen="here"), ("listen", "here", "host:port")),
    "hang_s": (lambda: ServerConfig(hang_s=0.1), ("hang_s=0.1", "2")),
    "store": (lambda: ServerConfig(store="/tmp/x"), ("store", "file:///")),
    "TLS files": (lambda: TlsFiles(ca="/no/such/file"), ("/no/such/file", "PEM")),
    "negative capacity": (lambda: ServerConfig(capacity=-1), ("capacity=-1", "0")),
}


@pytest.mark.parametrize("what", CONFIGURATIONS)
def test_configurations(figures: Figures, what: str) -> None:
    """A configuration out of range is refused with field, value and rule."""
    call, words = CONFIGURATIONS[what]
    refused(figures, f"configuration: {what}", call, Invalid, *words)
