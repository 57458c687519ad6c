"""The gRPC service Invoke: calls with typed values, from any language.

Owns reading calls and telling outcomes. Leaves making the call to the ``Invoker`` it is given.
Invariants: status OK says that the method ran; what it raised is data, never a status.
Failure behaviour: as ``service``; a result without a typed form is refused with the path to the offending part.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any, Protocol

from google.protobuf.message import Message

from amino.contracts.calls import Raised
from amino.contracts.services import ByName
from amino.errors import AminoError, Invalid, NotEncodable, RemoteError
from amino.ids import valid_name
from amino.rpc.grpc.messages import read_arguments
from amino.rpc.grpc.service import OFFLOAD_PARTS, Method, converted, metadata_value, seconds_left
from amino.wire import typed
from amino.wire.gen.amino_v1.invoke_pb2 import ApplicationError, CallReply, CallRequest
from amino.wire.typed import Bind

MESSAGE_LENGTH_MAX = 8192
TRACEBACK_LENGTH_MAX = 16384


@dataclass(frozen=True, slots=True)
class CallerRequest:
    """The identity that a caller gave to its call, so that it may repeat it.

    Args:
        client: the caller's own id.
        sequence: from 1, by client and microservice.
        floor: lowest sequence the caller may still repeat.
        attempt: how many earlier tries ended with an unknown outcome.
        age_s: seconds since the first try.
    """

    client: str
    sequence: int
    floor: int
    attempt: int = 0
    age_s: float = 0.0


class Invoker(Protocol):
    """Makes a call on behalf of a caller in another language."""

    async def __call__(
        self,
        target: ByName,
        method: str,
        args: list[Any],
        kwargs: dict[str, Any],
        deadline_s: float,
        request: CallerRequest | None,
        traceparent: str | None,
    ) -> Any:
        """Call ``method`` through the client components of the microservice's managers and return its result.

        Args:
            target: the microservice, by id or by name.
            deadline_s: seconds from now; cancelled when the caller's own gRPC deadline passes or it goes away.
            request: the caller's identity of the call, None if it will not repeat it.
            traceparent: W3C context of the caller, None if it has none.

        Raises:
            AminoError: the call could not be carried out, or nobody can say whether it was.
            Raised: the method raised; so does any other exception that is no ``AminoError``, and ``RemoteError``.
        """
        ...


class InvokeService:
    """The methods of ``amino.v1.Invoke``.

    Args:
        invoker: makes the calls.
        bind: makes refs among arguments callable.
    """

    def __init__(self, invoker: Invoker, bind: Bind | None = None) -> None:
        self._invoker = invoker
        self._bind = bind

    def methods(self) -> dict[str, Method]:
        """Return the methods by name."""
        return {"Call": self._call}

    async def _call(self, message: CallRequest, context: Any) -> Message:
        target = _target(message)
        args, kwargs = await read_arguments(message, self._bind)
        deadline_s = seconds_left(context, message.timeout_s if message.HasField("timeout_s") else None)
        request = _request(message)
        traceparent = metadata_value(context, "traceparent")
        try:
            result = await self._invoker(target, message.method, args, kwargs, deadline_s, request, traceparent)
        except Raised as raised:
            return CallReply(application_error=_application_error(raised.error))
        except RemoteError as error:
            return CallReply(application_error=_application_error(error))
        except AminoError:
            raise
        except Exception as error:  # noqa: BLE001 - whatever the method raised is the call's outcome
            return CallReply(application_error=_application_error(error))
        try:
            large = typed.has_more_parts(result, OFFLOAD_PARTS)
            return await converted(large, lambda: CallReply(value=typed.to_value(result, "result")))
        except NotEncodable as error:
            raise NotEncodable(f"{error.message}. The method did run", executed=True) from error


def _target(message: CallRequest) -> ByName:
    kind = message.WhichOneof("target")
    if kind is None or not getattr(message, kind):
        raise Invalid("the call names no microservice; set microservice (its id) or name")
    if not message.method:
        raise Invalid("the call names no method; set method")
    if message.method.startswith("_"):
        raise Invalid(
            f"method {message.method!r} is not public; only methods without a leading underscore can be called"
        )
    return ByName(**{kind: getattr(message, kind)})


def _request(message: CallRequest) -> CallerRequest | None:
    if not message.HasField("request_id"):
        return None
    given = message.request_id
    if not valid_name(given.client):
        raise Invalid(
            f"request_id.client is {given.client[:80]!r}; use 1 to 128 letters, digits, '.', '_', '-', unique for good"
        )
    if given.sequence < 1:
        raise Invalid(f"request_id.sequence is {given.sequence}; count calls per client and microservice from 1")
    floor = given.floor or given.sequence
    if not 1 <= floor <= given.sequence:
        raise Invalid(f"request_id.floor is {given.floor}; it lies between 1 and the sequence, {given.sequence}")
    if given.attempt < 0 or not given.age_s >= 0:
        raise Invalid(f"request_id.attempt is {given.attempt} and age_s {given.age_s}; both are 0 or more")
    return CallerRequest(given.client, given.sequence, floor, given.attempt, given.age_s)


def _application_error(error: BaseException) -> ApplicationError:
    if isinstance(error, RemoteError):
        prefix = f"{error.type_name}: "
        name, message, trace = error.type_name, error.message.removeprefix(prefix), error.remote_traceback
    else:
        name = f"{type(error).__module__}.{type(error).__qualname__}"
        message = str(error)
        notes = [note for note in getattr(error, "__notes__", ()) if isinstance(note, str)]
        trace = "\n".join(notes) or "".join(traceback.format_exception(error))
    return ApplicationError(
        type_name=_sendable(name, MESSAGE_LENGTH_MAX),
        message=_sendable(message, MESSAGE_LENGTH_MAX),
        traceback=_sendable(trace[-TRACEBACK_LENGTH_MAX:], TRACEBACK_LENGTH_MAX),
    )


def _sendable(text: str, length_max: int) -> str:
    return text[:length_max].encode(errors="replace").decode()
