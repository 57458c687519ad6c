"""A child process for tests of the supervisor: the real conversation, with a node that only talks about itself.

Its port takes one command a line: ``who`` answers "incarnation pid valid"; the others misbehave in some way.
"""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from amino.errors import Invalid
from amino.node import child


class FakeNode:
    def __init__(self, config, clock, board, telemetry):
        self.config = config
        self.board = board
        self.session = None
        self.server = None
        self.drained = asyncio.Event()

    async def bind(self):
        if self.config.labels.get("break") == "config":
            raise Invalid("label break=config; remove it")
        if self.config.labels.get("break") == "exit":
            os._exit(7)
        host, _, port = self.config.listen.rpartition(":")
        self.server = await asyncio.start_server(self.talk, host, int(port))
        return child.Addresses(f"{host}:{self.server.sockets[0].getsockname()[1]}")

    async def serve(self, incarnation, lease, session):
        match self.config.labels.get("serve") if self._is_first() else None:
            case "bug":
                raise RuntimeError("a bug")
            case "cancelled":  # as what it waits for was, and nobody asked for that
                waited = asyncio.get_running_loop().create_future()
                waited.cancel()
                await waited
        self.session = session

    @staticmethod
    def _is_first():
        """Return whether this is the supervisor's first child."""
        try:
            (Path(tempfile.gettempdir()) / f"amino-fake-{os.getppid()}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    async def drain(self):
        if self.config.labels.get("drain") == "never":
            await asyncio.Event().wait()
        return 3, ("left",)

    async def fence(self):
        self.server.close()

    async def aclose(self):
        self.server.close()

    async def talk(self, reader, writer):
        while line := await reader.readline():
            command, *rest = line.decode().split()
            answer = getattr(self, command)(*rest)
            writer.write(f"{answer}\n".encode())
        writer.close()

    def who(self):
        if self.session is None:
            return "0 0 False"
        return f"{self.session.incarnation} {os.getpid()} {self.session.valid()}"

    def seed(self):
        return os.environ["PYTHONHASHSEED"]

    def running(self, microservice, method):
        return self.board.enter(microservice, method)

    def die(self, code):
        os._exit(int(code))

    def grandchild(self):
        return subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid

    def lock(self, seconds):
        """Hold the interpreter lock in another thread."""
        usleep = ctypes.PyDLL(None).usleep
        threading.Thread(target=usleep, args=(int(float(seconds) * 1e6),), daemon=True).start()
        return "ok"

    def block(self, seconds):
        """Hold up the main loop, with the interpreter lock released."""
        asyncio.get_running_loop().call_soon(time.sleep, float(seconds))
        return "ok"

    def interrupt(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return "ok"


if __name__ == "__main__":
    child.run(FakeNode)
