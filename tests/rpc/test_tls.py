"""TLS of the peer link: roles from certificates, and clear errors for every way it can go wrong."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import uvloop

from amino.aio.mode import drive
from amino.errors import AminoError, Invalid, NotExecuted, PermissionDenied
from amino.rpc.handshake import Hello, Identity, NodeInfo, boot_id, judge
from amino.rpc.peer_link import PeerListener
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.port import Peer, Reply
from amino.rpc.tls import TlsConfig, check_listen, explain
from tests.rpc.certificates import Authority
from tests.rpc.worlds import CALL, LIMITS, echo

SERVER, CLIENT, NAMED = "amino://role/server", "amino://role/client", "amino://server/s1"
Ask = Callable[[PeerTransport, str], Awaitable[Reply]]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """The cluster's authority."""
    return Authority(tmp_path)


async def ask_on_loop(transport: PeerTransport, address: str) -> Reply:
    return await transport.request(address, CALL, b"hello", [b"x" * 300_000], timeout_s=5)


async def ask_blocking(transport: PeerTransport, address: str) -> Reply:
    return await asyncio.to_thread(lambda: drive(ask_on_loop(transport, address)))


@pytest.fixture(params=["asyncio", "uvloop", "blocking"])
def play(request: pytest.FixtureRequest) -> Callable[[Callable[[Ask], Awaitable[None]]], None]:
    """Run a case with a way of calling, on a loop."""

    def run(case: Callable[[Ask], Awaitable[None]]) -> None:
        factory = uvloop.new_event_loop if request.param == "uvloop" else None
        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(case(ask_blocking if request.param == "blocking" else ask_on_loop))  # type: ignore[arg-type]

    return run


@contextlib.asynccontextmanager
async def pair(
    serving: TlsConfig | None, calling: TlsConfig | None, role: str = "client", name: str = "", seen: list | None = None
) -> AsyncIterator[tuple[PeerTransport, str]]:
    """Start a listener and a transport with these certificates."""

    def handler(inbound):
        if seen is not None:
            seen.append(inbound.link.peer)
        echo(inbound)

    node = NodeInfo("server-process", "server", "s1", 3)
    listener = await PeerListener.start("127.0.0.1:0", handler, cluster="c", node_info=node, tls=serving, limits=LIMITS)
    transport = PeerTransport("caller", "c", role, name, tls=calling, limits=LIMITS)
    try:
        yield transport, listener.address
    finally:
        await transport.aclose()
        await listener.aclose()


def test_calls_pass_with_certificates_of_one_authority(play, authority: Authority) -> None:
    """With mutual TLS both sides know the other's proven role and trust each other."""

    async def case(ask: Ask) -> None:
        seen: list[Peer] = []
        async with pair(authority.issue(NAMED), authority.issue(CLIENT), seen=seen) as (transport, address):
            for _ in range(3):
                reply = await ask(transport, address)
                assert (reply.head, len(reply.segments[0])) == (b"hello", 300_000)
            peer = await transport.peer(address, timeout_s=5)
        assert (peer.role, peer.name, peer.trusted) == ("server", "s1", True)
        assert (seen[0].role, seen[0].trusted) == ("client", True)

    play(case)


@pytest.mark.parametrize(
    ("serving", "calling", "role", "wanted"),
    [
        ([SERVER], [CLIENT], "server", "certificate is for a client"),
        ([CLIENT], [CLIENT], "client", "certificate is for a client"),
        (["amino://server/s2"], [CLIENT], "client", "is for the server 's2'"),
        ([SERVER], [], "client", "names no role"),
        ([SERVER], ["https://example.org"], "client", "names no role"),
    ],
    ids=["stated-server", "client-serves", "other-name", "none", "foreign"],
)
def test_a_role_that_the_certificate_does_not_prove_is_refused(
    play, authority: Authority, serving: list, calling: list, role: str, wanted: str
) -> None:
    """Stating a role or name beyond the certificate's is refused with the remedy."""

    async def case(ask: Ask) -> None:
        name = "s9" if role == "server" else ""
        async with pair(authority.issue(*serving), authority.issue(*calling), role, name) as (transport, address):
            with pytest.raises(PermissionDenied, match=wanted):
                await ask(transport, address)

    play(case)


def test_a_certificate_of_another_authority_is_refused(play, authority: Authority, tmp_path: Path) -> None:
    """A certificate that our authority did not sign is refused, naming the remedy, not a time-out."""
    (tmp_path / "other").mkdir()
    other = Authority(tmp_path / "other", "other")

    async def case(ask: Ask) -> None:
        async with pair(authority.issue(SERVER), other.issue(CLIENT)) as (transport, address):
            with pytest.raises((PermissionDenied, NotExecuted), match=r"authority|TLS|certificate"):
                await ask(transport, address)

    play(case)


@pytest.mark.parametrize("plain", ["server", "client"])
def test_tls_on_one_side_only_is_named_as_such(play, authority: Authority, plain: str) -> None:
    """When one side speaks plain text the error says so at once, and is none that repeating could mend."""

    async def case(ask: Ask) -> None:
        serving = None if plain == "server" else authority.issue(SERVER)
        calling = None if plain == "client" else authority.issue(CLIENT)
        async with pair(serving, calling) as (transport, address):
            with pytest.raises(Invalid, match="wants TLS; connect with" if plain == "client" else "does not speak TLS"):
                await ask(transport, address)

    play(case)


def test_a_server_that_hangs_up_without_speaking_tls_may_be_asked_again(play) -> None:
    """One that is being stopped, for example; it may be back in a moment."""

    async def case(ask: Ask) -> None:
        async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(1)
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        transport = PeerTransport("caller", "c", "client", limits=LIMITS)
        host, port = server.sockets[0].getsockname()
        try:
            with pytest.raises(NotExecuted, match="perhaps because it wants TLS"):
                await ask(transport, f"{host}:{port}")
        finally:
            await transport.aclose()
            server.close()
            await server.wait_closed()

    play(case)


@pytest.mark.parametrize(("days", "wanted"), [((-3, -1), "expired"), ((1, 3), "not valid yet")])
def test_ones_own_expired_certificate_shows_at_start(authority: Authority, days: tuple, wanted: str) -> None:
    """A certificate out of its time is refused when the process starts, with the remedy."""
    config = authority.issue(SERVER, days=days)
    for context in (config.server_context, config.client_context):
        with pytest.raises(Invalid, match=wanted) as caught:
            context()
        assert str(config.cert) in caught.value.message


@pytest.mark.parametrize("expired", ["server", "client"])
def test_a_certificate_that_expires_while_running_is_named(
    play, authority: Authority, expired: str, monkeypatch
) -> None:
    """A peer whose certificate expired after its start is refused with an error that says expired."""

    async def case(ask: Ask) -> None:
        serving, calling = authority.issue(SERVER), authority.issue(CLIENT)
        old = authority.issue(SERVER if expired == "server" else CLIENT, days=(-3, -1))
        if expired == "server":
            serving = old
        else:
            calling = old
        async with contextlib.AsyncExitStack() as stack:
            with monkeypatch.context() as patched:
                patched.setattr(TlsConfig, "_prove", lambda *_: None)  # it was valid when the process started
                transport, address = await stack.enter_async_context(pair(serving, calling))
            with pytest.raises(PermissionDenied, match="expired"):
                await ask(transport, address)

    play(case)


def test_unusable_files_are_refused(authority: Authority, tmp_path: Path) -> None:
    """A missing, malformed or mismatched file is named."""
    good, other = authority.issue(SERVER), authority.issue(SERVER)
    junk = tmp_path / "junk.pem"
    junk.write_text("not a certificate")
    for broken in (
        dataclasses.replace(good, ca=tmp_path / "missing.pem"),
        dataclasses.replace(good, ca=junk),
        dataclasses.replace(good, cert=junk),
        dataclasses.replace(good, key=tmp_path / "missing.key"),
        dataclasses.replace(good, key=other.key),
    ):
        with pytest.raises(Invalid, match="cannot be used"):
            broken.server_context()


def test_foreign_authority_of_our_own_certificate_shows_at_start(authority: Authority, tmp_path: Path) -> None:
    """Our own certificate must be signed by the authority we were given."""
    (tmp_path / "other").mkdir()
    config = dataclasses.replace(authority.issue(SERVER), ca=Authority(tmp_path / "other", "other").path)
    with pytest.raises(Invalid, match="authority"):
        config.server_context()


@pytest.mark.parametrize("address", ["0.0.0.0:7400", "10.1.2.3:7400", "[::]:7400", "example.org:7400"])
def test_listening_beyond_loopback_needs_tls(address: str, authority: Authority) -> None:
    """Without TLS an address beyond loopback is refused with both remedies; TLS or ``insecure`` allow it."""
    with pytest.raises(Invalid, match=r"(?s)--tls-cert.*--insecure"):
        check_listen(address, None, insecure=False)
    check_listen(address, None, insecure=True)
    check_listen(address, authority.issue(SERVER), insecure=False)


@pytest.mark.parametrize("address", ["127.0.0.1:0", "127.3.2.1:1", "localhost:0", "[::1]:5", "unix:/run/amino"])
def test_listening_on_loopback_needs_nothing(address: str) -> None:
    """Loopback and Unix sockets may be plain."""
    check_listen(address, None, insecure=False)


def test_only_the_same_host_is_trusted_without_tls() -> None:
    """Pickled objects are exchanged on the same host or with certificates, never by address alone."""
    here = Hello("c", "x", boot_id=boot_id())
    elsewhere = Hello("c", "x", boot_id="another machine")
    look = functools.partial(judge, cluster="c", identity=None)
    assert look(here, loopback=True).trusted
    assert not look(elsewhere, loopback=True).trusted
    assert not look(here, loopback=False).trusted
    assert look(here, loopback=False, insecure=True).trusted
    assert not look(elsewhere, loopback=False, insecure=True).trusted
    assert judge(elsewhere, "c", loopback=False, identity=Identity("client")).trusted


def test_an_unexplained_tls_failure_may_be_retried() -> None:
    """A TLS failure of no known kind is not executed, so the caller may retry."""
    error: AminoError = explain(ssl.SSLError(1, "something odd"), "peer x")
    assert isinstance(error, NotExecuted)
    assert error.reason == "unreachable"
