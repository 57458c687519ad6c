"""A call, as it passes the chains, and the context a method runs in.

Owns ``Call``, request ids and ``current()``'s data. Leaves sending and running to stubs and kernel.
Invariant: a request id names one call of one client for good; retries keep it, nested calls extend it.
Failure behaviour: none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import msgspec

if TYPE_CHECKING:
    from amino.contracts.effects import Effects  # noqa: TC004 - an invocation is never encoded
    from amino.contracts.own import Firing  # noqa: TC004 - as above


class RequestId(NamedTuple):
    """Identity of a call: the root call's client, microservice and sequence, and the path of nested calls from there.

    ``path`` is empty for a call made by a client; the n-th call made while running a request appends n. Also the
    call-chain id: a call is re-entrant to another when it is nested in it.
    """

    client: str
    microservice: str
    sequence: int
    path: tuple[int, ...] = ()

    @property
    def stream(self) -> tuple[str, str]:
        """What sequences and floors are counted by: (client, microservice of the root call)."""
        return (self.client, self.microservice)

    def nested_in(self, outer: RequestId) -> bool:
        """Whether this call was made, directly or through others, while running ``outer``."""
        return len(self.path) > len(outer.path) and self[:3] == outer[:3] and self.path[: len(outer.path)] == outer.path

    def __str__(self) -> str:
        return "/".join([self.client, self.microservice, str(self.sequence), *map(str, self.path)])


request_id: Callable[[tuple[str, str, int, tuple[int, ...]]], RequestId] = partial(tuple.__new__, RequestId)
"""Makes a ``RequestId`` of its four parts, in a tuple: what each call does at both ends, without a Python call."""


class Call(msgspec.Struct):
    """One call on its way through a chain; the same object is passed on, components may change it.

    Args:
        microservice: id of the callee.
        method: name of the public method.
        args: positional arguments. kwargs: keyword arguments.
        flags: marks of the method (``amino.marks``).
        request: its id.
        deadline: on the local monotonic clock, in seconds.
        floor: lowest sequence of the stream that its client has not settled.
        attempt: how many earlier sends ended with an unknown outcome.
        first_sent: monotonic time of the first try to send it, for the stated age of retries; 0 before.
        path: the group the call goes to; set by client components that choose one.
        headers: values that a DM's client component passes to its server component; typed values only.
        peer_trusted: whether results may be pickled.
        executed: set by the kernel once the method has run (or its saved answer was found) in this attempt.
        age_s: at the server: seconds since the client first sent it.
        digest: at the server: checksum of method and arguments.
        result, raised, answer: at the server: what the method returned or raised, and its encoded form.
        encoded: at the client: arguments as encoded for sending; a component that changes the arguments clears it.
        sent_epoch: at the client: epoch of the placement that the last attempt went to.
        received: at the server: (codec, segments) of the arguments as they came; the method may change what it got.
        saved: at the server: this attempt found the answer of an earlier one and did not run the method.
        effects: at the server: records what the method takes from outside, or replays it (``contracts.effects``).
        spread: at the client: -1 for the group's primary, else which of the other replicas to ask, counted round.
        emitted: at the server: events of the object up to this number may be read once all managers were passed.
        surfaces: at the server: in a worker thread, it can go on on the server's loop (``aio.mode.surface``).
        holds: at the server: the outermost component need not wait; it may return at once and say with ``held`` for what.
        began: while calls are counted: when it began here, on the monotonic clock; else 0.
        traced: at the server: ticket of ``Telemetry.choose`` if the call has spans, else 0.
        held: at the server: the outcome leaves when this ``Signal`` is set: with None, or with the error to tell instead.
    """

    microservice: str
    method: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    flags: int
    request: RequestId
    deadline: float
    floor: int = 0
    attempt: int = 0
    first_sent: float = 0.0
    path: str = "/"
    headers: dict[str, Any] | None = None
    traceparent: str | None = None
    peer_trusted: bool = True
    executed: bool = False
    age_s: float = 0.0
    digest: int = 0
    result: Any = None
    raised: bool = False
    answer: Any = None
    encoded: tuple[int, Sequence[Any]] | None = None
    sent_epoch: int = 0
    received: tuple[int, Any] | None = None
    saved: bool = False
    effects: Any = None
    emitted: tuple[Any, int] | None = None
    spread: int = -1
    surfaces: bool = False
    holds: bool = False
    held: Any = None
    began: float = 0.0
    traced: int = 0

    @property
    def readonly(self) -> bool:
        """Whether the method is marked ``@amino.readonly``: it needs no checkpoint, entry or saved answer."""
        return bool(self.flags & 1)

    @property
    def idempotent(self) -> bool:
        """Whether the method is marked ``@amino.idempotent`` (or readonly)."""
        return bool(self.flags & 3)


Forward = Callable[[Call], Awaitable[Any]]
"""Passes a call on to the rest of the chain and returns its result."""


class Home(Protocol):
    """The kernel object, as the functions see it that methods call."""

    epoch: int
    instance: Any
    tables: Any

    def own_tables(self) -> Any:
        """Return what Amino keeps in the object's state (``kernel.tables.Tables``), made when first asked for."""
        ...


class Invocation(msgspec.Struct):
    """What runs right now in this thread or task; the data behind ``amino.current()``.

    Args:
        home: the object it runs in. readonly: it may not change that object. firing: the timer it runs for.
    """

    runtime: Any
    microservice: str
    replica: str
    path: str
    request: RequestId
    floor: int
    deadline: float
    server: str
    incarnation: int
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    nested: int = 0
    created: int = 0
    traceparent: str | None = None
    effects: Effects | None = None
    home: Home | None = None
    readonly: bool = False
    firing: Firing | None = None

    def next_nested(self) -> int:
        """Count one nested call and return its number, from 1."""
        self.nested += 1
        return self.nested

    def next_created(self) -> int:
        """Count one creation and return its number, from 1."""
        self.created += 1
        return self.created


CURRENT: ContextVar[Invocation | None] = ContextVar("amino_invocation", default=None)
"""The invocation this code runs in, if any."""


class Raised(Exception):
    """An application error on its way through the chains to the caller, so that nobody takes it for one of Amino's.

    A method may raise anything, an ``OutcomeUnknown`` of a nested call too; only errors outside this wrapper speak of
    the call itself. The stub unwraps it.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class CallHead(msgspec.Struct, array_like=True, gc=False):
    """Head of a CALL frame; the encoded arguments are its segments. Written by stubs, read by the dispatcher."""

    microservice: str
    path: str
    epoch: int
    method: str
    client: str
    root: str
    sequence: int
    nested: tuple[int, ...]
    floor: int
    attempt: int
    age_s: float
    budget_s: float
    codec: int
    traceparent: str | None = None
    headers: dict[str, Any] | None = None


FORKED: ContextVar[RequestId | None] = ContextVar("amino_forked", default=None)
"""The call that runs on a transaction's private copy in this context, if any."""

GUARD: ContextVar[Callable[[Any, Call], None] | None] = ContextVar("amino_guard", default=None)
"""Asked about each call that is made in this context, with the callee's chain; raises to refuse it."""

PROVISIONAL_HEADER = "txn"
"""Header of a call that belongs to a transaction: [transaction, number of the call in it, from 1]."""


SHARDS_HEADER = "shards"
"""Header of a call that is sent to every shard: the names of those."""


class PerShard(list[Any]):
    """Results of one call that was run on every shard, in the order of the shards; the stub folds them into one."""


COMPONENT = ":"
"""What the name of a message to a component begins with: ``:Manager:topic``, in place of a method's name."""


def component_message(manager: str, topic: str) -> str:
    """Return the method name of a message to the server component of ``manager``."""
    return f"{COMPONENT}{manager}{COMPONENT}{topic}"


encode_call_head = msgspec.msgpack.Encoder().encode
decode_call_head = msgspec.msgpack.Decoder(CallHead).decode
