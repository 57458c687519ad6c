"""Strictness that holds for every test: what a test starts, it ends.

Owns leak detection: tasks, threads, file descriptors and child processes that a test leaves behind make it fail.
Leaves what is started to the fixtures and the tests.
Invariants: the checks run after all other fixtures of the test are torn down; what existed before the test is not
its fault. Failure behaviour: a leak is an error of the test, naming what was left.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import psutil
import pytest
import pytest_asyncio

T = TypeVar("T")

GRACE_S = 1.0
"""How long threads, descriptors and processes that are ending may take; nothing is waited for when nothing is left."""

# Process-wide parts that live on by design, with the reason each is no leak.
THREADS_KEPT = (
    "asyncio_",  # a loop's default executor, which the loop's runner ends after us
    "pydevd",  # a debugger
)
PROCESSES_KEPT = (
    "multiprocessing.resource_tracker",  # one per process, started by the first shared memory
    "multiprocessing.forkserver",  # as above
)


def _threads() -> set[threading.Thread]:
    return {
        thread
        for thread in threading.enumerate()
        if thread.is_alive() and not any(kept in thread.name for kept in THREADS_KEPT)
    }


def _descriptors() -> set[tuple[int, str]]:
    """Return open descriptors with what they point to; empty where the system does not tell (not Linux)."""
    found: set[tuple[int, str]] = set()
    try:
        numbers = os.listdir("/proc/self/fd")
    except OSError:
        return found
    for number in numbers:
        try:
            target = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # it was the descriptor of the listing
            continue
        if not target.startswith(("/dev/", "/proc/")):
            found.add((int(number), target))
    return found


def _children() -> set[psutil.Process]:
    found = set()
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            if process.status() != psutil.STATUS_ZOMBIE and not any(kept in command for kept in PROCESSES_KEPT):
                found.add(process)
        except psutil.NoSuchProcess:
            continue
    return found


def _left(look: Callable[[], set[T]], before: set[T]) -> set[T]:
    """Return what appeared since ``before``, after giving what is ending up to ``GRACE_S`` to end."""
    left = look() - before
    if not left:
        return left
    gc.collect()
    give_up = time.monotonic() + GRACE_S
    while (left := look() - before) and time.monotonic() < give_up:
        threading.Event().wait(0.01)  # ends of threads and processes announce themselves to nobody but their owner
    return left


def _verdict(kind: str, left: set[Any], describe: Callable[[Any], str]) -> str:
    return f"{len(left)} {kind} left behind: {'; '.join(sorted(describe(one) for one in left))}" if left else ""


@pytest.fixture(autouse=True)
def _resources_end(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test if it leaves threads, descriptors or child processes; marked ``keeps(reason)``, it may."""
    looks: list[tuple[str, Callable[[], set[Any]], Callable[[Any], str]]] = [
        ("threads", _threads, lambda thread: thread.name),
        ("processes", _children, lambda process: f"{process.pid} {' '.join(process.cmdline()[:4])}"),
        ("descriptors", _descriptors, lambda descriptor: f"{descriptor[0]} -> {descriptor[1]}"),
    ]
    before = [look() for _, look, _ in looks]
    yield
    if request.node.get_closest_marker("keeps") is not None:
        return
    verdicts = [
        _verdict(kind, _left(look, had), describe) for (kind, look, describe), had in zip(looks, before, strict=True)
    ]
    if any(verdicts):
        pytest.fail(". ".join(filter(None, verdicts)), pytrace=False)


@pytest_asyncio.fixture
async def _tasks_end(request: pytest.FixtureRequest) -> AsyncIterator[None]:
    """Fail the test if tasks run on once its fixtures are torn down."""
    before = asyncio.all_tasks()
    yield
    left = asyncio.all_tasks() - before - {asyncio.current_task()}
    if left and request.node.get_closest_marker("keeps") is None:
        _, left = await asyncio.wait(left, timeout=GRACE_S)
        verdict = _verdict("tasks", left, lambda task: f"{task.get_name()} in {task.get_coro().__qualname__}")
        if verdict:
            pytest.fail(verdict, pytrace=False)


@pytest.fixture(autouse=True)
def _everything_ends(request: pytest.FixtureRequest, _resources_end: None) -> None:
    """Put the leak checks around all other fixtures of the test; that of tasks only where there is a loop."""
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        request.getfixturevalue("_tasks_end")
