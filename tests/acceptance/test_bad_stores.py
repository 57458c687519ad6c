"""A full disk and damaged checkpoints: clear errors, nothing lost that could be kept, nobody else concerned."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint
from amino.errors import CorruptCheckpoint, NoEligibleServer, StateLost, StoreFailed
from amino.testing import LocalCluster
from tests.acceptance.audit import Audit, eventually
from tests.acceptance.conftest import ROOT
from tests.acceptance.figures import Figures
from tests.acceptance.refusals import refused
from tests.acceptance.services import Blob, Counter
from tests.acceptance.test_server_loss import host_of
from tests.etcd_fixtures import etcd_binaries
from tests.waiting import until

pytestmark = [pytest.mark.real, pytest.mark.slow, pytest.mark.timeout(120)]
ROW = "bad input"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    done = subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)], check=False, capture_output=True
    )
    if done.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {done.stderr.decode()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk(small_disk: Path, figures: Figures) -> None:
    """A call whose checkpoint does not fit fails clearly, and so does a read of its effect; others go on, and room mends all."""
    with (
        LocalCluster(
            2, app_dirs=[ROOT], session_ttl_s=2, store=small_disk.as_uri(), etcd_binary=etcd_binaries()[0]
        ) as local,
        local.connect() as client,
        Audit(local) as audit,
    ):
        pids = {name: server.kernel_pid for name, server in local.servers.items()}
        blob = client.new(amino.spec(Blob, name="blob", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]))
        memory = client.new(amino.spec(Counter, name="memory", on_loss="recreate"))
        assert blob.fill(1000) == 1000
        error = refused(figures, "full disk", lambda: blob.fill(3 << 20), StoreFailed, "fill", "kept in memory")
        assert "No space" in str(error) or "full" in str(error), error
        refused(
            figures, "full disk: a read of what is not stored", blob.size, StoreFailed, "size", "in no checkpoint yet"
        )
        assert memory.add() == 1
        assert blob.fill(2000) == 2000, "once it fits again, checkpoints go on"
        left = [each for each in audit_files(small_disk) if "tmp" in each or "part" in each]
        assert not left, f"half-written files stay: {left}"
        ms_id = client.describe("blob").id
        until(  # a file that is removed later would make room
            lambda: len(checkpoints_in(small_disk, ms_id)) == PeriodicCheckpoint().keep,
            10.0,
            "checkpoints that are no longer kept go",
        )
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space"):
            filler.write_bytes(bytes(4 << 20))
        refused(
            figures, "full disk: creation", lambda: client.new(amino.spec(Blob, dms=[PeriodicCheckpoint(every=1)])),
            (StoreFailed, NoEligibleServer), "space",  # type: ignore[arg-type]
        )  # fmt: skip
        filler.unlink()
        before = local.server(host_of(client, "blob")).kill_kernel()
        assert client.get("blob", Blob).size() == 2000
        pids.pop(next(name for name, server in local.servers.items() if server.incarnation >= before), None)
        assert blob.fill(10) == 10
        audit.await_consistent()


def audit_files(folder: Path) -> list[str]:
    return [str(each.relative_to(folder)) for each in folder.rglob("*") if each.is_file()]


def checkpoints_in(folder: Path, ms_id: str) -> list[Path]:
    """Return the files of a microservice's checkpoints, oldest first, without its description."""
    names = [each for each in audit_files(folder) if ms_id in each and "descriptions" not in each]
    return sorted((folder / each for each in names), key=lambda one: one.stat().st_mtime_ns)


def test_corrupt_checkpoints(local: LocalCluster, client: amino.Cluster, audit: Audit, figures: Figures) -> None:
    """A damaged newest checkpoint falls back on the one before; when all are damaged the object is lost, and says so."""
    counter = client.new(amino.spec(Counter, name="rotten", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]), 0)
    other = client.new(amino.spec(Counter, name="sound", dms=[AtLeastOnceRPC(), PeriodicCheckpoint(every=1)]), 0)
    for _ in range(3):
        counter.add()
    other.add()
    ms_id = client.describe("rotten").id
    folder = local.folder / "checkpoints"

    def files() -> list[Path]:
        return checkpoints_in(folder, ms_id)

    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[len(content) // 2 :] = b"rotten"
        file.write_bytes(content)

    newest = files()[-1]
    damage(newest)
    local.server(host_of(client, "rotten")).kill_kernel()
    assert counter.get() == 2, "the checkpoint before the damaged one is used"
    for file in files():
        damage(file)
    for server in local.servers.values():
        server.wait_serving()
    local.server(host_of(client, "rotten")).kill_kernel()
    eventually(lambda: client.describe("rotten").state, lambda state: state == "lost", 10.0)
    refused(
        figures, "corrupt checkpoints: call", counter.get, (StateLost, CorruptCheckpoint), ms_id, "restore", "delete"
    )  # type: ignore[arg-type]
    assert other.add() == 2
    client.delete("rotten")
    audit.await_consistent()
