"""What the three gRPC services have in common: reading requests, deadlines, ending requests with errors.

Owns the frame around every method of a service. Leaves what a method does to the service's own module.
Invariants: requests are parsed here, not by gRPC, so that what is wrong with them is said; whatever a method raises
ends its own request and nothing else; no message holds up the loop, however large.
Failure behaviour: ``AminoError``s end the request by ``errors``; anything else is a bug, logged, its outcome unknown.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from amino.errors import AminoError, Invalid, NotEncodable, OutcomeUnknown
from amino.limits import DEADLINE_S_DEFAULT
from amino.rpc.grpc.errors import abort
from amino.wire import typed

_log = logging.getLogger("amino.grpc")
T = TypeVar("T")

TIMEOUT_S_MAX = 24 * 3600.0
MESSAGE_BYTES_MAX = 16 * 1024 * 1024
"""Less than a frame of the peer link: small values grow fortyfold when they are read."""
OFFLOAD_BYTES = 64 * 1024
"""Messages larger than this are read and written in a thread; a million values take a second."""
OFFLOAD_PARTS = 2000
"""So are results of more parts than this."""

Context = grpc.aio.ServicerContext
Method = Callable[[Any, Any], Awaitable[Message]]
"""Takes the request's message and the gRPC context; returns the reply's message."""


@dataclass(slots=True)
class Counters:
    """How requests ended. ``refused``: with an ``AminoError``; ``failed``: by a bug."""

    answered: int = 0
    refused: int = 0
    failed: int = 0


def generic_handler(
    service: ServiceDescriptor, methods: Mapping[str, Method], counters: Counters, message_bytes_max: int
) -> grpc.GenericRpcHandler:
    """Return what gRPC needs to serve ``service``; ``methods`` has one entry for each of its methods."""
    missing = {method.name for method in service.methods} ^ methods.keys()
    assert not missing, f"{service.full_name} and its adapter differ in {sorted(missing)}"
    handlers = {
        method.name: grpc.unary_unary_rpc_method_handler(
            _framed(method, methods[method.name], counters, message_bytes_max)
        )
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, handlers)


def seconds_left(context: Any, timeout_s: float | None, default_s: float = DEADLINE_S_DEFAULT) -> float:
    """Return how many seconds a request may take: the earlier of what it says and its gRPC deadline.

    Raises:
        Invalid: ``timeout_s`` is not a number of seconds above 0 and up to a day.
    """
    if timeout_s is not None and not (math.isfinite(timeout_s) and 0 < timeout_s <= TIMEOUT_S_MAX):
        raise Invalid(f"timeout_s is {timeout_s}; give seconds above 0 and at most {TIMEOUT_S_MAX:.0f}")
    remaining: float | None = context.time_remaining()
    if remaining is None or remaining > TIMEOUT_S_MAX:
        return timeout_s if timeout_s is not None else default_s
    return max(remaining if timeout_s is None else min(timeout_s, remaining), 0.0)


async def converted(large: bool, convert: Callable[[], T]) -> T:
    """Return what ``convert`` returns; if it has a lot to do, the loop goes on meanwhile."""
    return await asyncio.to_thread(convert) if large else convert()


def metadata_value(context: Any, key: str) -> str | None:
    """Return the value of ``key`` in the request's metadata as text, None if there is none."""
    for name, value in context.invocation_metadata() or ():
        if name == key:
            return value if isinstance(value, str) else bytes(value).decode(errors="replace")
    return None


def _framed(
    method: MethodDescriptor, run: Method, counters: Counters, message_bytes_max: int
) -> Callable[[bytes, Any], Awaitable[bytes]]:
    request_class = GetMessageClass(method.input_type)

    async def framed(data: bytes, context: Any) -> bytes:
        try:
            large = len(data) > OFFLOAD_BYTES
            request = await converted(large, lambda: typed.parse(data, request_class))
            reply = (await run(request, context)).SerializeToString()
            if len(reply) > message_bytes_max:
                raise NotEncodable(
                    f"the reply of {method.full_name} is {len(reply)} bytes, over the limit of {message_bytes_max}; "
                    "the request was carried out: ask for less at a time",
                    executed=True,
                )
        except AminoError as error:
            counters.refused += 1
            problem: AminoError = error
        except Exception as error:  # noqa: BLE001 - a bug must end this request only
            counters.failed += 1
            _log.exception("%s failed", method.full_name)
            problem = OutcomeUnknown(
                f"{method.full_name} failed inside the server: {type(error).__name__}: {error}; "
                "its log has the traceback"
            )
        else:
            counters.answered += 1
            return reply
        return await abort(context, problem)

    return framed
