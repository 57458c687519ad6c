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

GROUP = "amino.dm"


@lru_cache(maxsize=1)
def builtin() -> dict[str, type[Manager]]:
    """Return the managers that come with Amino, by name."""
    from amino.dm.checkpointing import PeriodicCheckpoint
    from amino.dm.mobility import ExplicitMigration
    from amino.dm.primitives import AtLeastOnceRPC
    from amino.dm.serializability import SerializableRPC

    return {cls.__name__: cls for cls in (AtLeastOnceRPC, ExplicitMigration, PeriodicCheckpoint, SerializableRPC)}


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
    managers = [manager_class(dm.name).from_options(dm.options) for dm in dms]
    check_chain(managers)
    return managers


def check_chain(managers: Sequence[Manager]) -> None:
    """Judge a chain by its managers' declarations.

    Raises:
        Invalid: a manager appears twice though it may appear once.
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
