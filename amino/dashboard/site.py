"""The dashboard as a whole: its pages, its questions and its actions, at one port of a kernel server.

Owns what is answered at which path, and opening and closing the port. Leaves the live picture to ``board``, permission to ``access``
and HTTP to ``http``.
Invariants: the page's files are read once, from the package; nothing of the cluster is answered before ``show``; actions are logged
with who asked.
Failure behaviour: errors of the cluster are answered as JSON with their own words; ``open`` raises ``Invalid`` for a port or token
that cannot be.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from dataclasses import dataclass
from importlib import resources
from typing import Self

import msgspec

from amino.aio.clock import Clock
from amino.dashboard import actions, rows
from amino.dashboard.access import Access
from amino.dashboard.board import Board
from amino.dashboard.http import HttpPort, Request, Response, problem
from amino.dashboard.ports import Source
from amino.errors import (
    AlreadyExists,
    AminoError,
    Conflict,
    Invalid,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
)
from amino.rpc.address import parse_address

_log = logging.getLogger("amino.dashboard")
_KINDS = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_MICROSERVICES = "/api/microservices/"
_STATUS: dict[type[AminoError], int] = {
    NotFound: 404,
    Invalid: 400,
    PermissionDenied: 403,
    AlreadyExists: 409,
    Conflict: 409,
    NotExecuted: 503,
    OutcomeUnknown: 504,
}


@dataclass(frozen=True, slots=True, repr=False)
class Opening:
    """How a dashboard is opened. ``context``: for HTTPS; None for plain HTTP, which is for loopback or by the operator's will."""

    listen: str
    token: str = ""
    context: ssl.SSLContext | None = None
    insecure: bool = False


class Dashboard:
    """One dashboard; made by ``open``."""

    def __init__(self, access: Access, clock: Clock) -> None:
        self._access = access
        self._clock = clock
        self._pages = _pages()
        self._board: Board | None = None
        self._port: HttpPort | None = None

    def __repr__(self) -> str:
        return f"Dashboard({self.url})"

    @classmethod
    async def open(cls, opening: Opening, clock: Clock) -> Self:
        """Begin to answer; of the cluster only after ``show``.

        Raises:
            Invalid: the port cannot be listened on, the token can be guessed, or others could listen in.
        """
        if opening.context is None and not opening.insecure and not parse_address(opening.listen).is_loopback:
            raise Invalid(
                f"the dashboard on {opening.listen!r} without TLS would show everything, and the token, to the network; "
                "give --tls-ca, --tls-cert and --tls-key, listen on 127.0.0.1, or accept the risk with --insecure"
            )
        self = cls(Access.of(opening.listen, opening.token), clock)
        self._port = await HttpPort.open(opening.listen, self.answer, opening.context)
        _log.info("the dashboard is at %s%s", self._port.url, "" if opening.token else " (it only shows: no token)")
        return self

    @property
    def url(self) -> str:
        """Where the page is; empty once closed."""
        return self._port.url if self._port is not None else ""

    def show(self, source: Source) -> None:
        """Answer from ``source`` from now on."""
        self._board = Board(source, self._clock, actions=bool(self._access.token))

    async def aclose(self) -> None:
        """Stop answering. Idempotent."""
        port, self._port = self._port, None
        if port is not None:
            await port.aclose()
        if self._board is not None:
            await self._board.aclose()

    async def answer(self, request: Request) -> Response:
        """Answer one request."""
        if not request.path.startswith("/api/"):
            return self._access.refuses_host(request) or self._page(request)
        refusal = self._access.refuses(request)
        if refusal is not None:
            return refusal
        if self._board is None:
            return problem(503, "this server does not serve yet")
        try:
            if request.path == "/api/actions":
                return await self._act(request, self._board)
            if request.method != "GET":
                return problem(405, "only GET is answered here")
            return self._access.refuses_look(request) or await self._look(request, self._board)
        except AminoError as error:
            return _failed(error)

    def _page(self, request: Request) -> Response:
        if request.method not in {"GET", "HEAD"}:
            return problem(405, "only GET is answered here")
        found = self._pages.get(request.path)
        return found if found is not None else problem(404, "there is no such page")

    async def _look(self, request: Request, board: Board) -> Response:
        if request.path == "/api/stream":
            if board.full:
                return problem(503, "too many look on already")
            return Response(kind="text/event-stream", headers={"X-Accel-Buffering": "no"}, stream=board.stream())
        if request.path.startswith(_MICROSERVICES):
            ms_id = request.path.removeprefix(_MICROSERVICES)
            description, latency = await asyncio.gather(board.source.describe(ms_id), board.source.observe(ms_id))
            record = msgspec.structs.replace(
                description.record, arguments=b""
            )  # encoded for servers, of no use to people
            groups = {
                path: msgspec.structs.replace(document, coordinator={}) for path, document in description.groups.items()
            }
            shown = msgspec.structs.replace(description, record=record, groups=groups)
            return Response(body=rows.plain({"description": shown, "latency": latency}))
        return problem(404, "there is nothing here")

    async def _act(self, request: Request, board: Board) -> Response:
        if request.method != "POST":
            return problem(405, "actions are asked for by POST")
        refusal = self._access.refuses_act(request)
        if refusal is not None:
            _log.warning("an action was refused to %s: %d", request.peer, refusal.status)
            return refusal
        if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
            return problem(415, "send application/json")
        if not request.body:
            return Response(body=rows.plain({"done": "the token is right"}))
        action = actions.decode(request.body)
        _log.info("%s asks for %r", request.peer, action)
        return Response(body=rows.plain({"done": await actions.carry_out(board.source, action)}))


def _pages() -> dict[str, Response]:
    """Return the page's files by path."""
    pages: dict[str, Response] = {}
    for file in resources.files("amino.dashboard").joinpath("static").iterdir():
        kind = _KINDS.get(file.name[file.name.rfind(".") :])
        if kind is not None:
            pages[f"/{file.name}"] = Response(kind=kind, body=file.read_bytes())
    pages["/"] = pages["/index.html"]
    return pages


def _failed(error: AminoError) -> Response:
    status = next((status for kind, status in _STATUS.items() if isinstance(error, kind)), 500)
    return Response(status, body=rows.plain({"error": str(error), "code": error.code}))
