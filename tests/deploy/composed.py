"""The cluster of the compose file, as Docker Compose runs it under a project of its own.

Owns finding Docker, Compose and etcd's programs, and bringing a cluster up and down. Leaves the images' contents to ``deploy/docker``.
Invariants: nothing of the file but images and ports on the host is changed; containers, networks and volumes go with the project, and
projects of processes that are gone with the next one.
Failure behaviour: ``lacking`` says what is not there and what to do; a command that fails is an ``AssertionError`` with its words.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from amino.testing.chaos.clusters.containers import IMAGE, unusable
from tests.etcd_fixtures import etcd_binaries

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "deploy" / "compose" / "compose.yaml"
SERVERS = ("s1", "s2", "s3")
MEMBERS = ("etcd1", "etcd2", "etcd3")
IMAGE_USED = os.environ.get("AMINO_IMAGE", IMAGE)
ETCD_IMAGE = "amino-etcd:tests"
PORTS = ("SERVER_PORT", "GRPC_PORT", "DASHBOARD_PORT")
PATIENCE_S = 150.0
_PROJECT = "amino-tests-"
_TOOLS = ROOT / ".tools"
_PLUGIN = _TOOLS / "compose" / "usr" / "libexec" / "docker" / "cli-plugins" / "docker-compose"
_ETCDCTL = _TOOLS / "etcdctl35" / "usr" / "bin" / "etcdctl"


def compose_command() -> list[str]:
    """Return how Compose 2 is called here, empty if it cannot be."""
    for command in (["docker", "compose"], ["docker-compose"], [str(_PLUGIN)]):
        if shutil.which(command[0]) is None:
            continue
        found = subprocess.run([*command, "version", "--short"], capture_output=True, text=True, check=False)
        version = found.stdout.strip().removeprefix("v")
        if found.returncode == 0 and version.partition(".")[0].isdigit() and int(version.partition(".")[0]) >= 2:
            return command
    return []


def etcdctl() -> str:
    """Return etcd's command line program, empty if there is none."""
    return shutil.which("etcdctl") or (str(_ETCDCTL) if _ETCDCTL.exists() else "")


def lacking() -> str:
    """Return what is missing here for a cluster of the compose file, and what to do; empty if nothing is."""
    etcds = etcd_binaries()
    why = unusable(IMAGE_USED, etcds[-1] if etcds else None)
    if why:
        return why
    if shutil.which("unshare") is None:
        return "there is no unshare; install it (Debian: apt install util-linux)"
    if not compose_command():
        return "there is no Docker Compose 2; sh tools/debian-package.sh trixie docker-compose .tools/compose"
    if not etcdctl():
        return "there is no etcdctl; sh tools/debian-package.sh trixie etcd-client .tools/etcdctl35"
    return ""


def need_containers() -> None:
    """Skip a test where no clusters of containers can be had, and say why (pytest prints it); with ``CI`` set that is a failure."""
    why = unusable(IMAGE_USED)
    if why:
        assert not os.environ.get("CI"), f"no clusters of containers here: {why}"
        pytest.skip(why)


class Composed:
    """One project; ``opened`` makes it."""

    def __init__(self, project: str) -> None:
        self.project = project
        self._command = [*compose_command(), "--file", str(FILE), "--project-name", project]
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("COMPOSE_", "DASHBOARD_"))}
        images = {"AMINO_IMAGE": IMAGE_USED, "ETCD_IMAGE": ETCD_IMAGE}
        self._environment = {**kept, **images, **dict.fromkeys(PORTS, "0")}
        self._environment.pop("APP", None)
        self._client = f"{project}-client"

    def run(self, *arguments: str) -> str:
        """Run a command of Compose; returns what it printed."""
        return _run([*self._command, *arguments], self._environment)

    def up(self) -> None:
        """Start what does not run of servers and what they need, and wait until all is healthy."""
        self.run("up", "--detach", "--wait", "--wait-timeout", f"{PATIENCE_S:.0f}", *SERVERS)

    def kill(self, *services: str) -> None:
        """Kill containers as ``docker kill`` does: Docker does not start them again by itself."""
        self.run("kill", *services)

    def crash(self, service: str) -> None:
        """Kill a container's first process, as if it had died by itself: what Docker then does is the restart policy's."""
        os.kill(self.inspect(service)["State"]["Pid"], signal.SIGKILL)

    def inspect(self, service: str) -> dict[str, Any]:
        """Return what Docker says of a service's container."""
        return _inspect(self.run("ps", "--all", "--quiet", service).strip())

    def is_healthy(self, service: str) -> bool:
        """Whether a service's container runs and its health check is content."""
        state = self.inspect(service)["State"]
        return bool(state["Running"] and state["Health"]["Status"] == "healthy")

    def published(self, port: int) -> str:
        """Return the address on the host of a port of the first server."""
        return self.run("port", SERVERS[0], str(port)).strip()

    def etcd_endpoints(self) -> list[str]:
        """Return the addresses that the members of etcd have now, in their order; of one that does not run, one that nobody has."""
        networks = [self.inspect(name)["NetworkSettings"]["Networks"][f"{self.project}_cluster"] for name in MEMBERS]
        return [f"{network['IPAddress'] or '127.0.0.1'}:2379" for network in networks]

    def within(self, *command: str) -> list[str]:
        """Return ``command`` as one whose process is in the cluster's network, where the servers' names can be resolved.

        It runs from the host's files: only its network and its ``/etc/resolv.conf`` are those of an idle container.
        """
        if self._client not in _run(["docker", "ps", "--format", "{{.Names}}"]).split():
            idle = ["--entrypoint", "sleep", IMAGE_USED, "infinity"]
            _run(["docker", "run", "--detach", "--name", self._client, "--network", f"{self.project}_cluster", *idle])
        client = _inspect(self._client)
        network = f"--net=/proc/{client['State']['Pid']}/ns/net"
        script = 'mount --bind "$0" /etc/resolv.conf && exec "$@"'
        return ["nsenter", network, "unshare", "--mount", "sh", "-c", script, client["ResolvConfPath"], *command]

    def told(self) -> str:
        """Return states and the ends of the logs, for who asks why."""
        return self.run("ps", "--all") + self.run("logs", "--tail", "15", "--no-color")

    def down(self) -> None:
        """Remove all: containers, networks, volumes."""
        subprocess.run(["docker", "rm", "--force", self._client], capture_output=True, check=False)
        self.run("down", "--volumes", "--remove-orphans", "--timeout", "0")


@contextlib.contextmanager
def opened() -> Iterator[Composed]:
    """Make etcd's image, bring a cluster up until all of it is healthy, and down in the end."""
    _remove_left_behind()
    etcd = {**os.environ, "ETCD": etcd_binaries()[-1], "ETCDCTL": etcdctl()}
    _run(["sh", str(ROOT / "deploy" / "docker" / "etcd.sh"), ETCD_IMAGE], etcd)
    composed = Composed(f"{_PROJECT}{os.getpid()}")
    try:
        try:
            composed.up()
        except AssertionError as error:
            raise AssertionError(f"{error}\n{composed.told()}") from error
        yield composed
    finally:
        composed.down()


def _remove_left_behind() -> None:
    """Remove projects of processes that are gone: Docker would start their containers again with every start of its own."""
    for project in set(_run(["docker", "ps", "--all", "--format", '{{.Label "com.docker.compose.project"}}']).split()):
        if project.startswith(_PROJECT) and not psutil.pid_exists(int(project.removeprefix(_PROJECT))):
            Composed(project).down()


def _inspect(container: str) -> dict[str, Any]:
    [found] = json.loads(_run(["docker", "inspect", container]))
    return dict(found)


def _run(command: Sequence[str], environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, f"{' '.join(command)}: {done.returncode}: {done.stdout}{done.stderr}"
    return done.stdout
