"""The supervisor with real etcd and real child processes: every way a child or its supervisor can fail."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import msgspec
import psutil
import pytest

from amino.aio.clock import RealClock
from amino.config import EtcdConfig, ServerConfig, SessionConfig
from amino.contracts.documents import ClusterDocument, ServerRecord, Tombstone, decode
from amino.coordination.deadline import LocalDeadline
from amino.coordination.etcd import EtcdStore
from amino.coordination.keys import Keys
from amino.coordination.session import SessionHolder
from amino.coordination.session_machine import Timing
from amino.telemetry import names

pytestmark = pytest.mark.real

FAKE_CHILD = str(Path(__file__).parent / "fake_child.py")
PROGRAM = """
import asyncio, sys, msgspec
from amino.config import ServerConfig
from amino.node.supervisor import supervise
from amino.telemetry import logs
from amino.telemetry.trace import Telemetry
logs.configure(Telemetry.disabled())
config = msgspec.json.decode(sys.argv[1], type=ServerConfig)
ended = asyncio.run(supervise(config, arguments=(sys.executable, sys.argv[2])))
print(ended.message, file=sys.stderr)
sys.exit(ended.code)
"""


async def until(look, timeout_s=10.0):
    """Return what ``look`` (sync or async) finds, once that is true."""
    async with asyncio.timeout(timeout_s):
        while True:
            found = look()
            found = await found if asyncio.iscoroutine(found) else found
            if found:
                return found
            await asyncio.sleep(0.005)


class Server:
    """A supervisor process with a fake child, and what etcd knows of it."""

    def __init__(self, store, config, log):
        self.store = store
        self.config = config
        self.log = log
        self.process = None

    @property
    def keys(self):
        return Keys(self.config.cluster)

    async def start(self):
        config = msgspec.json.encode(self.config).decode()
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", PROGRAM, config, FAKE_CHILD, stderr=log
            )
        return self

    async def record(self):
        found = await self.store.get(self.keys.server(self.config.name))
        return None if found is None else (decode(found.value, ServerRecord), found.create_revision)

    async def serving(self, after=0, timeout_s=20.0):
        """Wait for an incarnation later than ``after`` that serves; returns (record, incarnation)."""
        async with asyncio.timeout(timeout_s):
            while True:
                found = await self.record()
                if found is not None and found[1] > after:
                    who = (await self.say(found[0], "who")).split()
                    if who[0] == str(found[1]) and who[2] == "True":
                        return found
                await asyncio.sleep(0.005)

    async def say(self, record, *words):
        host, _, port = record.address.rpartition(":")
        try:
            reader, writer = await asyncio.open_connection(host, int(port))
        except OSError:
            return "0 0 False"
        writer.write(" ".join(map(str, words)).encode() + b"\n")
        try:
            return (await reader.readline()).decode().strip() or "0 0 False"
        except OSError:
            return "0 0 False"
        finally:
            writer.close()

    async def tombstone(self, incarnation, timeout_s=20.0):
        key = self.keys.tombstone(self.config.name, incarnation)
        found = await until(lambda: self.store.get(key), timeout_s)
        return decode(found.value, Tombstone)

    async def gone(self, timeout_s=10.0):
        key = self.keys.server(self.config.name)

        async def absent():
            return await self.store.get(key) is None

        await until(absent, timeout_s)

    async def end(self, number=signal.SIGTERM, timeout_s=20.0):
        self.process.send_signal(number)
        async with asyncio.timeout(timeout_s):
            return await self.process.wait()

    async def clean(self):
        if self.process is None or self.process.returncode is not None:
            return
        for child in psutil.Process(self.process.pid).children(recursive=True):
            child.kill()
        self.process.kill()
        await self.process.wait()


@pytest.fixture
async def store(etcd_endpoints):
    store = await EtcdStore.open(etcd_endpoints, clock=RealClock())
    yield store
    await store.aclose()


@contextlib.asynccontextmanager
async def peer_of(server):
    """Have another member in the cluster, which ends the sessions of those that fall silent."""
    timing = Timing.of_ttl(server.config.session.ttl_s)
    peer = SessionHolder(server.store, server.keys, "peer", LocalDeadline(), clock=RealClock(), timing=timing)
    await peer.start(b"")
    try:
        yield
    finally:
        await peer.aclose()


@pytest.fixture
async def make(store, etcd_endpoints, tmp_path):
    servers = []

    def build(name="s1", *, ttl_s=2, **fields):
        config = ServerConfig(
            cluster=f"c{os.urandom(4).hex()}",
            name=name,
            listen="127.0.0.1:0",
            grpc_listen="",
            etcd=EtcdConfig(endpoints=tuple(etcd_endpoints)),
            session=SessionConfig(ttl_s=ttl_s),
            **fields,
        )
        servers.append(Server(store, config, tmp_path / f"{name}-{len(servers)}.log"))
        return servers[-1]

    yield build
    for server in servers:
        await server.clean()


@pytest.fixture
async def server(make):
    return await make().start()


def now():
    return RealClock().monotonic()


async def until_dead(pid, timeout_s=10.0):
    await until(lambda: not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE, timeout_s)


async def test_a_killed_child_is_proven_dead_at_once_and_replaced(server):
    """SIGKILL of the child: tombstone within a fraction of a second, a new incarnation at the same port."""
    record, first = await server.serving()
    assert record.supervisor_pid == server.process.pid
    started = now()
    os.kill(record.pid, signal.SIGKILL)
    tombstone = await server.tombstone(first)
    assert now() - started < 0.5
    assert tombstone.cause == "signal 9"
    again, second = await server.serving(first)
    assert second > first
    assert again.address == record.address
    assert again.pid != record.pid


async def test_what_ran_at_death_is_in_the_tombstone(server):
    """The suspects are the methods that were running when the process ended by itself."""
    record, first = await server.serving()
    await server.say(record, "running", "a" * 24, "boom")
    await server.say(record, "die", 7)
    tombstone = await server.tombstone(first)
    assert tombstone.cause == "exit 7"
    assert tombstone.suspects == (("a" * 24, "boom"),)


async def test_children_of_the_child_die_with_it(server):
    """What user code started is of the same process group and does not survive."""
    record, first = await server.serving()
    grandchild = int(await server.say(record, "grandchild"))
    os.kill(record.pid, signal.SIGKILL)
    await server.tombstone(first)
    await until_dead(grandchild)


async def test_all_incarnations_hash_alike(server):
    """The hash seed is the cluster's, stored once, and the same in every incarnation."""
    record, first = await server.serving()
    seed = await server.say(record, "seed")
    document = await server.store.get(server.keys.cluster)
    assert decode(document.value, ClusterDocument).hash_seed == int(seed)
    os.kill(record.pid, signal.SIGKILL)
    again, _ = await server.serving(first)
    assert await server.say(again, "seed") == seed


async def test_a_lost_lease_ends_the_child(server):
    """A lease revoked behind our back: the child is killed, and its successor has a new incarnation."""
    record, first = await server.serving()
    found = await server.store.get(server.keys.server("s1"))
    await server.store.revoke(found.lease)
    assert (await server.tombstone(first)).cause == "lease lost"
    await until_dead(record.pid)
    _, second = await server.serving(first)
    assert second > first


async def test_a_stopped_child_is_killed_after_the_ttl(server):
    """SIGSTOP of the child alone: killed within TTL + 1 s."""
    record, first = await server.serving()
    started = now()
    os.kill(record.pid, signal.SIGSTOP)
    assert (await server.tombstone(first)).cause == "stopped"
    assert 1.5 < now() - started < 3.0
    await server.serving(first)


async def test_a_child_stopped_for_less_than_the_ttl_goes_on(server):
    """A short stop is no death: same process, same incarnation, still valid."""
    record, first = await server.serving()
    os.kill(record.pid, signal.SIGSTOP)
    await asyncio.sleep(1.0)  # half of the TTL in real time is what this test is about
    os.kill(record.pid, signal.SIGCONT)
    again, incarnation = await server.serving()
    assert (again.pid, incarnation) == (record.pid, first)


async def test_both_stopped_lose_the_session_and_never_answer_as_before(server):
    """SIGSTOP of supervisor and child for longer than the TTL: after SIGCONT the old child is invalid and is ended."""
    record, first = await server.serving()
    async with peer_of(server):
        os.kill(server.process.pid, signal.SIGSTOP)
        os.kill(record.pid, signal.SIGSTOP)
        await server.gone(timeout_s=server.config.session.ttl_s + 1.0)
    os.kill(record.pid, signal.SIGCONT)
    assert (await server.say(record, "who")).split() == [str(first), str(record.pid), "False"]
    os.kill(server.process.pid, signal.SIGCONT)
    await until_dead(record.pid)
    _, second = await server.serving(first)
    assert second > first
    assert (await server.tombstone(first)).cause == "lease lost"


async def test_a_dead_supervisor_takes_the_child_with_it(server):
    """SIGKILL of the supervisor: the child has written its own tombstone and ended within half a second."""
    record, first = await server.serving()
    started = now()
    server.process.kill()
    tombstone = await server.tombstone(first)
    await until_dead(record.pid)
    assert now() - started < 0.75
    assert tombstone.cause == "supervisor died"
    assert await server.record() is None
    await server.process.wait()


async def test_a_dead_supervisor_takes_even_a_blocked_child_with_it(server):
    """The bound holds when user code holds up the child's main loop."""
    record, _ = await server.serving()
    async with peer_of(server):
        await server.say(record, "block", 30)
        started = now()
        server.process.kill()
        await until_dead(record.pid)
        assert now() - started < 1.0
        await server.process.wait()
        await server.gone()


async def test_holding_the_interpreter_lock_for_six_seconds_is_no_hang(server):
    """The supervisor renews the lease, so a child that cannot run Python for 6 s loses nothing."""
    record, first = await server.serving()
    await server.say(record, "lock", 6)
    async with asyncio.timeout(15):
        who = await server.say(record, "who")
    assert who.split() == [str(first), str(record.pid), "True"]
    assert (await server.record())[1] == first


async def test_a_child_whose_loop_is_blocked_is_killed_as_hung(make):
    """No sign of life for ``hang_s``: killed, and what it ran is suspect."""
    server = await make(hang_s=2.0).start()
    record, first = await server.serving()
    await server.say(record, "running", "b" * 24, "forever")
    await server.say(record, "block", 60)
    tombstone = await server.tombstone(first)
    assert tombstone.cause == "hung"
    assert tombstone.suspects == (("b" * 24, "forever"),)
    await server.serving(first)


async def test_sigterm_drains_and_ends_in_order(server):
    """The first SIGTERM drains, stops, buries and ends with code 0, leaving neither key nor process."""
    record, first = await server.serving()
    assert await server.end() == 0
    assert (await server.tombstone(first)).cause == "shut down"
    assert await server.record() is None
    assert not psutil.pid_exists(record.pid)
    assert "drained s1: 3 moved, 1 left" in server.log.read_text()


async def test_a_second_sigterm_stops_now(make):
    """A drain that does not end is cut short by the second signal."""
    server = await make(labels={"drain": "never"}).start()
    _, first = await server.serving()
    server.process.send_signal(signal.SIGTERM)
    await until(lambda: "a second signal stops it now" in server.log.read_text())
    started = now()
    assert await server.end() == 0
    assert now() - started < 2.0
    assert (await server.tombstone(first)).cause == "shut down"


async def test_sigterm_to_the_child_alone_changes_nothing(server):
    """The supervisor decides when a child ends; a signal to the whole process tree must not cut a drain short."""
    record, first = await server.serving()
    await server.say(record, "interrupt")
    os.kill(record.pid, signal.SIGINT)
    assert (await server.say(record, "who")).split() == [str(first), str(record.pid), "True"]


async def test_a_configuration_that_cannot_work_ends_the_supervisor(make):
    """A child that refuses its configuration is not restarted forever; the error is the supervisor's."""
    server = await make(labels={"break": "config"}).start()
    async with asyncio.timeout(20):
        assert await server.process.wait() == 1
    assert "label break=config; remove it" in server.log.read_text()


async def test_a_child_that_dies_at_start_is_restarted_with_back_off(make):
    """Crashes at start are tried again, with growing pauses."""
    server = await make(labels={"break": "exit"}).start()
    await until(lambda: server.log.read_text().count("ended: exit 7") >= 4, 30)
    assert await server.end() == 0


@pytest.mark.parametrize("how", ["bug", "cancelled"])
async def test_a_child_that_does_not_come_to_serve_is_replaced(make, how):
    """Others count on who has the name: a child whose start ends in the middle, however it does, makes room for another."""
    server = await make(labels={"serve": how}).start()
    await server.serving()
    told = server.log.read_text()
    assert "cannot start" in told
    assert ("RuntimeError" if how == "bug" else "nobody asked for that") in told
    assert await server.end() == 0


async def test_a_name_held_by_a_live_server_is_refused(make, server):
    """Two servers of one name: the second ends with a clear error, the first is not disturbed."""
    _, first = await server.serving()
    other = make()
    other.config = server.config
    await other.start()
    async with asyncio.timeout(20):
        assert await other.process.wait() == 1
    assert "server name 's1' is taken" in other.log.read_text()
    assert (await server.record())[1] == first


async def test_the_name_of_dead_processes_is_waited_for(make, server):
    """Supervisor and child killed together: a new supervisor of that name waits until the lease ends, then serves."""
    record, first = await server.serving()
    os.kill(record.pid, signal.SIGKILL)
    server.process.kill()
    await server.process.wait()
    again = make()
    again.config = server.config
    await again.start()
    _, second = await again.serving(first)
    assert second > first


async def test_json_logs_are_one_object_a_line(make):
    """The child logs in the configured form, to the supervisor's standard error."""
    server = await make(labels={"break": "config"}, log_format="json").start()
    async with asyncio.timeout(20):
        await server.process.wait()
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("{")]
    assert any("break=config" in json.loads(line)[names.LOG_MESSAGE] for line in lines)
