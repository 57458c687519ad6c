"""Faults as actions, and rest as a probe, for experiments of the Chaos Toolkit.

Owns the functions that an experiment names (``"module": "amino.testing.chaos.toolkit"``). Leaves running experiments to
``chaostoolkit``, faults to ``faults``.
Invariant: a fault that an action caused is undone before the action returns.
Failure behaviour: a fault that did not happen, or could not be undone, raises, so the activity fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from amino.errors import AminoError, Invalid
from amino.testing.chaos.clusters.attached import AttachedCluster
from amino.testing.chaos.clusters.view import ClusterView
from amino.testing.chaos.faults.catalogue import make
from amino.testing.chaos.faults.fault import Scene
from amino.testing.chaos.faults.nemesis import Nemesis


def cause_fault(
    kind: str,
    target: str,
    etcd: Sequence[str],
    lasts_s: float = 0.0,
    cluster: str = "amino",
    rest_s: float = 60.0,
    store: str = "",
) -> dict[str, Any]:
    """Cause one fault in a running cluster of this machine, undo it, and wait until the cluster is whole.

    Args:
        kind: for example ``kill-kernel``, ``freeze-server-long``. target: a server, ``primary`` or ``coordinator``.
        etcd: ``host:port`` of etcd's members. lasts_s: how long it is left. cluster: its name. rest_s: how long rest may take.
        store: the folder of the checkpoint store, for ``corrupt-checkpoint`` and ``corrupt-snapshot``.

    Returns:
        What happened: kind, target, begin and end (seconds), text.

    Raises:
        Invalid: it did not happen, or could not be undone.
    """

    async def cause() -> dict[str, Any]:
        attached = AttachedCluster(etcd, name=cluster, store=store or None)
        await attached.start()
        async with ClusterView(list(etcd), cluster) as view:
            scene = Scene(attached, view)
            record = await Nemesis(scene, time.monotonic, rest_s=rest_s).cause(make(scene, kind, target), lasts_s)
        if not record.verified:
            raise Invalid(f"{kind} at {target} did not happen: {record.text}")
        return {"kind": kind, "target": record.target, "took_s": record.healed_s - record.began_s, "text": record.text}

    return asyncio.run(cause())


def cluster_is_whole(etcd: Sequence[str], servers: int = 1, cluster: str = "amino", within_s: float = 10.0) -> bool:
    """Return whether so many servers live and every replica is where its document says, within so many seconds."""

    async def look() -> bool:
        async with ClusterView(list(etcd), cluster) as view:
            return not await view.await_rest(servers, within_s)

    try:
        return asyncio.run(look())
    except AminoError:
        return False
