"""Removing checkpoint files that nothing names any more.

Owns deletion of a microservice's files (descriptions too) and collection of orphans. Leaves manifests to the OMS, which deletes them
after the files.
Invariants: a file that a manifest names, or that is younger than the horizon (it may be about to be published), is never
collected. Failure behaviour: ``StoreFailed``; what was removed stays removed, calling again goes on.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any

from amino.checkpoint import names
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.store import CheckpointStore, StoredFile
from amino.contracts.documents import Manifest

HORIZON_S = 3600.0
UNKNOWN_HORIZON_S = 7 * 86400.0


async def delete_all(access: StoreAccess, ms_id: str) -> int:
    """Remove every file of a microservice (checkpoints of all its groups, large arguments); returns how many.

    Idempotent. Call it once the group's document says that it is being deleted: from then on nothing is published.
    """
    return await access.run(_delete_all, access.store, ms_id, timeout_s=4 * access.timeout_s)


async def collect(
    access: StoreAccess,
    manifests: Mapping[str, tuple[Manifest, ...]],
    *,
    mine: Callable[[str], bool] = lambda _ms_id: True,
    horizon_s: float = HORIZON_S,
    unknown_horizon_s: float = UNKNOWN_HORIZON_S,
) -> int:
    """Remove files that crashes left behind; returns how many.

    Args:
        manifests: microservice id -> manifests of its groups, read *before* this call; an existing microservice without
            any has an empty tuple.
        mine: whether to look at the files of that microservice (a slot leader looks at its slots' only).
        horizon_s: how old, by the store's clock, an unnamed file of an existing microservice must be; far above the
            time between writing and publishing.
        unknown_horizon_s: the same for microservices that are not in ``manifests``; long, so that an etcd that was
            brought back empty by mistake does not cost the checkpoints too.
    """
    named = {entry.url for group in manifests.values() for manifest in group for entry in manifest.entries}

    def horizon_of(ms_id: str) -> float | None:
        if not mine(ms_id):
            return None
        return horizon_s if ms_id in manifests else unknown_horizon_s

    return await access.run(_collect, access.store, named, horizon_of, horizon_s, timeout_s=20 * access.timeout_s)


def _delete_all(store: CheckpointStore, ms_id: str) -> int:
    keys = [file.key for file in store.list(names.descriptions_of(ms_id))]  # first: without one nothing brings it back
    keys += [file.key for file in store.list(names.checkpoints_of(ms_id))]
    if store.exists(names.arguments(ms_id)):
        keys.append(names.arguments(ms_id))
    for key in keys:
        store.delete(key)
    return len(keys)


def _collect(
    store: CheckpointStore, named: set[str], horizon_of: Callable[[str], float | None], horizon_s: float, *_: Any
) -> int:
    now = _now(store)
    removed = store.sweep(horizon_s)
    kept: set[str] = set()
    for file in store.list(names.CHECKPOINTS):
        horizon = horizon_of(names.microservice_of(file.key))
        if horizon is not None and names.checkpoint_of(file.key) not in named and now - file.modified_at >= horizon:
            store.delete(file.key)
            removed += 1
        else:
            kept.add(names.microservice_of(file.key))
    return removed + _collect_descriptions(store, kept, horizon_of, now)


def _collect_descriptions(
    store: CheckpointStore, kept: set[str], horizon_of: Callable[[str], float | None], now: float
) -> int:
    """Remove descriptions that a newer one of the same group has replaced, and those of what has no checkpoint."""
    described: dict[tuple[str, str], list[StoredFile]] = {}
    for file in store.list(names.DESCRIPTIONS):
        described.setdefault(names.group_of_description(file.key), []).append(file)
    removed = 0
    for (ms_id, _), files in described.items():
        horizon = horizon_of(ms_id)
        if horizon is None:
            continue
        newest = max(file.modified_at for file in files)
        for file in files:
            replaced = file.modified_at < newest - horizon
            if replaced or (ms_id not in kept and now - file.modified_at >= horizon):
                store.delete(file.key)
                removed += 1
    return removed


def _now(store: CheckpointStore) -> float:
    """Return the store's own time: ages are judged by the clock that stamps its files."""
    folder = names.PROBES + secrets.token_hex(8)
    store.write(f"{folder}/now", [b"."])
    try:
        (probe,) = store.list(folder + "/")
        return probe.modified_at
    finally:
        store.delete(f"{folder}/now")
