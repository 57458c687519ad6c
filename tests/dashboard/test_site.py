"""Pages, questions and actions, over the port."""

import asyncio
import contextlib
import re
import ssl

import pytest

from amino.aio.clock import RealClock
from amino.contracts.services import ByName, DrainRequest, MoveRequest, ScaleRequest
from amino.dashboard.http import BODY_BYTES_MAX, HEAD_BYTES_MAX
from amino.dashboard.site import Dashboard, Opening
from amino.errors import Invalid
from tests.dashboard.conftest import PATIENCE_S, TOKEN, Asker
from tests.grpc.certificates import Authority


async def test_the_page_and_its_files_come_from_here(asker):
    """The page is answered with its files; nothing in them names another machine."""
    page = await asker.ask("GET", "/")
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    files = set(re.findall(r'(?:src|href)="([^"#]+)"', page.body.decode()))
    assert {"app.js", "style.css", "icon.svg"} <= files
    for file in (*files, "map.js", "table.js", "detail.js", "store.js", "stream.js", "actions.js"):
        found = await asker.ask("GET", f"/{file}")
        assert found.status == 200, file
        elsewhere = set(re.findall(rb"(?:https?:)?//[a-z][a-z0-9.-]+\.[a-z]{2,}", found.body)) - {b"http://www.w3.org"}
        assert not elsewhere, file
    assert b"<script>" not in page.body
    assert b"style=" not in page.body


async def test_every_answer_keeps_the_browser_at_home(asker):
    """Pages, data and refusals alike forbid other sources, frames, sniffing and caching."""
    for path in ("/", "/app.js", "/api/microservices/none", "/nothing"):
        answer = await asker.ask("GET", path)
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Cache-Control"] == "no-store"


async def test_what_is_not_there(asker):
    """Unknown pages and microservices are not found; no path leads out of the page's folder."""
    for path in (
        "/nothing",
        "/../site.py",
        "/%2e%2e/site.py",
        "/__init__.py",
        "/api/nothing",
        "/api/microservices/none",
    ):
        assert (await asker.ask("GET", path)).status == 404, path
    assert (await asker.ask("PUT", "/")).status == 405
    assert (await asker.ask("DELETE", "/api/stream")).status == 405


async def test_malformed_requests_are_refused(asker):
    """What is no request, too large, or ambiguous is refused or cut off; the port goes on."""
    host = f"Host: {asker.host}\r\n"
    for data, status in (
        (b"hello\r\n\r\n", 400),
        (b"GET http://else/ HTTP/1.1\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\n{host}{host}\r\n".encode(), 400),
        (f"GET / HTTP/1.1\r\n{host}bad header\r\n\r\n".encode(), 400),
        (f"POST /api/actions HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n".encode(), 400),
        (f"POST /api/actions HTTP/1.1\r\n{host}Content-Length: -1\r\n\r\n".encode(), 400),
        (f"POST /api/actions HTTP/1.1\r\n{host}Content-Length: {BODY_BYTES_MAX + 1}\r\n\r\n".encode(), 413),
    ):
        assert (await asker.raw(data)).startswith(f"HTTP/1.1 {status}".encode()), data
    with contextlib.suppress(ConnectionError):  # cut off while it was being sent
        assert await asker.raw(b"GET / HTTP/1.1\r\nX: " + b"x" * (2 * HEAD_BYTES_MAX)) == b""
    assert (await asker.ask("HEAD", "/")).body == b""


async def test_details_of_one(asker, cluster):
    """What a microservice's panel shows is there: chain, reasons, checkpoints, latency; not its constructor's arguments."""
    cluster.fill(5)
    ms_id = cluster.ids()[2]
    told = (await asker.ask("GET", f"/api/microservices/{ms_id}")).json
    assert [dm["name"] for dm in told["description"]["record"]["spec"]["dms"]] == [
        "AtLeastOnceRPC",
        "PeriodicCheckpoint",
    ]
    assert told["description"]["groups"]["/"]["explanation"]["r1"].endswith("those that fit")
    assert told["description"]["checkpoints"][0]["sequence"] == 40
    assert "arguments" not in told["description"]["record"]
    assert told["latency"]["/ r1"]["p99_ms"] == pytest.approx(2.9)


async def test_actions_are_carried_out(asker, cluster):
    """Each action ends in the registry as its command would, and says what was done."""
    cluster.fill(5)
    ms_id = cluster.ids()[2]
    for body, asked, words in (
        (f'{{"action": "move", "microservice": "{ms_id}", "server": "s2"}}', MoveRequest, "moved to s2"),
        (f'{{"action": "checkpoint", "microservice": "{ms_id}"}}', ByName, "checkpoint 41 is stored"),
        (f'{{"action": "scale", "microservice": "{ms_id}", "replicas": 5}}', ScaleRequest, "5 replicas wanted"),
        ('{"action": "drain", "server": "s1"}', DrainRequest, "3 moved, 0 left"),
    ):
        answer = await asker.act(body.encode())
        assert (answer.status, answer.json["done"]) == (200, words)
        assert isinstance(cluster.asked[-1], asked)
    assert cluster.groups(ms_id)["/"].replicas[0].server == "s2"
    assert (await asker.act(b'{"action": "pause", "paused": true}')).status == 200
    assert cluster.paused


async def test_refused_actions_say_why(asker):
    """What is no action is invalid, what does not exist is not found."""
    for body in (b'{"action": "explode"}', b"[]", b"{", b'{"action": "move", "microservice": "x", "extra": 1}'):
        assert (await asker.act(body)).status == 400, body
    assert (await asker.act(b'{"action": "scale", "microservice": "x"}')).json["error"].startswith("shards=0")
    gone = await asker.act(b'{"action": "move", "microservice": "x"}')
    assert (gone.status, gone.json["code"]) == (404, "not-found")


async def test_before_it_serves():
    """The page is there before the server serves; data is not yet."""
    opened = await Dashboard.open(Opening("127.0.0.1:0"), RealClock())
    asker = Asker(opened)
    try:
        assert (await asker.ask("GET", "/")).status == 200
        assert (await asker.ask("GET", "/api/stream")).status == 503
        with pytest.raises(Invalid, match="cannot listen"):
            await Dashboard.open(Opening(asker.host), RealClock())
    finally:
        await opened.aclose()
    await opened.aclose()


async def test_with_tls_it_is_https_and_browsers_need_no_certificate(tmp_path, cluster):
    """With the server's certificate the page is at https, for whoever trusts the authority; plain HTTP gets nothing."""
    files = Authority(tmp_path).issue("s1", "amino://server/s1")
    opened = await Dashboard.open(Opening("127.0.0.1:0", TOKEN, files.browser_context()), RealClock())
    opened.show(cluster)
    try:
        assert opened.url.startswith("https://127.0.0.1:")
        host = opened.url.split("/")[2]
        reader, writer = await asyncio.open_connection(
            *host.rsplit(":", 1), ssl=ssl.create_default_context(cafile=str(files.ca))
        )
        headers = f"Host: {host}\r\nOrigin: https://{host}\r\nAuthorization: Bearer {TOKEN}\r\n"
        head = f"POST /api/actions HTTP/1.1\r\n{headers}Content-Type: application/json\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        async with asyncio.timeout(PATIENCE_S):
            assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
        writer.close()
        await writer.wait_closed()
        with contextlib.suppress(ConnectionError):
            assert not (await Asker(opened).raw(b"GET / HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 200")
    finally:
        await opened.aclose()
