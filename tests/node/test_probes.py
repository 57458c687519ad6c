"""Probes of a real supervisor: what each answers while a server starts, loses its kernel process, drains and ends."""

import asyncio
import os
import re
import signal

import pytest

from tests.node.test_supervisor import make, store, until

__all__ = ["make", "store"]
pytestmark = pytest.mark.real


async def _answers(server):
    """Return what the three questions are answered now: status by path."""
    [(host, port)] = set(re.findall(r"probes are answered at ([\d.]+):(\d+)", server.log.read_text()))
    found = {}
    for path in ("/startupz", "/livez", "/readyz"):
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"GET {path} HTTP/1.1\r\n\r\n".encode())
        found[path] = int((await reader.read()).split()[1])
        writer.close()
        await writer.wait_closed()
    return found


async def test_probes_tell_a_start_a_restart_and_a_drain_apart(make):
    """Ready only while it serves; started once and for all; alive from the first moment, kernel process or not."""
    server = await make(health_listen="127.0.0.1:0", labels={"drain": "never"}).start()
    record, first = await server.serving()
    serving = {"/startupz": 200, "/livez": 200, "/readyz": 200}

    async def serves():
        return await _answers(server) == serving

    await until(serves, 60.0)
    os.kill(record.pid, signal.SIGSTOP)  # its successor comes when it has been killed, after the TTL
    await server.serving(first, timeout_s=60.0)
    await until(serves, 60.0)
    server.process.send_signal(signal.SIGTERM)

    async def drains():
        return await _answers(server) == {**serving, "/readyz": 503}

    await until(drains, 60.0)
    assert await server.end(timeout_s=60.0) == 0


async def test_without_etcd_a_server_lives_and_has_not_started(make):
    """Nothing to serve yet is no reason to be killed: alive, not started, not ready."""
    server = make(health_listen="127.0.0.1:0")
    server.config = type(server.config)(
        **{
            **{field: getattr(server.config, field) for field in server.config.__struct_fields__},
            "etcd": type(server.config.etcd)(endpoints=("127.0.0.1:1",)),
        }
    )
    await server.start()

    def listens():
        return "probes are answered" in server.log.read_text()

    await until(listens, 60.0)
    assert await _answers(server) == {"/startupz": 503, "/livez": 200, "/readyz": 503}
    assert await server.end(timeout_s=60.0) == 0
