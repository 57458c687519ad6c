"""A call, as it passes the chains, and the context a method runs in.

Owns ``Call``, request ids and ``current()``'s data. Leaves sending and running to stubs and kernel.
Invariant: a request id names one call of one client for good; retries keep it, nested calls extend it.
Failure behaviour: none.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec


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


@dataclass(slots=True)
class Call:
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
        first_sent: monotonic time of the first send, for the stated age of retries; 0 before.
        path: the group the call goes to; set by client components that choose one.
        headers: values that a DM's client component passes to its server component; typed values only.
        peer_trusted: whether results may be pickled.
        executed: set by the kernel once the method has run (or its saved answer was found) in this attempt.
        age_s: at the server: seconds since the client first sent it.
        digest: at the server: checksum of method and arguments.
        result, raised, answer: at the server: what the method returned or raised, and its encoded form.
        encoded: at the client: arguments as encoded for sending; a component that changes the arguments clears it.
        sent_epoch: at the client: epoch of the placement that the last attempt went to.
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
    encoded: tuple[int, list[Any]] | None = None
    sent_epoch: int = 0

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


@dataclass(slots=True)
class Invocation:
    """What runs right now in this thread or task; the data behind ``amino.current()``."""

    runtime: Any
    microservice: str
    replica: str
    path: str
    request: RequestId
    floor: int
    deadline: float
    server: str
    incarnation: int
    labels: Mapping[str, str] = field(default_factory=dict)
    nested: int = 0
    created: int = 0
    traceparent: str | None = None

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


encode_call_head = msgspec.msgpack.Encoder().encode
decode_call_head = msgspec.msgpack.Decoder(CallHead).decode
