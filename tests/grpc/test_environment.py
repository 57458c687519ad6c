"""The gRPC library is quiet, and leaves forks alone."""

from __future__ import annotations

import asyncio
import sys

import pytest

from amino.rpc.grpc.environment import DEFAULTS, prepare_environment

SUBPROCESSES = """
import asyncio, os, sys
from amino.rpc.grpc.environment import prepare_environment
prepare_environment(os.environ)
assert "grpc" not in sys.modules
import grpc, uvloop
from tests.grpc.asking import call, make
from tests.grpc.conftest import serve

async def main():
    async with serve() as port, grpc.aio.insecure_channel(port.address) as port.channel:
        await make(port)
        calls = asyncio.gather(*(call(port, "add", 1) for _ in range(200)))
        for _ in range(5):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
            await process.wait()
        await calls
        child = os.fork()
        if child == 0:
            os._exit(0)
        os.waitpid(child, 0)
        sys.stdout.write(str(await call(port, "get")))
        await port.server.aclose()  # with the channel open: the client is told to go away

uvloop.run(main())
"""


def test_what_the_operator_set_stays():
    """Only what is missing is set."""
    environment = {"GRPC_VERBOSITY": "DEBUG"}
    prepare_environment(environment)
    assert environment == {**DEFAULTS, "GRPC_VERBOSITY": "DEBUG"}


@pytest.mark.real
async def test_subprocesses_and_forks_beside_grpc_are_silent():
    """Starting processes and forking while gRPC is busy disturbs no call and prints nothing."""
    pytest.importorskip("uvloop", reason="uvloop is not installed here")
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", SUBPROCESSES, stdout=-1, stderr=-1)
    out, noise = await asyncio.wait_for(process.communicate(), 60)
    assert (out.decode(), noise.decode(), process.returncode) == ("200", "", 0)
