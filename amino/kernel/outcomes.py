"""Outcomes of methods, as answers that can be saved and sent.

Owns encoding what a method returned or raised, and reading a saved answer. Leaves values to ``wire.codec``.
Invariant: a saved answer read again says what the method said.
Failure behaviour: a result that cannot be encoded becomes an answer that names it; nothing here raises but what was saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.calls import Raised
from amino.errors import AminoError
from amino.kernel.answered import Answer
from amino.marks import ASYNC
from amino.wire import codec
from amino.wire.frames import Status, encode_error

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.calls import Call


def reading_by(find_class: codec.FindClass, method: Callable[..., Any], flags: int) -> Callable[..., Any]:
    """Return ``method`` with names in pickles that it reads resolved by ``find_class``."""
    if flags & ASYNC:

        async def asynchronous(*args: Any, **kwargs: Any) -> Any:
            with codec.finding(find_class):
                return await method(*args, **kwargs)

        return asynchronous

    def blocking(*args: Any, **kwargs: Any) -> Any:
        with codec.finding(find_class):
            return method(*args, **kwargs)

    return blocking


def encode_result(result: Any, call: Call) -> Answer:
    """Return the answer for what a method returned; one that cannot be sent is answered with the reason."""
    if result is None:
        return _NOTHING
    try:
        number, segments = codec.encode(result, trusted=call.peer_trusted)
    except AminoError as error:
        return Answer(Status.ERROR, encode_error(error), ())
    return Answer(_OK, _CODECS[number], tuple(map(bytes, segments)))


def encode_failure(error: BaseException, call: Call) -> Answer:
    """Return the answer for what a method raised."""
    head, segments = codec.encode_exception(error, trusted=call.peer_trusted)
    return Answer(Status.APPLICATION_ERROR, head, tuple(map(bytes, segments)))


def decode_answer(answer: Answer, call: Call, runtime: Any) -> Any:
    """Return (or raise) what a saved answer says, as the method would have."""
    status, head, segments = answer
    if status == Status.APPLICATION_ERROR:
        call.result = codec.decode_exception(head, segments, trusted=True, binding=runtime)
        raise Raised(call.result)
    if status == Status.OK:
        call.result = codec.decode(head[0], segments, trusted=True, binding=runtime)
    return call.result


_OK = int(Status.OK)
_CODECS = [bytes([number]) for number in range(3)]
_NOTHING = Answer(_OK, _CODECS[codec.NOTHING], ())
