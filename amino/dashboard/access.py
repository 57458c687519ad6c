"""Who may look and who may act: pure, from a request's headers.

Owns the rules. Leaves answering to ``site``.
Invariants: a token is compared in constant time and travels in a header that only our own page can set, never in a cookie or an
address, so no other page can act in an operator's name; without a token nobody acts; beyond loopback nobody even looks without it; on
loopback a request must name a loopback host, so a page of the web that points its own name at this machine reads nothing.
Failure behaviour: a refusal says what is missing, not what would have been right.
"""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from amino.dashboard.http import Request, Response, problem
from amino.errors import Invalid
from amino.rpc.address import is_loopback, parse_address

TOKEN_LENGTH_MIN = 16


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """The rules of one port.

    Args:
        token: what lets one act; empty: nobody can.
        local: whether only processes of this machine can reach the port.
    """

    token: str
    local: bool

    @classmethod
    def of(cls, listen: str, token: str) -> Access:
        """Return the rules for a port that listens on ``listen``.

        Raises:
            Invalid: a token that can be guessed, or none though other machines can reach the port.
        """
        local = parse_address(listen).is_loopback
        if token and (len(token) < TOKEN_LENGTH_MIN or not token.isascii() or any(c.isspace() for c in token)):
            raise Invalid(
                f"the dashboard's token has to have {TOKEN_LENGTH_MIN} or more ASCII characters without spaces"
            )
        if not token and not local:
            raise Invalid(
                f"the dashboard on {listen!r} can be reached from other machines; give it a token "
                "(AMINO_DASHBOARD_TOKEN), or have it listen on 127.0.0.1"
            )
        return cls(token, local)

    def refuses_host(self, request: Request) -> Response | None:
        """Return the refusal of a request that names another host than this may be, None if it may be answered."""
        host = request.headers.get("host", "")
        if not host or (self.local and not is_loopback(_host(host))):
            return problem(421, "ask by this machine's loopback name: localhost, 127.0.0.1 or [::1]")
        return None

    def refuses(self, request: Request) -> Response | None:
        """Return the refusal of a request for data that comes from where it must not, None if it may be answered."""
        refusal = self.refuses_host(request)
        if refusal is not None:
            return refusal
        if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
            return problem(403, "only the dashboard's own page may ask this")
        origin = request.headers.get("origin")
        if origin is not None and origin != f"{request.scheme}://{request.headers['host']}":
            return problem(403, "only the dashboard's own page may ask this")
        return None

    def refuses_look(self, request: Request) -> Response | None:
        """Return the refusal of one who may not look, None if he may."""
        if self.local or self._has_token(request):
            return None
        return self._asks_for_token()

    def refuses_act(self, request: Request) -> Response | None:
        """Return the refusal of one who may not act, None if he may."""
        if not self.token:
            return problem(403, "this dashboard only shows; start the server with AMINO_DASHBOARD_TOKEN to act here")
        return None if self._has_token(request) else self._asks_for_token()

    def _has_token(self, request: Request) -> bool:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        return bool(self.token) and scheme == "Bearer" and hmac.compare_digest(given.encode(), self.token.encode())

    def _asks_for_token(self) -> Response:
        refusal = problem(401, "give the dashboard's token")
        refusal.headers["WWW-Authenticate"] = "Bearer"
        return refusal


def _host(header: str) -> str:
    """Return the host of a Host header, without its port."""
    if header.startswith("["):
        return header[1:].partition("]")[0]
    return header.partition(":")[0]
