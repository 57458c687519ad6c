"""An open dashboard that shows a made-up cluster, and asking it over its port."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest

from amino.aio.clock import RealClock
from amino.dashboard.site import Dashboard, Opening
from tests.dashboard.made_up import MadeUp

TOKEN = "a-token-of-some-length"
PATIENCE_S = 60.0


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Asker:
    """Speaks HTTP to one dashboard."""

    def __init__(self, dashboard: Dashboard) -> None:
        self.host = dashboard.url.split("/")[2]

    async def raw(self, data: bytes) -> bytes:
        """Send bytes, return all that comes until the other side closes."""
        reader, writer = await asyncio.open_connection(*self.host.rsplit(":", 1))
        try:
            writer.write(data)
            await writer.drain()
            async with asyncio.timeout(PATIENCE_S):
                return await reader.read()
        finally:
            writer.close()
            await writer.wait_closed()

    async def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Send a request; header names have ``_`` for ``-``."""
        told = await self.raw(self.request(method, path, body, **headers))
        head, _, content = told.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        return Answer(int(first.split()[1]), dict(line.split(": ", 1) for line in lines), content)

    async def act(self, body: bytes, **headers: str) -> Answer:
        """Ask for an action with the right token, unless told otherwise."""
        given = {"Authorization": f"Bearer {TOKEN}", "Content_Type": "application/json", **headers}
        return await self.ask("POST", "/api/actions", body, **given)

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
        lines = {"Host": self.host, "Content_Length": str(len(body)), **headers}
        text = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{k.replace('_', '-')}: {v}\r\n" for k, v in lines.items())
        return text.encode() + b"\r\n" + body


class Looker:
    """Reads the live stream."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.rows: dict[str, Any] = {}
        self.events: list[Any] = []
        self.members: Any = None

    @classmethod
    async def open(cls, asker: Asker, **headers: str) -> Looker:
        self = cls(*await asyncio.open_connection(*asker.host.rsplit(":", 1), limit=1 << 24))
        self.writer.write(asker.request("GET", "/api/stream", **headers))
        head = await self.reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        return self

    async def next(self) -> tuple[str, Any]:
        """Return the next message."""
        async with asyncio.timeout(PATIENCE_S):
            text = (await self.reader.readuntil(b"\n\n")).decode()
        kind, data = text.split("\n")[:2]
        kind, told = kind.removeprefix("event: "), json.loads(data.removeprefix("data: "))
        if kind == "rows":
            self.rows.update({row["id"]: row for row in told})
        elif kind == "gone":
            for ms_id in told:
                self.rows.pop(ms_id, None)
        elif kind == "events":
            self.events += told
        elif kind == "members":
            self.members = told
        return kind, told

    async def until(self, kind: str) -> Any:
        """Read up to a message of ``kind``; returns its data."""
        while True:
            found, told = await self.next()
            if found == kind:
                return told

    async def aclose(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


@pytest.fixture
async def cluster() -> MadeUp:
    return MadeUp()


@pytest.fixture
async def dashboard(cluster: MadeUp) -> AsyncIterator[Dashboard]:
    opened = await Dashboard.open(Opening("127.0.0.1:0", TOKEN), RealClock())
    opened.show(cluster)
    yield opened
    await opened.aclose()


@pytest.fixture
def asker(dashboard: Dashboard) -> Asker:
    return Asker(dashboard)
