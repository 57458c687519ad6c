"""Calls on behalf of callers in other languages, made by the kernel server they asked.

Owns turning a call of the ``Invoke`` service into a call of this server's runtime, so that managers' client components run
here for callers that have none. Leaves gRPC to ``rpc.grpc``.
Invariant: a caller's own request id becomes the call's, so that its retries run once.
Failure behaviour: as ``rpc.grpc.invoke.Invoker`` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.contracts.services import LocateRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.services import ByName
    from amino.rpc.grpc.invoke import CallerRequest
    from amino.stubs.runtime import Runtime


class Invoking:
    """Implements ``rpc.grpc.invoke.Invoker``.

    Args:
        runtime: returns this server's runtime; raises ``NotExecuted`` before there is one.
    """

    def __init__(self, runtime: Callable[[], Runtime]) -> None:
        self._runtime = runtime

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
        """Call ``method`` and return its result."""
        runtime = self._runtime()
        caller = None
        if request is not None:
            caller = (request.client, request.sequence, request.floor, request.attempt, request.age_s)
        if target.microservice:
            found = runtime.target(target.microservice)
        else:
            location = await runtime.registry.call("locate", LocateRequest(name=target.name), timeout_s=deadline_s)
            found = runtime.learn(location)
        return await runtime.invoke_for(
            found,
            method,
            tuple(args),
            kwargs,
            timeout_s=deadline_s,
            caller=caller,
            traceparent=traceparent,
        )
