"""Finding managers by name, and judging whether a chain can work.

Owns the table of managers (built in, and published by others under the entry point group ``amino.dm``) and the rules
derived from their declarations. Leaves options to the managers.
Invariant: a chain that is accepted names each manager once and meets every requirement.
Failure behaviour: an unknown manager raises ``CodeUnavailable`` (another server may have it); a chain that cannot work
raises ``Invalid`` with the reason derived from the declarations.
"""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from amino.dm.base import Manager, Trait
from amino.errors import CodeUnavailable, Invalid

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.contracts.documents import DmSpec
    from amino.contracts.levels import Level

GROUP = "amino.dm"


@lru_cache(maxsize=1)
def builtin() -> dict[str, type[Manager]]:
    """Return the managers that come with Amino, by name."""
    from amino.dm.checkpointing import ExplicitCheckpoint, PeriodicCheckpoint
    from amino.dm.durability import DurableSerializableRPC
    from amino.dm.mobility import ExplicitMigration
    from amino.dm.primitives import AtLeastOnceRPC
    from amino.dm.replication import ConsensusRSM, ConsensusRSMGeo, ConsensusRSMP2P, LoadBalancedMasterSlave
    from amino.dm.serializability import SerializableRPC
    from amino.dm.sharding import DHT
    from amino.dm.transactions import DurableTransactions, LockingTransactions, OptimisticTransactions, TwoPhaseCommit

    managers: tuple[type[Manager], ...] = (
        AtLeastOnceRPC,
        ConsensusRSM,
        ConsensusRSMGeo,
        ConsensusRSMP2P,
        DHT,
        DurableSerializableRPC,
        DurableTransactions,
        ExplicitCheckpoint,
        ExplicitMigration,
        LoadBalancedMasterSlave,
        LockingTransactions,
        OptimisticTransactions,
        PeriodicCheckpoint,
        SerializableRPC,
        TwoPhaseCommit,
    )
    return {cls.__name__: cls for cls in managers}


@lru_cache(maxsize=256)
def manager_class(name: str) -> type[Manager]:
    """Return the manager called ``name``.

    Raises:
        CodeUnavailable: not installed here, or its package cannot be imported.
    """
    found = builtin().get(name)
    if found is not None:
        return found
    published = entry_points(group=GROUP)
    for entry in published:
        if entry.name != name:
            continue
        try:
            loaded = entry.load()
        except Exception as error:  # whatever a third party's import raises
            raise CodeUnavailable(f"deployment manager {name} from {entry.value} cannot be loaded: {error}") from error
        if not (isinstance(loaded, type) and issubclass(loaded, Manager)):
            raise CodeUnavailable(
                f"{entry.value} is published as deployment manager {name} and is not an amino.dm.Manager"
            )
        return loaded
    known = sorted([*builtin(), *(entry.name for entry in published)])
    raise CodeUnavailable(
        f"no deployment manager is called {name!r} here; there are {', '.join(known)}. "
        f"Third parties publish theirs under the entry point group {GROUP!r}"
    )


def managers_of(dms: Sequence[DmSpec]) -> list[Manager]:
    """Return the managers of a chain, checked.

    Raises:
        CodeUnavailable: one is not installed here. Invalid: an option or the combination breaks a rule.
    """
    if not dms:
        return []
    managers = [manager_class(dm.name).from_options(dm.options) for dm in dms]
    check_chain(managers)
    return managers


def check_chain(managers: Sequence[Manager]) -> None:
    """Judge a chain by its managers' declarations.

    Raises:
        Invalid: a manager appears twice though it may appear once, or one undoes what another provides.
    """
    seen: dict[type[Manager], int] = {}
    for position, manager in enumerate(managers):
        kind = type(manager)
        if kind in seen and kind.unique:
            raise Invalid(
                f"{kind.__name__} stands at places {seen[kind] + 1} and {position + 1} of the chain; "
                "it manages the whole object and can be named once"
            )
        seen[kind] = position
    keepers = [type(manager).__name__ for manager in managers if Trait.CHECKPOINTS in manager.provides]
    if len(keepers) > 1:
        raise Invalid(
            f"{' and '.join(keepers)} cannot stand in one chain: each {Trait.CHECKPOINTS.value}, and the object can come "
            "back from one's only; name one of them"
        )
    _check_replicas(managers)
    _check_transactions(managers)
    _check_shards(managers)
    _check_levels([level for place, manager in enumerate(managers) if (level := manager.level(place)) is not None])


def _check_replicas(managers: Sequence[Manager]) -> None:
    """Checkpoints are of the group, not of each replica; and what one replica brings back, the others would not."""
    replicating = next((place for place, one in enumerate(managers) if Trait.REPLICATES in one.provides), None)
    if replicating is None:
        return
    name = type(managers[replicating]).__name__
    for place, one in enumerate(managers):
        if place != replicating and one.brings_back():
            raise Invalid(
                f"{type(one).__name__} as it is set brings back earlier states at one replica, and {name} "
                f"{Trait.REPLICATES.value}: the others would not follow, whichever stands first. "
                f"Use PeriodicCheckpoint without rollback_on_error after {name}"
            )
        if place < replicating and Trait.CHECKPOINTS in one.provides:
            raise Invalid(
                f"{type(one).__name__} stands before {name}, which {Trait.REPLICATES.value}: each of them would write the "
                f"checkpoints of the one object; name {name} first"
            )


def _check_shards(managers: Sequence[Manager]) -> None:
    """What keeps state must stand after the manager of shards: which keys a shard owns is part of the state it keeps."""
    sharding = next((place for place, one in enumerate(managers) if Trait.SHARDS in one.provides), None)
    for place, one in enumerate(managers):
        if sharding is not None and place < sharding and Trait.RESTORES_STATE in one.provides:
            inner, outer = type(one).__name__, type(managers[sharding]).__name__
            raise Invalid(
                f"{inner} stands before {outer}, so it would restore a shard without which keys it owns; name {outer} first"
            )


def _check_levels(levels: Sequence[Level]) -> None:
    for kind, why in (("replicated", "each wants to be the one that orders"), ("shards", "each wants to own the keys")):
        several = [level.manager for level in levels if level.kind == kind]
        if len(several) > 1:
            raise Invalid(f"{' and '.join(several)} cannot stand in one chain: {why}; name one of them")
    if [level.kind for level in levels] == ["replicated", "shards"]:
        outer, inner = levels
        raise Invalid(
            f"{outer.manager} stands before {inner.manager}, which would shard each of its replicas; "
            f"name {inner.manager} first: each shard is replicated then"
        )


def levels_of(dms: Sequence[DmSpec]) -> tuple[Level, ...]:
    """Return the levels of a chain, outermost first.

    Raises:
        CodeUnavailable: a manager is not installed here.
    """
    managers = [manager_class(dm.name).from_options(dm.options) for dm in dms]
    return tuple(level for place, manager in enumerate(managers) if (level := manager.level(place)) is not None)


def _check_transactions(managers: Sequence[Manager]) -> None:
    """A commit replays its calls on all that is further in: nobody there may restore or log them one by one."""
    transactional = [one for one in managers if Trait.TRANSACTIONS in one.provides]
    if not transactional:
        return
    name = type(transactional[0]).__name__
    if len(transactional) > 1:
        raise Invalid(
            f"{name} and {type(transactional[1]).__name__} both say: {Trait.TRANSACTIONS.value}; a call belongs to one "
            "transaction, so name one of them"
        )
    if Trait.PROMISES in transactional[0].provides and not any(each.keeps_each_call() for each in managers):
        raise Invalid(
            f"{name} {Trait.PROMISES.value}, and nothing in its chain keeps each call; put ConsensusRSM, "
            "DurableSerializableRPC or PeriodicCheckpoint(every=1) after it"
        )
    for manager in managers[: managers.index(transactional[0])]:
        if Trait.RESTORES_STATE in manager.provides:
            restoring = type(manager).__name__
            raise Invalid(
                f"{restoring} stands before {name}: it {Trait.RESTORES_STATE.value}, call by call, and {name} "
                f"{Trait.TRANSACTIONS.value}; put {name} first, then {restoring} sees a commit as one call"
            )


def provides(dms: Sequence[DmSpec], trait: Trait) -> bool:
    """Return whether some manager of the chain provides ``trait``; managers unknown here provide nothing."""
    for dm in dms:
        try:
            if trait in manager_class(dm.name).provides:
                return True
        except CodeUnavailable:
            continue
    return False


def requires(dms: Sequence[DmSpec], trait: Trait) -> bool:
    """Return whether some manager of the chain requires ``trait`` of the cluster."""
    for dm in dms:
        try:
            if trait in manager_class(dm.name).requires:
                return True
        except CodeUnavailable:
            continue
    return False
