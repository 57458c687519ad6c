"""User code that runs outside of calls: constructors and restores.

Owns the context they run in, and telling why a constructor failed. Leaves when they run to the host.
Invariant: ``amino.current()`` works in them, and a process that dies in them is laid at their door.
Failure behaviour: what a constructor raises becomes ``ConstructionFailed`` with its type and traceback.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from amino import limits
from amino.contracts.calls import CURRENT, Invocation, RequestId
from amino.errors import ConstructionFailed
from amino.wire import codec

if TYPE_CHECKING:
    from amino.kernel.object import KernelObject
    from amino.kernel.surroundings import Surroundings


class Running:
    """The context in which constructors and restores run: ``amino.current()`` works, deaths are noted."""

    def __init__(self, around: Surroundings, target: KernelObject, method: str) -> None:
        self._around = around
        self._target = target
        self._method = method

    def __enter__(self) -> None:
        around, target = self._around, self._target
        self._token = CURRENT.set(
            Invocation(
                around.runtime,
                target.microservice,
                target.replica,
                target.path,
                RequestId(f"{self._method}", target.microservice, 0),
                0,
                around.clock.monotonic() + limits.DEADLINE_S_DEFAULT,
                around.server,
                around.incarnation,
                around.labels,
                home=target,
            )
        )
        self._finding = codec.FIND_CLASS.set(target.find_class)
        self._cell = around.board.enter(target.microservice, self._method)

    def __exit__(self, *exc: object) -> None:
        self._around.board.leave(self._cell)
        codec.FIND_CLASS.reset(self._finding)
        CURRENT.reset(self._token)


def construction_failed(cls: str, error: BaseException) -> ConstructionFailed:
    """Return what creators are told of an exception that the constructor of ``cls`` raised."""
    head, _ = codec.encode_exception(error, trusted=False)
    failure = codec.decode_exception(head, [], trusted=False)
    details = getattr(failure, "details", {})
    return ConstructionFailed(
        f"the constructor of {cls} raised {failure}; nothing was created. Mend the class or its arguments", **details
    )
