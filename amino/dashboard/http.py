"""As much of HTTP/1.1 as a page of ours needs, over the standard library's streams.

Owns reading a request within bounds, answering it, and streams of server-sent events. Leaves what is answered to ``site``.
Invariants: a request line, headers and body are bounded in bytes and time, connections in number; a connection carries one request;
every answer has the headers that keep a browser from loading anything from elsewhere or being framed.
Failure behaviour: what cannot be understood is answered 400 or cut off; nothing from outside ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote

from amino.errors import Invalid
from amino.rpc.address import format_address, parse_address

_log = logging.getLogger("amino.dashboard")
HEAD_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 64 * 1024
CONNECTIONS_MAX = 128
ASK_S = 10.0
SEND_S = 20.0
_REASONS = {
    200: "OK", 204: "No Content", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
    405: "Method Not Allowed", 409: "Conflict", 413: "Content Too Large", 415: "Unsupported Media Type",
    421: "Misdirected Request", 500: "Internal Server Error", 503: "Service Unavailable", 504: "Gateway Timeout",
}  # fmt: skip
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


@dataclass(frozen=True, slots=True)
class Request:
    """One request. ``headers``: names in lower case. ``scheme``: ``http`` or ``https``."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    scheme: str = "http"
    peer: str = ""


@dataclass(frozen=True, slots=True)
class Response:
    """One answer. ``stream``: what is sent after ``body``, piece by piece, until the asker goes."""

    status: int = 200
    kind: str = "application/json"
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    stream: AsyncGenerator[bytes, None] | None = None


Handler = Callable[[Request], Awaitable[Response]]


class HttpPort:
    """A port; made by ``open``, on the loop that answers."""

    def __init__(self, handler: Handler, scheme: str) -> None:
        self._handler = handler
        self._scheme = scheme
        self._open: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self.address = ""

    def __repr__(self) -> str:
        return f"HttpPort({self._scheme}://{self.address})"

    @classmethod
    async def open(cls, address: str, handler: Handler, context: ssl.SSLContext | None = None) -> Self:
        """Listen on ``address`` (``host:port``, port 0 takes a free one).

        Raises:
            Invalid: the address is malformed, taken, or not this machine's.
        """
        endpoint = parse_address(address)
        self = cls(handler, "https" if context is not None else "http")
        try:
            server = await asyncio.start_server(
                self._accepted, endpoint.host, endpoint.port, limit=HEAD_BYTES_MAX, ssl=context
            )
        except OSError as error:
            raise Invalid(
                f"the dashboard cannot listen on {address!r}: {error.strerror or error}; choose another address"
            ) from error
        self._server = server
        self.address = format_address(endpoint.host, server.sockets[0].getsockname()[1])
        return self

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"{self._scheme}://{self.address}/"

    async def aclose(self) -> None:
        """Stop listening and cut off whoever is connected. Idempotent."""
        if self._server is None:
            return
        server, self._server = self._server, None
        server.close()
        for task, writer in list(self._open.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)
        await server.wait_closed()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if len(self._open) >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._open[task] = writer
        try:
            await self._converse(reader, writer)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no request, or nobody left to hear the answer
        except asyncio.CancelledError:
            if self._server is not None:  # not ours
                raise
        except Exception:  # noqa: BLE001 - as above, in the middle of a stream
            _log.exception("a request to the dashboard failed")
        finally:
            del self._open[task]
            writer.close()
            with contextlib.suppress(OSError, TimeoutError, asyncio.CancelledError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(ASK_S):
            request = await self._read(reader, writer)
        if isinstance(request, Response):
            response = request
        else:
            try:
                response = await self._handler(request)
            except Exception:  # noqa: BLE001 - a bug of ours: this asker is told, the others go on
                _log.exception("%s %s at the dashboard failed", request.method, request.path)
                response = problem(500, "the dashboard failed; the server's log says how")
        writer.write(_head(response))
        if not isinstance(request, Request) or request.method != "HEAD":
            writer.write(response.body)
        await self._drain(writer)
        if response.stream is not None:
            async with contextlib.aclosing(response.stream) as pieces:
                async for piece in pieces:
                    writer.write(piece)
                    await self._drain(writer)
                    if reader.at_eof():
                        return

    async def _drain(self, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(SEND_S):
            await writer.drain()

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | Response:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        first, *lines = head.split("\r\n")[:-2]
        parts = first.split(" ")
        if len(parts) != 3 or not parts[2].startswith("HTTP/1.") or not parts[1].startswith("/"):
            return problem(400, "this is no HTTP/1.1 request for a path")
        headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            name = name.lower()
            if not colon or name != name.strip() or not name or name in headers:
                return problem(400, f"the header {name[:40]!r} is malformed, or there twice")
            headers[name] = value.strip()
        if "transfer-encoding" in headers:
            return problem(400, "send the body with its Content-Length")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            return problem(400, "Content-Length is no number")
        if int(length) > BODY_BYTES_MAX:
            return problem(413, f"the body may have {BODY_BYTES_MAX} bytes")
        body = await reader.readexactly(int(length))
        peer = writer.get_extra_info("peername")
        path = unquote(parts[1].partition("?")[0].partition("#")[0])
        return Request(parts[0], path, headers, body, self._scheme, str(peer[0]) if peer else "")


def problem(status: int, why: str) -> Response:
    """Return the answer that says what is wrong."""
    import json

    return Response(status, body=json.dumps({"error": why}).encode())


def _head(response: Response) -> bytes:
    headers = {
        "Content-Type": response.kind,
        **({} if response.stream is not None else {"Content-Length": str(len(response.body))}),
        **SECURITY_HEADERS,
        **response.headers,
        "Connection": "close",
    }
    lines = [f"HTTP/1.1 {response.status} {_REASONS[response.status]}", *(f"{k}: {v}" for k, v in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
