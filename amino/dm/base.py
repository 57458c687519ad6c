"""What every deployment manager is: options, declarations, components, control handle.

Owns the base classes and the validation of options. Leaves behaviour to the managers and composing to ``chain``.
Invariants: options are typed, defaulted and checked when the manager is made; a manager is immutable.
Failure behaviour: a bad option raises ``Invalid`` naming the option, the value and the range.
"""

from __future__ import annotations

from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, Self

import msgspec

from amino.contracts.documents import DmSpec
from amino.errors import Invalid

if TYPE_CHECKING:
    from amino.contracts.calls import Call, Forward
    from amino.contracts.component import ClientContext, ServerContext


class Trait(Enum):
    """What a manager gives to, or needs from, the rest of its chain and cluster."""

    RETRIES = "repeats calls whose outcome is unknown"
    ORDER = "runs calls one at a time"
    CHECKPOINTS = "keeps state in the checkpoint store"
    RESTORES_STATE = "restores or replicates the object's state"
    STORE = "a checkpoint store that all its servers share"
    MIGRATION = "lets the application move it"


class Manager(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of deployment managers; its fields are the options.

    Subclasses declare ``provides`` and ``requires`` and return their components. Constraints are written with
    ``Annotated[float, msgspec.Meta(gt=0)]`` and checked when the manager is made.
    """

    provides: ClassVar[frozenset[Trait]] = frozenset()
    requires: ClassVar[frozenset[Trait]] = frozenset()
    unique: ClassVar[bool] = True

    def __post_init__(self) -> None:
        try:
            msgspec.convert(_options(self), _twin(type(self)), strict=True)
        except msgspec.ValidationError as error:
            raise _invalid(type(self), error, _options(self)) from None
        self.check()

    def check(self) -> None:
        """Check relations between options; raise ``Invalid`` naming them."""

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> Self:
        """Return the manager with ``options`` from a document.

        Raises:
            Invalid: an unknown option, or a value out of its range; lists what there is.
        """
        try:
            return msgspec.convert(options, cls, strict=True)
        except msgspec.ValidationError as error:
            raise _invalid(cls, error, options) from None

    def to_spec(self) -> DmSpec:
        """Return name and options that differ from the defaults."""
        defaults = dict(zip(self.__struct_fields__, self.__struct_defaults__, strict=True))
        return DmSpec(
            type(self).__name__, {key: value for key, value in _options(self).items() if value != defaults[key]}
        )

    def client(self, context: ClientContext) -> ClientBase | None:
        """Return the client component, or None if this manager has none."""

    def server(self, context: ServerContext) -> ServerBase | None:
        """Return the server component, or None if this manager has none."""


class ClientBase:
    """A client component that passes everything through; override what you need."""

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call on its way out."""
        return await forward(call)


class ServerBase:
    """A server component that passes everything through; override what you need."""

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call on its way to the object."""
        return await forward(call)

    async def on_create(self) -> None:
        """The object was just constructed, before it is confirmed."""

    async def on_destroy(self) -> None:
        """The object is being deleted for good."""

    def on_snapshot(self) -> Any:
        """Return this component's state."""

    def on_restore(self, state: Any) -> None:
        """Take over this component's state."""

    async def on_start(self) -> None:
        """The replica is about to serve."""

    async def on_stop(self) -> None:
        """The replica leaves this process."""

    async def on_notification(self, topic: str, payload: Any) -> Any:
        """A message from another component of this manager."""

    async def on_low_memory(self) -> None:
        """Drop what can be dropped."""

    async def on_high_latency(self, p99_s: float) -> None:
        """Calls take unusually long."""


@lru_cache(maxsize=256)
def _twin(cls: type[Manager]) -> type[msgspec.Struct]:
    """Return a plain struct with the same options, to check values against: making one does not check again."""
    options = [(option.name, option.type, option.default) for option in msgspec.structs.fields(cls)]
    return msgspec.defstruct(cls.__name__, options, kw_only=True)


def _options(manager: Manager) -> dict[str, Any]:
    return {name: getattr(manager, name) for name in manager.__struct_fields__}


def _invalid(cls: type[Manager], error: Exception, options: dict[str, Any]) -> Invalid:
    known = ", ".join(cls.__struct_fields__) or "none"
    rule, _, place = str(error).partition(" - at `$.")  # how msgspec ends its messages
    option = place.rstrip("`").partition(".")[0].partition("[")[0]
    given = f"{option}={options[option]!r}: " if option in options else ""
    return Invalid(f"{cls.__name__}: {given}{rule}; its options are: {known}")
