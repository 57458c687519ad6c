"""A real cluster on a network that can be broken, and what tests ask of a replicated group on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import amino
from amino.aio.mode import drive
from amino.contracts import log_end
from amino.contracts.documents import GroupDocument, ReplicaDocument
from amino.contracts.log_end import LOG_END
from amino.contracts.services import EventInfo, EventsRequest, Kernel, NotifyRequest
from amino.rpc.peer_transport import PeerTransport
from amino.rpc.system import proxy
from amino.testing import FaultyNetwork, LocalCluster, LocalServer
from tests.waiting import until

PATIENCE_S = 30.0


@dataclass(slots=True)
class World:
    """One cluster."""

    network: FaultyNetwork
    local: LocalCluster
    client: amino.Cluster

    def group(self, target: Any, path: str = "/") -> GroupDocument:
        """Return a group's document."""
        return self.client.describe(target).groups[path]

    def primary(self, target: Any) -> ReplicaDocument:
        """Return the primary's place."""
        document = self.group(target)
        return next(one for one in document.replicas if one.id == document.primary)

    def primary_server(self, target: Any) -> LocalServer:
        """Return the server that has the primary."""
        return self.local.server(self.primary(target).server)

    def followers(self, target: Any) -> list[LocalServer]:
        """Return the servers of the other replicas."""
        document = self.group(target)
        return [self.local.server(one.server) for one in document.replicas if one.id != document.primary]

    def events(self) -> tuple[EventInfo, ...]:
        """Return the cluster's latest events, newest last."""
        found = drive(self.client._runtime.registry.call("events", EventsRequest(), timeout_s=5.0))
        events: tuple[EventInfo, ...] = found.events
        return events

    def log_end(self, target: Any, replica: ReplicaDocument, manager: str) -> int:
        """Return the number of the last entry in a replica's log; asked as a server would."""
        address = next(one.record.address for one in self.client.servers() if one.record.name == replica.server)
        transport = PeerTransport("test", self.client._runtime.transport.cluster, "server", "test")
        kernel = proxy(transport, address, "kernel", Kernel, 5.0)  # type: ignore[type-abstract]
        place = (target.__amino_reference__.microservice, "/")
        try:
            answer = drive(kernel.notify(NotifyRequest(*place, replica.id, manager, LOG_END), memoryview(b"")))
        finally:
            drive(transport.aclose())
        return log_end.decode(answer.payload).entry

    def wait_whole(self, target: Any, replicas: int = 3, timeout_s: float = PATIENCE_S) -> GroupDocument:
        """Wait until so many replicas, on live servers, are in sync, and nothing else is listed."""

        def whole() -> GroupDocument | None:
            document = self.group(target)
            live = {server.record.name: server.incarnation for server in self.client.servers()}
            good = [one for one in document.replicas if one.confirmed and live.get(one.server) == one.incarnation]
            done = len(good) == len(document.in_sync) == len(document.replicas) == replicas and not document.leftovers
            return document if done else None

        return until(whole, timeout_s, lambda: f"not {replicas} in sync: {self.group(target)}")
