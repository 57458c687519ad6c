"""``amino up`` and ``amino server`` as real processes: what they show, how they end, what they refuse."""

import asyncio
import os
import signal
import sys

import psutil
import pytest

from amino.node.embedded_etcd import find_etcd
from tests.etcd_fixtures import etcd_binaries

pytestmark = pytest.mark.real


class Command:
    """A running command; lines are read as they come."""

    def __init__(self, process):
        self.process = process

    @classmethod
    async def start(cls, *arguments, **environment):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "amino.cli", *arguments,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env={**os.environ, **environment},
        )  # fmt: skip
        return cls(process)

    async def until(self, words, timeout_s=30.0):
        seen = []
        async with asyncio.timeout(timeout_s):
            while line := (await self.process.stdout.readline()).decode():
                seen.append(line)
                if words in line:
                    return line
        raise AssertionError(f"{words!r} never came: {seen}")

    async def end(self, *signals, timeout_s=30.0):
        for number in signals:
            self.process.send_signal(number)
        async with asyncio.timeout(timeout_s):
            rest = (await self.process.stdout.read()).decode()
            return await self.process.wait(), rest

    async def clean(self):
        if self.process.returncode is None:
            for child in psutil.Process(self.process.pid).children(recursive=True):
                child.kill()
            self.process.kill()
            await self.process.communicate()


@pytest.fixture
async def start():
    commands = []

    async def begin(*arguments, **environment):
        commands.append(await Command.start(*arguments, **environment))
        return commands[-1]

    yield begin
    for command in commands:
        await command.clean()


@pytest.fixture
def server_options(etcd_endpoints, request):
    cluster = f"c{abs(hash(request.node.name)) % 10**9}"
    return [
        "server", "--etcd", etcd_endpoints[0], "--cluster", cluster, "--session-ttl-s", "2",
        "--listen", "127.0.0.1:0", "--grpc-listen", "127.0.0.1:0",
    ]  # fmt: skip


async def test_up_runs_a_cluster_until_it_is_interrupted(start):
    """It says where the servers are, tells deaths and returns, and leaves no process behind."""
    await find_etcd(etcd_binaries()[0])
    up = await start("up", "-n", "2", "--port", "0", "--etcd-binary", etcd_binaries()[0])
    first = (await up.until("s1  ")).split()
    await up.until("try: amino get servers -a")
    mine = psutil.Process(up.process.pid).children(recursive=True)
    os.kill(int(first[-1]), signal.SIGKILL)
    await up.until("s1: its process ended")
    await up.until("s1 serves again")
    code, _ = await up.end(signal.SIGINT)
    assert code == 0
    assert not [each for each in mine if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


async def test_a_server_drains_on_sigterm(start, server_options):
    """A server of its own: serves, drains, ends with code 0."""
    server = await start(*server_options, "--name", "solo", "--label", "region=eu", "--log-format", "json")
    assert '"msg": "solo serves at 127.0.0.1:' in await server.until("solo serves at")
    code, rest = await server.end(signal.SIGTERM)
    assert code == 0
    assert "drained solo" in rest


async def test_a_name_that_is_taken_is_refused(start, server_options):
    """The second server of a name ends with code 1 and says what to do."""
    first = await start(*server_options, "--name", "twin")
    await first.until("twin serves at")
    second = await start(*server_options, "--name", "twin")
    code, rest = await second.end()
    assert code == 1
    assert "error: server name 'twin' is taken" in rest
    assert "choose another name" in rest


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        (["--listen", "0.0.0.0:0"], {}, "--insecure"),
        (["--dashboard", "0.0.0.0:0"], {}, "--insecure"),
        (["--session-ttl-s", "1"], {}, "session_ttl_s=1 is below 2"),
        ([], {"AMINO_HANG_S": "0"}, "it must be from 2"),
        (["--config", "missing.yaml"], {}, "cannot be read"),
        (["--label", "nonsense"], {}, "write key=value"),
        (["--tls-ca", "missing.pem"], {}, "cannot be read"),
    ],
)
async def test_what_a_server_cannot_be_is_said_at_once(start, server_options, options, environment, words):
    """Wrong options end it before anything is started, with code 1, two lines and no traceback."""
    code, text = await (await start(*server_options, *options, **environment)).end()
    assert code == 1
    assert words in text
    assert "Traceback" not in text
    assert len(text.splitlines()) <= 2
