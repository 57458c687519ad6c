"""Who may look and who may act."""

import pytest

from amino.aio.clock import RealClock
from amino.dashboard.access import Access
from amino.dashboard.http import Request
from amino.dashboard.site import Dashboard, Opening
from amino.errors import Invalid
from tests.dashboard.conftest import TOKEN, Asker

MOVE = b'{"action": "move", "microservice": "x"}'


def request(path="/api/stream", scheme="http", **headers):
    """Return a request with these headers."""
    lines = {"host": "127.0.0.1:80", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return Request("GET", path, lines, scheme=scheme)


def test_beyond_loopback_a_token_is_needed():
    """A port that others can reach is not opened without a token, and shows nothing without it."""
    with pytest.raises(Invalid, match="token"):
        Access.of("0.0.0.0:80", "")
    access = Access.of("0.0.0.0:80", TOKEN)
    assert access.refuses_look(request(host="far.example")).status == 401
    assert access.refuses_look(request(host="far.example", authorization=f"Bearer {TOKEN}")) is None
    assert access.refuses_look(request(authorization="Bearer wrong")).status == 401


def test_a_token_that_can_be_guessed_is_refused():
    """A short token, and one that cannot travel in a header, are refused at start."""
    for token in ("short", "with a space in the middle", "ä" * 20):
        with pytest.raises(Invalid, match="16 or more ASCII"):
            Access.of("127.0.0.1:80", token)


def test_on_loopback_only_loopback_names_are_answered():
    """A web page that lets its own name point at this machine reads nothing (DNS rebinding)."""
    access = Access.of("127.0.0.1:80", "")
    assert access.refuses(request(host="evil.example")).status == 421
    for host in ("localhost:80", "127.0.0.1", "[::1]:80"):
        assert access.refuses(request(host=host)) is None
    assert access.refuses(Request("GET", "/api/stream", {})).status == 421


def test_other_sites_are_refused():
    """What a browser sends for a page of another site is refused, by either of the headers that say so."""
    access = Access.of("127.0.0.1:80", TOKEN)
    assert access.refuses(request(origin="http://evil.example")).status == 403
    assert access.refuses(request(sec_fetch_site="cross-site")).status == 403
    assert access.refuses(request(origin="https://127.0.0.1:80")).status == 403
    assert access.refuses(request(origin="http://127.0.0.1:80", sec_fetch_site="same-origin")) is None


def test_nothing_shows_the_token():
    """Neither the rules nor how the port was opened show the token when printed."""
    assert TOKEN not in repr(Access.of("127.0.0.1:80", TOKEN))
    assert TOKEN not in repr(Opening("127.0.0.1:80", TOKEN))


async def test_plain_http_beyond_loopback_is_refused():
    """Without TLS only loopback is listened on, unless the operator insists."""
    with pytest.raises(Invalid, match="without TLS"):
        await Dashboard.open(Opening("0.0.0.0:0", TOKEN), RealClock())
    insisted = await Dashboard.open(Opening("0.0.0.0:0", TOKEN, insecure=True), RealClock())
    await insisted.aclose()


async def test_actions_need_the_token(asker, cluster):
    """Without the token, or with another, nothing is done; it does not count in a cookie."""
    for headers in (
        {"Authorization": ""}, {"Authorization": "Bearer wrong-wrong-wrong-wrong"}, {"Authorization": TOKEN},
        {"Authorization": "", "Cookie": f"token={TOKEN}"},
    ):  # fmt: skip
        answer = await asker.act(MOVE, **headers)
        assert answer.status == 401, headers
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert not cluster.asked


async def test_a_form_of_another_page_does_nothing(asker, cluster):
    """What a form can send, and what another origin sends, is refused even with the token."""
    assert (await asker.act(MOVE, Content_Type="text/plain")).status == 415
    assert (await asker.act(MOVE, Origin="http://evil.example")).status == 403
    assert (await asker.ask("GET", "/api/actions", Authorization=f"Bearer {TOKEN}")).status == 405
    assert not cluster.asked


async def test_without_a_token_nobody_acts(cluster):
    """A dashboard that was given no token shows, and refuses each action."""
    shows = await Dashboard.open(Opening("127.0.0.1:0"), RealClock())
    shows.show(cluster)
    try:
        answer = await Asker(shows).act(MOVE, Authorization="Bearer ")
    finally:
        await shows.aclose()
    assert answer.status == 403
    assert "AMINO_DASHBOARD_TOKEN" in answer.json["error"]
    assert not cluster.asked
