"""``amino.spec``: a class and how it shall be deployed.

Owns building and checking specs. Leaves loading code to ``code`` and placement to the OMS.
Invariant: a spec is immutable, and equal content gives an equal document.
Failure behaviour: bad names, options and selectors raise ``Invalid`` at once, before anything is sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, Literal, Protocol, TypeVar

from amino.contracts.documents import DmSpec, MicroserviceSpec, Placement, Requirement
from amino.errors import Invalid
from amino.ids import valid_name

T = TypeVar("T")


class ManagerLike(Protocol):
    """Anything that can be named in a chain: a deployment manager with its options."""

    def to_spec(self) -> DmSpec:
        """Return name and options."""
        ...


@dataclass(frozen=True, slots=True)
class Spec(Generic[T]):
    """A class with its deployment; pass it to ``cluster.new``. Made by ``amino.spec``.

    Args:
        cls: the class; stubs have its methods.
        document: the same as a document, without the code's hash.
    """

    cls: type[T]
    document: MicroserviceSpec


def spec(
    cls: type[T],
    *,
    name: str = "",
    dms: Sequence[ManagerLike] = (),
    placement: Placement | None = None,
    selector: Mapping[str, str | Sequence[str]] | None = None,
    on_loss: Literal["fail", "recreate"] = "fail",
    labels: Mapping[str, str] | None = None,
) -> Spec[T]:
    """Return how ``cls`` shall run.

    Args:
        cls: a plain class.
        name: unique in the cluster; empty for none. Letters, digits, ``.``, ``_``, ``-``; at most 128.
        dms: the chain of deployment managers, outermost first.
        placement: where it may run; ``selector`` is the short form for "label equals, or is one of".
        on_loss: what happens when its state is lost beyond recovery.
        labels: its own labels, to find it by.

    Raises:
        Invalid: a name, label or manager breaks a rule.
    """
    if not isinstance(cls, type):
        raise Invalid(f"amino.spec takes a class, not {cls!r}; pass the class itself and its arguments to cluster.new")
    if name and not valid_name(name):
        raise Invalid(f"the name {name!r} is not valid; use 1 to 128 letters, digits, '.', '_' and '-'")
    if on_loss not in {"fail", "recreate"}:
        raise Invalid(f"on_loss is {on_loss!r}; it is 'fail' or 'recreate'")
    if placement is not None and selector is not None:
        raise Invalid("both placement and selector are given; selector is the short form of placement, give one")
    if selector is not None:
        placement = Placement(selector=(tuple(_requirement(key, value) for key, value in selector.items()),))
    for manager in dms:
        if isinstance(manager, type) or not hasattr(manager, "to_spec"):
            raise Invalid(f"{manager!r} in dms is not a deployment manager with options; write {_called(manager)}")
    document = MicroserviceSpec(
        cls=f"{cls.__module__}:{cls.__qualname__}",
        name=name,
        dms=tuple(manager.to_spec() for manager in dms),
        placement=placement or Placement(),
        on_loss=on_loss,
        labels=dict(labels or {}),
    )
    return Spec(cls, document)


def _requirement(key: str, value: str | Sequence[str]) -> Requirement:
    if isinstance(value, str):
        return Requirement(key, "Equal", (value,))
    return Requirement(key, "In", tuple(value))


def _called(manager: Any) -> str:
    return f"{manager.__name__}()" if isinstance(manager, type) else "for example amino.dm.AtLeastOnceRPC()"
