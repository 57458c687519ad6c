"""Looks at a cluster from outside: what etcd, every kernel server and the checkpoint store really hold.

Owns reading (etcd over its HTTP gateway, ``Kernel.replicas`` of every server, the store's folder) and comparing them.
Leaves what is right to the tests.
"""

from __future__ import annotations

import base64
import json
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from amino.aio.mode import drive
from amino.contracts.documents import GroupDocument, decode
from amino.contracts.services import Empty, Kernel, LocateRequest, Location, Membership, Registry, ReplicaInfo
from amino.coordination.keys import Keys
from amino.errors import AminoError
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.system import call_system

if TYPE_CHECKING:
    from amino.testing import LocalCluster

T = TypeVar("T")
_HTTP_S = 3.0
_POLL_S = 0.05


def eventually(look: Callable[[], T], good: Callable[[T], bool], timeout_s: float) -> T:
    """Look again and again until what is seen is good, or the time is up; returns what was seen last.

    For what nobody announces: repairs by the cluster's own rounds.
    """
    end = time.monotonic() + timeout_s
    while True:
        seen = look()
        if good(seen) or time.monotonic() > end:
            return seen
        time.sleep(_POLL_S)


@dataclass(frozen=True)
class Member:
    """One member of etcd, as it says of itself."""

    index: int
    is_leader: bool


class Audit:
    """The auditor of one cluster; a context manager."""

    def __init__(self, local: LocalCluster, cluster: str = "amino") -> None:
        self._local = local
        self._keys = Keys(cluster)
        self._transport = PeerTransport("auditor", cluster, "server", "auditor")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        drive(self._transport.aclose())

    # --- etcd ---

    def _ask(self, endpoint: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(f"http://{endpoint}/v3/{path}", json.dumps(body).encode())
        with urllib.request.urlopen(request, timeout=_HTTP_S) as answer:
            found: dict[str, Any] = json.load(answer)
        return found

    def records(self) -> dict[str, bytes]:
        """Return everything below the cluster's prefix, relative key -> value."""
        root = self._keys.root.encode()
        end = root[:-1] + bytes([root[-1] + 1])
        body = {"key": base64.b64encode(root).decode(), "range_end": base64.b64encode(end).decode()}
        problem: OSError | None = None
        for endpoint in self._local.etcd_endpoints:
            try:
                found = self._ask(endpoint, "kv/range", body).get("kvs", [])
            except OSError as error:  # that member is down; the next one answers
                problem = error
                continue
            return {
                base64.b64decode(each["key"])[len(root) :].decode(): base64.b64decode(each.get("value", ""))
                for each in found
            }
        raise AssertionError(f"no member of etcd answers: {problem}")

    def kinds(self) -> dict[str, int]:
        """Return how many keys of each kind there are: the first part of the key."""
        kinds: dict[str, int] = {}
        for key in self.records():
            kind = key.partition("/")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
        return kinds

    def groups(self) -> dict[str, GroupDocument]:
        """Return every root group's document by microservice."""
        found = {}
        for key, value in self.records().items():
            if key.startswith("groups/"):
                owned = self._keys.parse_group(self._keys.root + key)
                found[owned.id] = decode(value, GroupDocument, key)
        return found

    def incarnations(self) -> dict[str, int]:
        """Return the incarnation of every server that lives, as etcd has it."""
        body_root = self._keys.servers_prefix.encode()
        end = body_root[:-1] + bytes([body_root[-1] + 1])
        body = {"key": base64.b64encode(body_root).decode(), "range_end": base64.b64encode(end).decode()}
        for endpoint in self._local.etcd_endpoints:
            try:
                found = self._ask(endpoint, "kv/range", body).get("kvs", [])
            except OSError:  # as in records
                continue
            return {
                self._keys.parse_server(base64.b64decode(each["key"]).decode()): int(each["create_revision"])
                for each in found
            }
        raise AssertionError("no member of etcd answers")

    def etcd_members(self) -> list[Member]:
        """Return the members that answer, and which of them leads."""
        members = []
        for index, endpoint in enumerate(self._local.etcd_endpoints):
            try:
                status = self._ask(endpoint, "maintenance/status", {})
            except OSError:  # it is down
                continue
            members.append(Member(index, status.get("leader") == status["header"]["member_id"]))  # none: left out
        return members

    def kernel(self, address: str, method: str = "replicas") -> Any:
        """Ask a server's Kernel something that takes no arguments."""
        return drive(call_system(self._transport, address, "kernel", Kernel, method, Empty(), timeout_s=5.0))

    def replicas(self) -> dict[str, tuple[ReplicaInfo, ...]]:
        """Return what every live server says it hosts."""
        return {name: self.kernel(server.address).replicas for name, server in self._local.servers.items()}

    def await_call_inside(self, address: str) -> None:
        """Wait until some method runs at a server."""
        seen = eventually(lambda: [info for info in self.kernel(address).replicas if info.in_flight], bool, 10.0)
        assert seen, "no call arrived"

    def members_at(self, address: str) -> Membership:
        """Return the members as one server sees them."""
        return drive(call_system(self._transport, address, "registry", Registry, "members", Empty()))  # type: ignore[no-any-return]

    def locate_at(self, address: str, ms_id: str) -> Location:
        """Return where one server believes a microservice to be."""
        request = LocateRequest(microservice=ms_id)
        return drive(call_system(self._transport, address, "registry", Registry, "locate", request, timeout_s=5.0))  # type: ignore[no-any-return]

    # --- everything together ---

    def differences(self) -> list[str]:
        """Return in what documents and kernel objects disagree; empty when every record is true and nothing is orphaned."""
        try:
            hosted = {
                (info.microservice, info.replica): (name, info)
                for name, infos in self.replicas().items()
                for info in infos
            }
        except AminoError as error:
            return [f"a server does not answer: {error}"]
        wrong = []
        groups = self.groups()
        listed = set()
        for ms_id, document in groups.items():
            if document.phase != "active" or document.move is not None or document.leftovers:
                wrong.append(f"{ms_id} is {document.phase}, move {document.move}, leftovers {document.leftovers}")
            for replica in document.replicas:
                listed.add((ms_id, replica.id))
                server, info = hosted.get((ms_id, replica.id), ("nobody", None))
                if not replica.confirmed or server != replica.server or info is None or info.epoch != document.epoch:
                    wrong.append(f"{ms_id}: {replica} at epoch {document.epoch}; really {info} at {server}")
        wrong += [f"orphan {key} at {name}" for key, (name, _) in hosted.items() if key not in listed]
        records = self.records()
        ids = {key.rpartition("/")[2] for key in records if key.startswith("microservices/")}
        wrong += [f"record without group: {ms_id}" for ms_id in ids - set(groups)]
        wrong += [f"group without record: {ms_id}" for ms_id in set(groups) - ids]
        wrong += [
            f"{key} names {value.decode()}, which does not exist"
            for key, value in records.items()
            if key.startswith("names/") and value.decode() not in ids
        ]
        wrong += [
            f"{key} is of a microservice that does not exist"
            for key in records
            if key.startswith("checkpoints/") and key.split("/")[1] not in ids
        ]
        return wrong

    def await_consistent(self, timeout_s: float = 60.0) -> None:
        """Wait until nothing disagrees; fails with what does."""
        wrong = eventually(self.differences, lambda wrong: not wrong, timeout_s)
        assert not wrong, "\n".join(wrong)

    def store_files(self) -> list[str]:
        """Return the files in the checkpoint store, relative, without its identity and the servers' own markers."""
        folder = Path(self._local.folder) / "checkpoints"
        files = [each.relative_to(folder) for each in folder.rglob("*") if each.is_file()]
        return sorted(str(each) for each in files if "members" not in each.parts and "identity" not in each.name)
