"""The report in a real browser: headless Chromium, found on the path."""

from __future__ import annotations

import shutil
import subprocess
import zlib

import pytest

from chaos.report import write
from tests.chaos.report.records import record

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def browse(folder, path, *options):
    """Open a page without a screen and without a network; return what the browser prints."""
    browser = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    assert browser is not None, f"none of {', '.join(BROWSERS)} is on the path; install Debian's chromium"
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--hide-scrollbars",
        "--host-resolver-rules=MAP * ~NOTFOUND", f"--user-data-dir={folder / 'profile'}", "--window-size=1280,2400", *options,
        path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, timeout=90, check=True)
    return done.stdout.decode()


def test_its_script_runs(tmp_path):
    """The page's own script has made a box for the pointer on each timeline, so it ran to its end."""
    path = write(record(good=False), tmp_path)["html"]
    shown = browse(tmp_path, path, "--dump-dom")
    assert shown.count('class="reading-box"') == 3
    assert "FAILED" in shown


def test_it_can_be_seen(tmp_path):
    """A screenshot has many different rows of pixels: pictures and words, not an empty page."""
    path = write(record(good=False), tmp_path)["html"]
    browse(tmp_path, path, f"--screenshot={tmp_path / 'page.png'}")
    assert len(set(rows((tmp_path / "page.png").read_bytes()))) > 400


def rows(png):
    """Return the rows of a PNG picture, as they are stored."""
    place, data, height = 8, b"", 0
    while place < len(png):
        size, kind = int.from_bytes(png[place : place + 4]), png[place + 4 : place + 8]
        chunk = png[place + 8 : place + 8 + size]
        if kind == b"IHDR":
            height = int.from_bytes(chunk[4:8])
        if kind == b"IDAT":
            data += chunk
        place += size + 12
    pixels = zlib.decompress(data)
    width = len(pixels) // height
    return [pixels[number * width : (number + 1) * width] for number in range(height)]
