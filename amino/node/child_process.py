"""One child process in a process group of its own, with certain knowledge of its death.

Owns starting, killing and reaping, and the two pipes (its stdin carries messages to it, its stdout messages from it; its
stderr is ours, so what user code prints is never lost). Leaves what is said to ``control`` and the reasons to the
supervisor.
Invariants: ``on_exit`` is called once, after every process of the group is dead or killed; the group is killed before
the child is reaped, so its number cannot have been given to others.
Failure behaviour: a child that cannot be started raises ``OSError``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

import amino
from amino.node.control import TO_SUPERVISOR, PipeReader, ToChild, ToSupervisor, send
from amino.rpc.grpc.environment import prepare_environment

_POSIX = os.name == "posix"
LAST_WORDS_S = 0.1  # a process that left the group can hold the pipe open; its death must not wait for that


def python_environment(release: Path | None = None, **more: str) -> dict[str, str]:
    """Return this process's environment with ``more``, in which a Python finds the same Amino that runs here.

    Args:
        release: a folder with another release of it, to be found instead.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", **more}
    home = release or Path(amino.__file__).parent.parent
    if release is not None or not {"site-packages", "dist-packages"} & set(home.parts):
        paths = [str(home), *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
        environment["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    prepare_environment(environment)
    return environment


class ChildProcess:
    """A running child; made by ``start`` on the supervisor's loop.

    Args:
        on_message: called on the loop with each message of the child.
        on_exit: called on the loop with the cause (``exit 1``, ``signal 9``), once.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        on_message: Callable[[ToSupervisor], None],
        on_exit: Callable[[str], None],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._cause = ""
        self._reported = False
        self._silent = False
        self._to_child = process.stdin.fileno()
        if _POSIX:
            os.set_blocking(self._to_child, False)  # a stopped child must not stop us
        self._reader = PipeReader(
            os.dup(process.stdout.fileno()),
            TO_SUPERVISOR,
            lambda message: self._on_loop(on_message, message),
            lambda: self._on_loop(self._said_all),
            f"amino-child-{process.pid}",
        )
        process.stdout.close()
        self._reader.start()
        self._watch()

    @classmethod
    def start(
        cls,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        on_message: Callable[[ToSupervisor], None],
        on_exit: Callable[[str], None],
    ) -> ChildProcess:
        """Start ``arguments`` as the leader of a new process group.

        Raises:
            OSError: it cannot be started.
        """
        common = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "env": dict(environment), "bufsize": 0}
        if _POSIX:
            process = subprocess.Popen(list(arguments), process_group=0, **common)  # type: ignore[call-overload]
        else:
            flags = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)
            process = subprocess.Popen(list(arguments), creationflags=flags, **common)  # type: ignore[call-overload]
        return cls(process, on_message, on_exit)

    def __repr__(self) -> str:
        return f"ChildProcess({self.pid}, {'ended' if self._ended.is_set() else 'alive'})"

    @property
    def pid(self) -> int:
        """Its process id, and that of its group."""
        return self._process.pid

    @property
    def is_stopped(self) -> bool:
        """Whether it is stopped by a signal (SIGSTOP) right now."""
        try:
            return bool(psutil.Process(self.pid).status() == psutil.STATUS_STOPPED)
        except psutil.Error:
            return False

    def send(self, message: ToChild) -> None:
        """Write a message to it; a child that cannot take it is noticed elsewhere. Never waits."""
        if not self._ended.is_set():
            send(self._to_child, message)

    def kill(self) -> None:
        """SIGKILL it and its group; ``on_exit`` follows. Idempotent."""
        if not self._ended.is_set():
            self._kill_group()

    async def wait(self) -> None:
        """Wait until it is dead and reaped."""
        await self._ended.wait()

    def _kill_group(self) -> None:
        if _POSIX:
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: the latter for a dead leader
                os.killpg(self.pid, signal.SIGKILL)
            return
        victims: list[psutil.Process] = []
        with contextlib.suppress(psutil.Error):
            process = psutil.Process(self.pid)
            victims = [*process.children(recursive=True), process]
        for victim in victims:
            with contextlib.suppress(psutil.Error):
                victim.kill()

    def _watch(self) -> None:
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # a kernel before 5.3: wait in a thread, as elsewhere
                descriptor = os.pidfd_open(self.pid)
                self._loop.add_reader(descriptor, self._pidfd_ready, descriptor)
                return
        threading.Thread(target=self._wait_in_thread, name=f"amino-wait-{self.pid}", daemon=True).start()

    def _pidfd_ready(self, descriptor: int) -> None:
        self._loop.remove_reader(descriptor)
        os.close(descriptor)
        self._died()

    def _wait_in_thread(self) -> None:
        if _POSIX:
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOWAIT)  # not reaped yet: its group's number stays taken
        else:
            self._process.wait()
        self._on_loop(self._died)

    def _died(self) -> None:
        self._kill_group()
        code = self._process.wait()
        self._ended.set()
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        self._cause = f"exit {code}" if code >= 0 else f"signal {-code}"
        if self._silent:
            self._report()
        else:  # its last words, why it failed to start, may still be in the pipe
            self._loop.call_later(LAST_WORDS_S, self._report)

    def _said_all(self) -> None:
        self._silent = True
        if self._ended.is_set():
            self._report()

    def _report(self) -> None:
        if not self._reported:
            self._reported = True
            self._on_exit(self._cause)

    def _on_loop(self, callback: Callable[..., None], *args: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            self._loop.call_soon_threadsafe(callback, *args)
