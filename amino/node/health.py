"""What probes are told of a server: one small HTTP port of the supervisor, three questions with three meanings.

Owns the questions, what answers them (``verdict``, pure) and the port. Leaves knowing the server's state to the supervisor.
Invariants: each answer is one line of text and tells nothing but that state, so the port may be open where calls need TLS; it is
answered by the supervisor's own loop, so no user code and no etcd can hold it up; whoever asks is cut off after ``ASK_S``.
Failure behaviour: a port that cannot be bound is ``Invalid`` at start; later what comes from outside never ends the process.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

from amino.errors import Invalid
from amino.rpc.address import format_address, parse_address

STARTUP, LIVE, READY = "/startupz", "/livez", "/readyz"
ASK_S = 5.0
REQUEST_BYTES_MAX = 8192
ASKERS_MAX = 64


@dataclass(frozen=True, slots=True)
class Condition:
    """How a server is, as its supervisor knows it.

    Args:
        phase: of the kernel process, for people.
        has_served: some kernel process of this supervisor has served.
        serves: the present one serves, and neither drains nor ends.
        session_s: seconds for which its session is proved valid yet; 0 or less: it is not.
    """

    phase: str
    has_served: bool = False
    serves: bool = False
    session_s: float = 0.0


def verdict(path: str, condition: Condition) -> tuple[bool, str] | None:
    """Answer one question with yes or no and why; None if ``path`` asks for nothing that is known.

    ``/startupz``: has it served once, so that its configuration, etcd, code and ports work? Patience belongs here.
    ``/livez``: does the supervisor run? It starts the kernel process again by itself whenever that dies or hangs, and etcd may be
    away for as long as it likes: neither is a reason to kill the supervisor.
    ``/readyz``: does it take calls now? Not while it starts, drains, or cannot prove its session.
    """
    match path:
        case "/startupz":
            return condition.has_served, "has served" if condition.has_served else f"not yet: {condition.phase}"
        case "/livez":
            return True, "the supervisor runs"
        case "/readyz":
            if not condition.serves:
                return False, f"not serving: {condition.phase}"
            if condition.session_s <= 0:
                return False, "not serving: the session is not proved valid"
            return True, "serving"
    return None


class HealthPort:
    """The port; made by ``open``, on the loop that answers.

    Args:
        look: returns the server's condition; called on the loop, must not wait.
    """

    def __init__(self, look: Callable[[], Condition]) -> None:
        self._look = look
        self._askers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.address = ""

    def __repr__(self) -> str:
        return f"HealthPort({self.address})"

    @classmethod
    async def open(cls, address: str, look: Callable[[], Condition]) -> Self:
        """Listen on ``address`` (``host:port``, port 0 takes a free one).

        Raises:
            Invalid: the address is malformed, taken, or not this machine's.
        """
        endpoint = parse_address(address)
        self = cls(look)
        try:
            server = await asyncio.start_server(self._asked, endpoint.host, endpoint.port, limit=REQUEST_BYTES_MAX)
        except OSError as error:
            raise Invalid(
                f"health_listen={address!r} cannot be listened on: {error.strerror or error}; choose another address"
            ) from error
        self._server = server
        self.address = format_address(endpoint.host, server.sockets[0].getsockname()[1])
        return self

    async def aclose(self) -> None:
        """Stop listening and cut off whoever asks. Idempotent."""
        if self._server is not None:
            server, self._server = self._server, None
            server.close()
            for asker in self._askers:
                asker.transport.abort()
            await server.wait_closed()

    async def _asked(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._askers.add(writer)
        try:
            if len(self._askers) <= ASKERS_MAX:
                async with asyncio.timeout(ASK_S):
                    writer.write(self._answer(await reader.readuntil(b"\r\n\r\n")))
                    await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # no question, or nobody left to hear the answer
        finally:
            self._askers.discard(writer)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _answer(self, request: bytes) -> bytes:
        method, _, rest = request.split(b"\r\n", 1)[0].partition(b" ")
        path = rest.partition(b" ")[0].partition(b"?")[0].decode("ascii", "replace")
        if method not in {b"GET", b"HEAD"}:
            return _response("405 Method Not Allowed", "only GET is answered", head=False)
        found = verdict(path, self._look())
        if found is None:
            return _response("404 Not Found", f"ask {STARTUP}, {LIVE} or {READY}", head=method == b"HEAD")
        good, why = found
        return _response("200 OK" if good else "503 Service Unavailable", why, head=method == b"HEAD")


def _response(status: str, text: str, *, head: bool) -> bytes:
    body = f"{text}\n".encode()
    lines = (
        f"HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return lines.encode() + (b"" if head else body)
