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
    from collections.abc import Callable

    from amino.contracts.calls import Call, Forward
    from amino.contracts.context import ClientContext, ServerContext
    from amino.contracts.levels import Level
    from amino.contracts.sharding import Transition


class Trait(Enum):
    """What a manager gives to, or needs from, the rest of its chain and cluster."""

    TRANSACTIONS = "runs several calls as one"
    PROMISES = "keeps promises to other microservices, which must outlive its server"
    RETRIES = "repeats calls whose outcome is unknown"
    ORDER = "runs calls one at a time"
    CHECKPOINTS = "keeps state in the checkpoint store"
    DURABLE = "keeps what was acknowledged through the loss of every process"
    REPLICATES = "keeps alike copies on several servers"
    RESTORES_STATE = "restores or replicates the object's state"
    SHARDS = "divides the object's state over shards"
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

    def level(self, place: int) -> Level | None:  # noqa: ARG002 - most managers form no group
        """Return the group that this manager forms at ``place`` of a chain, None if it forms none."""
        return None

    def keeps_each_call(self) -> bool:
        """Whether what a call did outlives the server before the call is acknowledged."""
        return bool(self.provides & {Trait.DURABLE, Trait.REPLICATES})

    def brings_back(self) -> bool:
        """Whether it brings back earlier states of the object, at the replica where it decides to."""
        return False

    def client(self, context: ClientContext) -> ClientBase | None:
        """Return the client component, or None if this manager has none."""

    def server(self, context: ServerContext) -> ServerBase | None:
        """Return the server component, or None if this manager has none."""

    def outer_server(self, context: ServerContext) -> ServerBase | None:
        """Return a second server component, directly further out: to it, the first one is part of the object."""


class ClientBase:
    """A client component that passes everything through; override what you need."""

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call on its way out."""
        return await forward(call)


class ServerBase:
    """A server component that passes everything through; override what you need.

    Attributes:
        readonly_topics: topics of ``on_message`` that change nothing.
        takes_provisional: whether ``on_call`` runs calls of transactions on private copies.
        holds: whether ``on_call``, if it is outermost, has the kernel hold outcomes (``Call.held``) in place of waiting.
    """

    readonly_topics: ClassVar[frozenset[str]] = frozenset()
    takes_provisional: ClassVar[bool] = False
    holds: ClassVar[bool] = False

    async def on_call(self, call: Call, forward: Forward) -> Any:
        """Handle a call on its way to the object."""
        return await forward(call)

    async def before_call(self, call: Call) -> Callable[[], None] | None:  # noqa: ARG002 - see contracts.component
        """A call is about to enter the chain; wait here for other callers."""
        return None

    async def on_create(self) -> None:
        """The object was just constructed, before it is confirmed."""

    async def on_destroy(self) -> None:
        """The object is being deleted for good."""

    def on_snapshot(self) -> Any:
        """Return this component's state."""

    def on_restore(self, state: Any) -> None:
        """Take over this component's state."""

    def replication_lag(self) -> int | None:
        """Return how many entries the slowest in-sync replica has still to acknowledge; None if this is no primary."""
        return None

    async def on_recover(self) -> None:
        """The object was restored from its newest checkpoint, before it is confirmed."""

    async def on_start(self) -> None:
        """The replica is about to serve."""

    async def on_stop(self) -> None:
        """The replica leaves this process."""

    async def before_snapshot(self) -> None:
        """A snapshot is about to be taken: come to where it may be released."""

    async def on_message(self, topic: str, payload: Any, call: Call) -> Any:  # noqa: ARG002 - see contracts.component
        """Handle a message that came as a call through the managers further out."""
        raise Invalid(f"{type(self).__name__} takes no messages, so {topic!r} has no meaning")

    def shards(self) -> Transition | None:
        """Return the newest change of shards that this shard has heard of."""

    async def on_member_change(self) -> None:
        """The group's document changed."""

    def on_heartbeat(self, server: str, incarnation: int, epoch: int) -> bool:  # noqa: ARG002 - see contracts.component
        """Return whether nothing newer than ``epoch`` is known of the group."""
        return True

    def on_acknowledged(self, server: str, incarnation: int, sent_at: float) -> None:
        """A server acknowledged a heartbeat."""

    def on_server_lost(self, server: str, incarnation: int) -> None:
        """An incarnation is gone."""

    def on_notification(self, topic: str, payload: bytes) -> bytes:  # noqa: ARG002 - see contracts.component
        """Handle what this manager's component at another replica of the group sent."""
        raise Invalid(f"{type(self).__name__} takes no notifications, so {topic!r} has no meaning")

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
