"""``amino rebuild`` and ``amino settle`` on a real etcd: tables, forms, exit codes and what is said beside."""

import json
import os

import pytest

from amino.checkpoint import names
from amino.checkpoint.description import Description, encode_description
from amino.checkpoint.file_store import FileStore
from amino.checkpoint.format import encode
from amino.checkpoint.identity import identify
from amino.cli import application
from amino.contracts.documents import DmSpec, MicroserviceRecord, MicroserviceSpec

pytestmark = pytest.mark.real


@pytest.fixture
def place(tmp_path, etcd_endpoints):
    """The options that name an etcd and a store of the test's own."""
    cluster = f"c{os.urandom(4).hex()}"
    return ["--cluster", cluster, "--etcd", etcd_endpoints[0]], tmp_path / "store", cluster


@pytest.fixture
def run(capsys):
    """Run a command; returns (output, messages)."""

    def command(*arguments, code=0):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            application.run(list(arguments))
        found = capsys.readouterr()
        assert ended.value.code == code, (ended.value.code, found)
        assert "Traceback" not in found.err
        return found.out, found.err

    return command


def leave(folder, cluster, ms_id, name, *, intact=True):
    """Leave a checkpoint and its description."""
    store = FileStore(folder, cluster)
    identify(store)
    record = MicroserviceRecord(MicroserviceSpec("shop:Counter", name=name, dms=(DmSpec("PeriodicCheckpoint"),)))
    described = encode_description(Description(record))
    store.write(names.description(ms_id, "/", described.sha256), described.parts)
    store.write(f"checkpoints/{ms_id}/3-7-ab", encode(b"state").parts if intact else [b"torn"])
    store.close()


def test_what_can_come_back_is_shown_written_and_found_again(run, place):
    """First dry, then for good, then once more; without servers it says when they come back."""
    options, folder, cluster = place
    leave(folder, cluster, "a1", "hits")
    options = [*options, "--store", folder.as_uri(), "--wait", "0"]
    out, err = run("rebuild", *options, "--dry-run")
    assert "would be written" in out
    assert "1 of 1 microservices can be brought back" in err
    out, err = run("rebuild", *options)
    assert out.splitlines()[0].split()[:6] == ["NAME", "ID", "OUTCOME", "STATE", "CHECKPOINT", "AGE"]
    assert out.splitlines()[1].split()[:5] == ["hits", "a1", "written", "recovering", "3-7"]
    assert "no server runs yet" in err
    (row,) = json.loads(run("rebuild", *options, "-o", "json")[0])
    assert (row["outcome"], row["name"], row["cls"]) == ("exists", "hits", "shop:Counter")


def test_what_cannot_come_back_ends_it_with_1(run, place):
    """The others are written all the same, and the reason is in the table."""
    options, folder, cluster = place
    leave(folder, cluster, "a1", "hits")
    leave(folder, cluster, "b2", "torn", intact=False)
    out, err = run("rebuild", *options, "--store", folder.as_uri(), "-o", "wide", code=1)
    assert "none of its 1 checkpoints is intact" in out
    assert "1 of 2 microservices are written" in err
    assert "repeat the command" in err


def test_a_place_without_a_store_is_refused(run, place, tmp_path):
    """No store named, or a folder that no server has used."""
    options, _, _ = place
    assert "no checkpoint store is named" in run("rebuild", *options, code=1)[1]
    assert "amino-store-id" in run("rebuild", *options, "--store", (tmp_path / "empty").as_uri(), code=1)[1]


def test_a_transaction_is_settled_once(run, place):
    """The first verdict holds; another one is told which."""
    options, _, _ = place
    assert "t1 is committed" in run("settle", "t1", "commit", *options)[1]
    assert "t1 is committed" in run("settle", "t1", "commit", *options)[1]
    assert "t1 is committed" in run("settle", "t1", "abort", *options, code=1)[1]
    assert "t2 is aborted" in run("settle", "t2", "abort", *options)[1]
    run("settle", "t3", "perhaps", *options, code=2)
