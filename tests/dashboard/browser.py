"""A headless Chromium, driven by its DevTools protocol over a pipe: no library, no port.

Owns the process and one page. Leaves what to look for to the tests.
Invariant: the browser has a profile of its own in a temporary folder and is ended with the test, whatever happens.
Failure behaviour: an error of the page's script fails the call that met it, with its text.
"""

from __future__ import annotations

import asyncio
import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

PATIENCE_S = 60.0
PROGRAMS = ("chromium", "chromium-browser", "google-chrome")


def find_browser() -> str | None:
    """Return the browser's program, None if this machine has none."""
    return next((found for name in PROGRAMS if (found := shutil.which(name))), None)


class Page:
    """The one page. Made by ``browsing``."""

    def __init__(self, reader: asyncio.StreamReader, pipe: int) -> None:
        self._reader = reader
        self._pipe = pipe
        self._number = 0
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session = ""
        self.problems: list[str] = []
        self.asked: list[str] = []

    async def open(self) -> None:
        target = (await self.send("Target.createTarget", url="about:blank"))["targetId"]
        self._session = (await self.send("Target.attachToTarget", targetId=target, flatten=True))["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            await self.send(f"{domain}.enable")

    async def send(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command; returns its result."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        answer = self._answers[self._number] = asyncio.get_running_loop().create_future()
        data = json.dumps(message).encode() + b"\0"
        await asyncio.to_thread(_write_all, self._pipe, data)
        async with asyncio.timeout(PATIENCE_S):
            told = await answer
        assert "error" not in told, f"{method}: {told.get('error')}"
        result: dict[str, Any] = told["result"]
        return result

    async def listen(self) -> None:
        while data := await _message(self._reader):
            told = json.loads(data)
            if "id" in told:
                self._answers.pop(told["id"]).set_result(told)
            elif told["method"] == "Runtime.exceptionThrown":
                details = told["params"]["exceptionDetails"]
                self.problems.append(details.get("exception", {}).get("description") or details["text"])
            elif told["method"] == "Log.entryAdded" and told["params"]["entry"]["level"] == "error":
                self.problems.append(told["params"]["entry"]["text"])
            elif told["method"] == "Network.requestWillBeSent":
                self.asked.append(told["params"]["request"]["url"])

    async def go(
        self, url: str, *, width: int = 1440, height: int = 900, scheme: str = "light", still: bool = False
    ) -> None:
        """Open ``url`` in a window of that size."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        if still:
            features.append({"name": "prefers-reduced-motion", "value": "reduce"})
        await self.send("Emulation.setEmulatedMedia", features=features)
        await self.send("Page.navigate", url=url)
        await self.until("document.readyState === 'complete' && document.getElementById('health') !== null")

    async def ask(self, script: str) -> Any:
        """Evaluate a script's expression; returns its value."""
        told = await self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    async def until(self, script: str) -> Any:
        """Wait until the expression is true; returns its value."""
        script = (
            f"(found => found instanceof Node ? true : found)({script})"  # an element has no value outside the page
        )
        async with asyncio.timeout(PATIENCE_S):
            while not (value := await self.ask(script)):  # noqa: ASYNC110 - the page has no event for it
                await asyncio.sleep(0.05)
        return value

    async def press(self, key: str, text: str = "") -> None:
        """Press and let go a key."""
        codes = {"ArrowDown": 40, "ArrowUp": 38, "ArrowRight": 39, "ArrowLeft": 37, "Enter": 13, "Escape": 27, "Tab": 9}
        common = {"key": key, "code": key, "windowsVirtualKeyCode": codes.get(key, ord(key[0].upper()))}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def picture(self, file: Path) -> None:
        """Store a picture of the page."""
        data = (await self.send("Page.captureScreenshot", format="png"))["data"]
        await asyncio.to_thread(file.write_bytes, base64.b64decode(data))


@asynccontextmanager
async def browsing() -> AsyncIterator[Page]:
    """Start a browser and yield its page; at the end the process is gone."""
    program = find_browser()
    assert program is not None, "no browser; tests ask find_browser first"
    profile = Path(tempfile.mkdtemp(prefix="amino-browser-"))
    theirs_in, ours_out = os.pipe()
    ours_in, theirs_out = os.pipe()
    number = await asyncio.to_thread(_spawn, program, profile, theirs_in, theirs_out)
    reader = asyncio.StreamReader(limit=1 << 26)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(ours_in, "rb", 0)
    )
    page = Page(reader, ours_out)
    listening = asyncio.ensure_future(page.listen())
    try:
        await page.open()
        yield page
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        transport.close()
        os.close(ours_out)
        os.killpg(number, signal.SIGKILL)  # a session of its own: its helpers end with it
        await asyncio.to_thread(os.waitpid, number, 0)
        await asyncio.to_thread(shutil.rmtree, profile, ignore_errors=True)


def _spawn(program: str, profile: Path, read: int, write: int) -> int:
    """Start the browser with its pipe at the descriptors 3 and 4, where it looks for it; returns its process id."""
    ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 16) for end in (read, write)]
    os.close(read)
    os.close(write)
    silent = os.open(os.devnull, os.O_RDWR)
    arguments = [
        program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--remote-debugging-pipe",
        f"--user-data-dir={profile}",
    ]  # fmt: skip
    places = [(ends[0], 3), (ends[1], 4), (silent, 0), (silent, 1), (silent, 2)]
    try:
        return os.posix_spawn(
            program,
            arguments,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_DUP2, end, place) for end, place in places],
            setsid=True,
        )
    finally:
        for end in (*ends, silent):
            os.close(end)


async def _message(reader: asyncio.StreamReader) -> bytes:
    try:
        return (await reader.readuntil(b"\0"))[:-1]
    except asyncio.IncompleteReadError:
        return b""


def _write_all(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]
