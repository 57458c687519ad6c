"""Documents of replicated groups, for tests that decide on them."""

from __future__ import annotations

from typing import Any

import msgspec

from amino.contracts.documents import GroupDocument, Phase, ReplicaDocument


def replica(server: str, **fields: Any) -> ReplicaDocument:
    """Return the confirmed replica on ``server``."""
    return ReplicaDocument(f"1-{server}", server, 7, **{"confirmed": True, **fields})


def group(*servers: str, **fields: Any) -> GroupDocument:
    """Return an active group with replicas on ``servers``, all in sync, the first of them primary."""
    given = {
        "phase": Phase.ACTIVE,
        "epoch": 1,
        "replicas": tuple(map(replica, servers)),
        "primary": f"1-{servers[0]}",
        "in_sync": tuple(f"1-{server}" for server in servers),
        "constructed": True,
        "kind": "replicated",
        "wanted": 3,
        "min_in_sync": 2,
        **fields,
    }
    return msgspec.convert(given, GroupDocument)
