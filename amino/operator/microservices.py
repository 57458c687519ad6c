"""The cluster of Amino as the operator needs it: applying, deleting, and states for thousands of resources at once.

Owns the port (``Microservices``) and its adapter over a connection. Leaves the meaning of applying to ``manifests``.
Invariants: what is known by its id is changed, never made again; states are asked for once per ``fresh_s``, however many
resources want theirs; none counts as gone before etcd was asked for it. Methods block, from any thread, but those in ``_nowait``.
Failure behaviour: ``ClusterUnavailable`` while the cluster cannot be reached (the next call tries again), else the registry's errors.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import amino
from amino.contracts.documents import GroupDocument
from amino.contracts.services import ByName, DeleteRequest, Description, MicroserviceInfo
from amino.errors import Invalid, NotFound
from amino.ids import ROOT
from amino.manifests.applying import Applied, apply_manifest, is_bundle
from amino.manifests.decoding import API_VERSION, Manifest, manifest_of
from amino.operator.scaling_machine import Demand
from amino.stubs.cluster import Cluster

DEADLINE_S = 60.0


class Microservices(Protocol):
    """What the operator does in a cluster."""

    def apply(self, kind: str, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], known: str) -> Applied:
        """Create or change what a resource describes; ``known`` is the microservice's id, empty for one not yet made.

        Raises:
            Invalid: the resource breaks a rule. NotFound: ``known`` is not there any more.
        """
        ...

    def delete(self, known: str) -> bool:
        """Delete the microservice with this id, state and all; returns whether there was one."""
        ...

    def seen_nowait(self, known: str) -> MicroserviceInfo:
        """Return what ``seen`` would, if that is known already. Never blocks. Raises ``LookupError`` if it is not."""
        ...

    def seen(self, known: str) -> MicroserviceInfo | None:
        """Return the microservice with this id as it was at most a few seconds ago; None if there is none, for certain."""
        ...

    def demand(self) -> Demand:
        """Return what all microservices ask of the servers."""
        ...

    def close(self) -> None:
        """End the connection. Idempotent."""
        ...


def manifest_from(kind: str, name: str, labels: Mapping[str, str], spec: Mapping[str, Any]) -> Manifest:
    """Return the manifest that a resource of Kubernetes is; raises ``Invalid``."""
    metadata = {"name": name, "labels": dict(labels)}
    tree = {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}
    return manifest_of(tree, f"{kind} {name}", Path())


class ClusterMicroservices:
    """``Microservices`` over a connection that is made when first needed.

    Args:
        connect: opens a connection, or raises ``ClusterUnavailable``.
        fresh_s: for how long a list of states is good.
        monotonic: seconds.
    """

    def __init__(
        self, connect: Callable[[], Cluster], *, fresh_s: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._connect = connect
        self._fresh_s = fresh_s
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._listing = threading.Lock()
        self._cluster: Cluster | None = None
        self._listed: dict[str, MicroserviceInfo] = {}
        self._listed_at: float | None = None
        self._gone: set[str] = set()

    def apply(self, kind: str, name: str, labels: Mapping[str, str], spec: Mapping[str, Any], known: str) -> Applied:
        """See ``Microservices``."""
        manifest = manifest_from(kind, name, labels, spec)
        if manifest.code and not is_bundle(manifest.code):
            raise Invalid(
                f"{kind} {name}: code {manifest.code!r} is no sha256; folders cannot be read from Kubernetes: amino app push FOLDER "
                "prints the one to write"
            )
        with self._within() as cluster:
            return apply_manifest(cluster, manifest, code=manifest.code, known=known)

    def delete(self, known: str) -> bool:
        """See ``Microservices``."""
        try:
            with self._within() as cluster:
                cluster.registry.delete(DeleteRequest(microservice=known))
        except NotFound:
            return False
        return True

    def seen_nowait(self, known: str) -> MicroserviceInfo:
        """See ``Microservices``."""
        if self._listed_at is None or self._monotonic() - self._listed_at >= self._fresh_s:
            raise LookupError(known)
        return self._listed[known]

    def seen(self, known: str) -> MicroserviceInfo | None:
        """See ``Microservices``."""
        with self._listing:
            now = self._monotonic()
            if self._listed_at is None or now - self._listed_at >= self._fresh_s:
                with self._within() as cluster:
                    self._listed = {row.id: row for row in cluster.find()}
                self._listed_at = now
                self._gone -= self._listed.keys()
            found = self._listed.get(known)
            if found is not None or known in self._gone:
                return found
            try:  # made since the list, or by a server that the one we asked has not heard of: only etcd knows for sure
                with self._within() as cluster:
                    return _row(cluster.registry.describe(ByName(microservice=known)))
            except NotFound:
                self._gone.add(known)
                return None

    def demand(self) -> Demand:
        """See ``Microservices``."""
        widest = replicas = 0
        with self._within() as cluster:
            for each in cluster.describe_all():
                for group in each.groups.values():
                    replicas += len(group.replicas)
                    if group.kind != "shards" and not group.devices:
                        widest = max(widest, group.wanted)
            capacities = [each.record.capacity for each in cluster.servers() if not each.record.device]
        bounded = bool(capacities) and all(capacities)
        return Demand(widest=widest, replicas=replicas, capacity=min(capacities) if bounded else 0)

    def close(self) -> None:
        """See ``Microservices``."""
        with self._lock:
            cluster, self._cluster = self._cluster, None
        if cluster is not None:
            cluster.close()

    @contextlib.contextmanager
    def _within(self) -> Iterator[Cluster]:
        with self._lock:
            if self._cluster is None:
                self._cluster = self._connect()
            cluster = self._cluster
        with amino.deadline(DEADLINE_S):
            yield cluster


def _row(found: Description) -> MicroserviceInfo:
    """Return what a list would have of it."""
    spec, root = found.record.spec, found.groups.get(ROOT, GroupDocument())
    return MicroserviceInfo(
        id=found.id,
        name=spec.name,
        cls=spec.cls,
        state=found.state,
        epoch=root.epoch,
        servers=tuple(replica.server for replica in root.replicas),
        dms=tuple(each.name for each in spec.dms),
    )
