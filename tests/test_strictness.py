"""The global strictness itself: tests that leave something behind fail, tests that clean up pass.

Owns nothing but its own inner test run. Invariant: each kind of leak is noticed and named.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

INNER = """
import asyncio, socket, subprocess, sys, threading
import pytest, pytest_asyncio

kept = []

async def test_leaves_a_task():
    kept.append(asyncio.create_task(asyncio.Event().wait(), name="lost-task"))

def test_leaves_a_thread():
    kept.append(threading.Event())
    threading.Thread(target=kept[-1].wait, name="lost-thread", daemon=True).start()

def test_leaves_descriptors():
    kept.append(socket.socketpair())

def test_leaves_a_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE))

@pytest_asyncio.fixture
async def ticker():
    task = asyncio.create_task(asyncio.Event().wait())
    yield task
    task.cancel()

async def test_clean_with_fixture(ticker):
    await asyncio.get_running_loop().run_in_executor(None, len, "x")

def test_clean_thread_that_ends():
    threading.Timer(0.05, lambda: None).start()

@pytest.mark.keeps("shows that the mark allows it")
def test_marked():
    kept.append(socket.socketpair())

def test_end():
    pass
"""


@pytest.mark.keeps("the inner run in a process of its own is started and awaited by pytester")
def test_each_leak_is_an_error_that_names_it(pytester: pytest.Pytester) -> None:
    """A test that leaves a task, thread, descriptor or process behind fails with the name of what it left."""
    pytester.makeconftest(Path(__file__).with_name("strictness.py").read_text())
    pytester.makeini(
        "[pytest]\nasyncio_mode = auto\nasyncio_default_fixture_loop_scope = function\n"
        "markers =\n    keeps(reason): allowed\n"
    )
    pytester.makepyfile(INNER)
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-p", "no:cacheprovider", "-q")
    output = result.stdout.str()
    result.assert_outcomes(passed=8, errors=4)
    for pattern in ("lost-task", "lost-thread", r"2 descriptors left behind: \d+ -> socket", "1 processes left behind"):
        assert re.search(pattern, output), pattern
