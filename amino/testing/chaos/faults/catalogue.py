"""All faults, by name.

Owns the catalogue and what applies to which cluster. Leaves each fault to its module.
Invariant: a kind names one class.
Failure behaviour: an unknown kind is ``Invalid``, with those that there are.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable

from amino.errors import Invalid
from amino.testing.chaos.faults import clocks, containers, devices, etcd, memory, network, processes, rolling, store
from amino.testing.chaos.faults.fault import Fault, Scene, Shape, Together

TOGETHER, AT = "+", ":"


def _all() -> dict[str, type[Fault]]:
    found: dict[str, type[Fault]] = {}
    for module in (processes, network, etcd, containers, store, rolling, clocks, memory, devices):
        for one in vars(module).values():
            if (
                inspect.isclass(one)
                and issubclass(one, Fault)
                and one.__module__ == module.__name__
                and "kind" in vars(one)
            ):
                found[one.kind] = one
    return found


FAULTS: dict[str, type[Fault]] = _all()
"""Every fault by its kind."""


def known(kind: str) -> type[Fault]:
    """Return the fault of that kind.

    Raises:
        Invalid: there is none.
    """
    try:
        return FAULTS[kind]
    except KeyError:
        raise Invalid(f"no fault {kind!r}; there are {', '.join(FAULTS)}") from None


def parts_of(kind: str) -> list[type[Fault]]:
    """Return the faults that a kind is made of: ``kill-kernel+kill-member:leader`` is two at once, one with a fixed target."""
    return [known(one.partition(AT)[0]) for one in kind.split(TOGETHER)]


def applicable(kinds: Iterable[str], shape: Shape) -> list[str]:
    """Return those of ``kinds`` that a cluster of that shape lets happen."""
    return [
        kind for kind in kinds if all(one.needs <= shape.abilities and one.targets(shape) for one in parts_of(kind))
    ]


def make(scene: Scene, kind: str, target: str) -> Fault:
    """Make a fault, or several that happen together: kinds and targets joined by ``+``, in the same order."""
    kinds, targets = kind.split(TOGETHER), target.split(TOGETHER)
    if len(kinds) != len(targets):
        raise Invalid(f"{len(kinds)} faults in {kind!r} and {len(targets)} targets in {target!r}; give one for each")
    made = [known(one.partition(AT)[0])(scene, at) for one, at in zip(kinds, targets, strict=True)]
    return made[0] if len(made) == 1 else Together(made)
