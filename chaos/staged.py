"""Scenes: what goes wrong and who calls when is fixed, for defects that faults drawn at random would show too seldom.

Owns the scenes, on simulated clusters. Leaves judging to ``amino.testing.chaos.judges``.
Invariants: a scene is a function of its seed; without a defect it is clean. Failure behaviour: a scene that does not come to what
it is about raises, and says nothing: it is neither clean nor a catch.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import amino
from amino.contracts.documents import GroupDocument, Manifest, decode
from amino.coordination.election import decode_slot
from amino.dm import AtLeastOnceRPC, ConsensusRSM, DurableSerializableRPC, PeriodicCheckpoint, SerializableRPC
from amino.errors import ClusterUnavailable
from amino.ids import ROOT, slot_of
from amino.testing.chaos.history import Recorder
from amino.testing.chaos.judges.linearizability import linearizable
from amino.testing.chaos.judges.models import Cell
from amino.testing.chaos.judges.once import exactly_once
from amino.testing.chaos.record import Verdict
from amino.testing.chaos.workloads.services import Cells, Counters
from amino.testing.simulation import simulate

if TYPE_CHECKING:
    from amino.testing.simulation.cluster import SimulatedCluster

Scene = Callable[["SimulatedCluster"], Awaitable[list[Verdict]]]
TTL_S = 20
"""Of sessions: long enough that the old primary's is valid all the time."""
KEY = "k"
CRASHES_MAX = 20
WRITES, VALUE = 30, "precious"


async def stale_primary(cluster: SimulatedCluster) -> list[Verdict]:
    """A primary is cut off from its followers and does not hear that another took over; one client goes on reading from it."""
    recorder = Recorder(lambda: cluster.loop.now)
    reader, writer = cluster.client("reader").cluster, cluster.client("writer").cluster
    spec = amino.spec(Cells, name="cells", dms=[AtLeastOnceRPC(timeout_s=20.0), ConsensusRSM()])
    cells = await amino.aio(reader.new)(spec)
    await _until_whole(cluster, cells)
    for _ in range(CRASHES_MAX):
        if _leader(cluster, cells) != _primary(
            cluster, cells
        ):  # else the primary itself decides that another takes over
            break
        cluster.servers[_primary(cluster, cells)].crash()
        await _until_whole(cluster, cells)
    await recorder.call(0, "write", KEY, "before", amino.aio(cells.write)(KEY, "before"))
    old = _primary(cluster, cells)
    for other in (*(name for name in cluster.servers if name != old), "writer"):
        cluster.network.cut(old, other)
        cluster.network.cut(other, old)
    for store in cluster.servers[old].stores:
        store.faults.watch_delay_s = lambda: TTL_S
    await cluster.until(lambda: _primary(cluster, cells) != old, TTL_S, "another took over")
    for store in cluster.servers[old].stores:  # when it says again that it is stuck, etcd would tell it
        store.partition()
    there = writer.bind(cells)
    with amino.deadline(30.0):
        await recorder.call(1, "write", KEY, "after", amino.aio(there.write)(KEY, "after"))
    if recorder.operations[-1].outcome != "ok":
        raise ClusterUnavailable(f"nothing was written at the new primary: {recorder.operations[-1].error}")
    for _ in range(3):
        with amino.deadline(2.0):
            await recorder.call(0, "read", KEY, None, amino.aio(cells.read)(KEY))
        await asyncio.sleep(0.2)
    cluster.network.heal()
    cluster.servers[old].heal_etcd()
    with amino.deadline(30.0):
        await recorder.call(1, "read", KEY, None, amino.aio(there.read)(KEY))
    return [linearizable(recorder.operations, Cell())]


def _document(cluster: SimulatedCluster, stub: Any) -> GroupDocument:
    microservice = stub.__amino_reference__.microservice
    record = cluster.etcd.get(cluster.keys.group(slot_of(microservice), microservice, ROOT))
    assert record is not None
    return decode(record.value, GroupDocument, record.key)


async def damaged_checkpoint(cluster: SimulatedCluster) -> list[Verdict]:
    """The newest checkpoint of an object is damaged in its store, and all machines lose power; its logs lead on from the older one."""
    recorder = Recorder(lambda: cluster.loop.now)
    client = cluster.client("client").cluster
    spec = amino.spec(
        Cells, name="cells", dms=[AtLeastOnceRPC(timeout_s=20.0), DurableSerializableRPC(snapshot_every=WRITES // 3)]
    )
    cells = await amino.aio(client.new)(spec)
    for number in range(WRITES):
        await recorder.call(0, "write", f"{KEY}{number}", VALUE, amino.aio(cells.write)(f"{KEY}{number}", VALUE))
    manifest = _manifest(cluster, cells)
    if len(manifest.entries) < 2:
        raise ClusterUnavailable(f"there is no older checkpoint to fall back to: {manifest}")
    newest = manifest.entries[0].url
    content = cluster.checkpoints.read(newest)
    if content is None or VALUE.encode() not in content:
        raise ClusterUnavailable(f"{newest} does not hold what is to be damaged")
    at = content.index(VALUE.encode())
    cluster.checkpoints.delete(newest)
    cluster.checkpoints.write(newest, [content[:at], VALUE.upper().encode(), content[at + len(VALUE) :]])
    for server in cluster.servers.values():
        server.crash_machine()
    for server in cluster.servers.values():
        server.start()
    await cluster.wait_serving()
    for number in range(WRITES):
        with amino.deadline(30.0):
            await recorder.call(0, "read", f"{KEY}{number}", None, amino.aio(cells.read)(f"{KEY}{number}"))
    lost = [one for one in recorder.operations if one.outcome != "ok"]
    text = f"{len(lost)} reads were not answered: {lost[0].error}" if lost else "every read was answered"
    return [linearizable(recorder.operations, Cell()), Verdict("answers", not lost, text, smallest=lost[:1])]


async def lost_answers(cluster: SimulatedCluster) -> list[Verdict]:
    """A server does what it was asked and cannot say so; the object comes up elsewhere, moved or restored, and is asked again."""
    recorder = Recorder(lambda: cluster.loop.now)
    client, mover = cluster.client("client"), cluster.client("mover").cluster
    chain = [AtLeastOnceRPC(timeout_s=20.0), SerializableRPC(), PeriodicCheckpoint(every=1)]
    counters = await amino.aio(client.cluster.new)(amino.spec(Counters, name="counters", dms=chain))
    await recorder.call(0, "add", KEY, "first", amino.aio(counters.add)(KEY, "first"))
    for how in ("moved", "restored"):
        host = _primary(cluster, counters)
        before = _manifest(cluster, counters).entries[0].sequence
        cluster.network.cut(host, client.name)
        adding = recorder.call(0, "add", KEY, how, amino.aio(counters.add)(KEY, how))
        asked = client.spawn(adding, f"add {how}")
        await _until_newer(cluster, counters, before)
        if how == "moved":
            await amino.aio(mover.move)("counters")
        cluster.servers[host].crash()
        cluster.network.heal()
        await asked
        await _until_whole(cluster, counters)
    with amino.deadline(30.0):
        done = await amino.aio(counters.close)(KEY)
    return [exactly_once(recorder.operations, {KEY: done})]


async def _until_newer(cluster: SimulatedCluster, stub: Any, sequence: int) -> None:
    """Wait for a checkpoint after ``sequence``: what was under way has been done and kept."""
    await cluster.until(lambda: _manifest(cluster, stub).entries[0].sequence > sequence, 10.0, "it was done")


async def _until_whole(cluster: SimulatedCluster, stub: Any) -> None:
    """Wait until who is gone is out of it, and all its replicas are in sync."""
    await asyncio.sleep(3.0)
    await cluster.wait_serving()

    def whole() -> bool:
        document = _document(cluster, stub)
        return len(document.replicas) == document.wanted and (
            document.wanted == 1 or len(document.in_sync) == document.wanted
        )

    await cluster.until(whole, 30.0, "all replicas are in sync")


def _leader(cluster: SimulatedCluster, stub: Any) -> str:
    record = cluster.etcd.get(cluster.keys.slot(slot_of(stub.__amino_reference__.microservice)))
    assert record is not None
    return decode_slot(record).server


def _primary(cluster: SimulatedCluster, stub: Any) -> str:
    """Return the server that has the primary, or the only replica."""
    document = _document(cluster, stub)
    return next(one.server for one in document.replicas if one.id == document.primary or document.wanted == 1)


def _manifest(cluster: SimulatedCluster, stub: Any) -> Manifest:
    record = cluster.etcd.get(cluster.keys.manifest(stub.__amino_reference__.microservice, ROOT))
    assert record is not None
    return decode(record.value, Manifest, record.key)


SCENES: dict[str, Scene] = {
    "stale-primary": stale_primary,
    "damaged-checkpoint": damaged_checkpoint,
    "lost-answers": lost_answers,
}


def play(name: str, seed: int = 1) -> list[str]:
    """Run a scene; returns what its judges found, empty if it is clean."""
    verdicts = simulate(SCENES[name], seed, session_ttl_s=TTL_S)
    return [f"{one.judge}: {one.text}" for one in verdicts if not one.ok]


def main() -> int:
    """Run it; returns the exit code: 1 if anything was found."""
    parser = argparse.ArgumentParser(prog="python -m chaos.staged")
    parser.add_argument("scene", choices=SCENES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)
    findings = play(options.scene, options.seed)
    options.json.write_bytes(msgspec.json.encode(findings))
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())
