"""Probes: three questions, what each means, and a port that nobody can harm a server by."""

import asyncio

import pytest

from amino.errors import Invalid
from amino.node import health
from amino.node.health import LIVE, READY, STARTUP, Condition, HealthPort, verdict

SERVING = Condition("serving", has_served=True, serves=True, session_s=2.5)


@pytest.mark.parametrize(
    ("condition", "startup", "ready"),
    [
        (Condition("waiting for etcd"), False, False),
        (Condition("starting"), False, False),
        (SERVING, True, True),
        (Condition("serving", has_served=True, serves=True, session_s=-0.1), True, False),
        (Condition("down", has_served=True), True, False),
        (Condition("draining", has_served=True, session_s=2.0), True, False),
    ],
)
def test_the_three_questions_differ(condition, startup, ready):
    """Started once, alive, takes calls now: neither etcd nor the kernel process decides whether the supervisor lives."""
    answers = {path: verdict(path, condition) for path in (STARTUP, LIVE, READY)}
    assert {path: answer[0] for path, answer in answers.items()} == {STARTUP: startup, LIVE: True, READY: ready}
    assert all(answer[1] for answer in answers.values())


def test_what_is_not_ready_says_why():
    """The reason names the phase, or the session."""
    assert verdict(READY, Condition("draining", has_served=True)) == (False, "not serving: draining")
    assert verdict(READY, Condition("serving", serves=True))[1] == "not serving: the session is not proved valid"
    assert verdict("/metrics", SERVING) is None


async def ask(port, request):
    """Send ``request`` as it is; return all that is answered, up to the end of the connection."""
    host, _, number = port.address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(number))
    try:
        writer.write(request)
        return await reader.read()
    finally:
        writer.close()
        await writer.wait_closed()


async def test_probes_are_answered_over_http():
    """200 or 503 with one line of text; the answer follows the condition at the moment of asking."""
    now = [Condition("starting")]
    port = await HealthPort.open("127.0.0.1:0", lambda: now[0])
    try:
        head, _, body = (await ask(port, b"GET /readyz HTTP/1.1\r\nHost: x\r\n\r\n")).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert body == b"not serving: starting\n"
        assert f"Content-Length: {len(body)}".encode() in head
        now[0] = SERVING
        assert (await ask(port, b"GET /readyz?verbose=1 HTTP/1.0\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await ask(port, b"HEAD /livez HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert b" 404 " in await ask(port, b"GET / HTTP/1.1\r\n\r\n")
        assert b" 405 " in await ask(port, b"POST /readyz HTTP/1.1\r\n\r\n")
    finally:
        await port.aclose()
        await port.aclose()


@pytest.mark.parametrize(
    "noise", [b"", b"\xff\x00" * 100 + b"\r\n\r\n", b"GET " + b"a" * 100_000, b"GET /readyz HTTP/1.1\r\n"]
)
async def test_noise_harms_nobody(noise):
    """Whatever is sent, cut off or endless, the next question is answered."""
    port = await HealthPort.open("127.0.0.1:0", lambda: SERVING)
    try:
        host, _, number = port.address.rpartition(":")
        _, writer = await asyncio.open_connection(host, int(number))
        writer.write(noise)
        writer.write_eof()
        assert b" 200 OK" in await ask(port, b"GET /readyz HTTP/1.1\r\n\r\n")
        writer.close()
    finally:
        await port.aclose()


async def test_askers_are_bounded_and_cut_off(monkeypatch):
    """Beyond the bound a connection is closed at once; one that asks nothing is closed after a while."""
    monkeypatch.setattr(health, "ASKERS_MAX", 1)
    port = await HealthPort.open("127.0.0.1:0", lambda: SERVING)
    try:
        host, _, number = port.address.rpartition(":")
        silent_reader, silent = await asyncio.open_connection(host, int(number))
        assert await ask(port, b"") == b""
        await port.aclose()
        assert await silent_reader.read() == b""
        silent.close()
        monkeypatch.setattr(health, "ASK_S", 0.01)
        port = await HealthPort.open("127.0.0.1:0", lambda: SERVING)
        assert await ask(port, b"") == b""
    finally:
        await port.aclose()


async def test_a_port_that_cannot_be_had_is_named():
    """A taken port is refused with the field and the way out."""
    port = await HealthPort.open("127.0.0.1:0", lambda: SERVING)
    try:
        with pytest.raises(Invalid, match=r"health_listen='127\.0\.0\.1:\d+' cannot be listened on"):
            await HealthPort.open(port.address, lambda: SERVING)
    finally:
        await port.aclose()
