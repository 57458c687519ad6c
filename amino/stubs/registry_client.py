"""Registry operations from any process: which server to ask, and asking the next one when it does not answer.

Owns choosing addresses, repeating operations that are safe to repeat, and time-outs per try. Leaves the operations to the
OMS. Every registry operation is idempotent (creations by id), so an unknown outcome is repeated too, within the deadline.
Invariant: nothing is sent after the deadline.
Failure behaviour: ``ClusterUnavailable`` when no server could be reached; else the last error.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from amino.aio.mode import on, sleep
from amino.contracts.decisions import ABORTED, COMMIT
from amino.contracts.services import Registry
from amino.errors import (
    AminoError,
    ClusterUnavailable,
    CoordinationUnavailable,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    SessionLost,
)
from amino.ids import slot_of
from amino.rpc.system import call_system

if TYPE_CHECKING:
    import asyncio

    import msgspec

    from amino.aio.clock import Clock
    from amino.rpc.port import Transport
    from amino.stubs.addresses import AddressBook

_TRY_S = 2.0
_BACKOFF_S = 0.01
_BACKOFF_MAX_S = 0.25
_LEADERS_DO = frozenset(
    {"create", "delete", "move", "change", "restore", "release", "acquire_lock", "renew_lock", "release_lock"}
)
_NEXT = frozenset({"unreachable", "deadline", "older-release"})
"""Reasons for which another server is asked at once."""
_REPEATABLE = (NotExecuted, OutcomeUnknown, CoordinationUnavailable, SessionLost)


class RegistryClient:
    """Calls the registry at whatever server answers.

    Args:
        local: this process's own registry with the loop it lives on; asked instead of the network.
    """

    def __init__(
        self,
        transport: Transport,
        addresses: AddressBook,
        clock: Clock,
        local: tuple[Registry, asyncio.AbstractEventLoop] | None = None,
    ) -> None:
        self._transport = transport
        self._addresses = addresses
        self._clock = clock
        self._local = local
        self.closed = False

    def close(self) -> None:
        """Let calls in progress end, and refuse others. Idempotent; from any thread."""
        self.closed = True

    def check_open(self) -> None:
        """Raise ``ClusterUnavailable`` if it was closed."""
        if self.closed:
            raise ClusterUnavailable(
                "this cluster connection was closed (a call that was under way may have run); open another with "
                "amino.connect"
            )

    async def call(self, method: str, request: msgspec.Struct, *, timeout_s: float, avoid: str = "") -> Any:
        """Run ``method`` of the registry; from loops and threads.

        Args:
            timeout_s: seconds for all tries together.
            avoid: an address to ask last.

        Raises:
            AminoError: the operation's own error, or why no server could answer.
        """
        deadline = self._clock.monotonic() + timeout_s
        backoff_s = _BACKOFF_S
        problem: AminoError | None = None
        unsure = False
        while True:
            self.check_open()
            for address in self._candidates(method, request, avoid):
                remaining = deadline - self._clock.monotonic()
                if remaining <= 0:
                    break
                try:
                    answer = await self._try(address, method, request, remaining)
                except NotFound:
                    if method == "delete" and isinstance(problem, OutcomeUnknown):
                        raise NotFound("it is gone; an earlier try of this deletion had done it") from problem
                    raise
                except _REPEATABLE as error:
                    problem = error
                    unsure = unsure or not isinstance(error, NotExecuted)
                    if error.details.get("reason") in _NEXT or isinstance(error, OutcomeUnknown):
                        continue
                    break
                if address:
                    self._addresses.prefer(address)
                if unsure and _may_have_been_carried_out(method, request, answer):
                    raise OutcomeUnknown("an earlier try may have committed the transaction, and its key be gone since")
                return answer
            remaining = deadline - self._clock.monotonic()
            if remaining <= backoff_s:
                raise self._final(method, problem, timeout_s)
            await sleep(backoff_s)
            backoff_s = min(backoff_s * 2, _BACKOFF_MAX_S)

    def _candidates(self, method: str, request: msgspec.Struct, avoid: str) -> list[str]:
        """Return whom to ask, best first: the slot's leader does its operations itself, any other server forwards them."""
        candidates = self._addresses.candidates(avoid)
        if self._local is not None:
            return ["", *candidates]
        microservice = ""
        if method in _LEADERS_DO:
            microservice = getattr(request, "lock", "") or getattr(request, "microservice", "")
        leader = self._addresses.leader_of(slot_of(microservice)) if microservice else ""
        if leader and leader != avoid:
            return [leader, *(address for address in candidates if address != leader)]
        return candidates

    async def _try(self, address: str, method: str, request: msgspec.Struct, remaining: float) -> Any:
        if not address:
            assert self._local is not None
            registry, loop = self._local
            try:
                return await on(loop, getattr(registry, method)(request), remaining)
            except TimeoutError:  # cancelled half-way: what it had begun is finished or undone by the reconciler
                raise OutcomeUnknown(f"{method} had not ended here within {remaining:.1f} s; ask again") from None
        own = getattr(request, "timeout_s", 0.0) or getattr(request, "wait_s", 0.0)
        return await call_system(
            self._transport,
            address,
            "registry",
            Registry,
            method,
            request,
            timeout_s=min(remaining, own + _TRY_S),
        )

    def _final(self, method: str, problem: AminoError | None, timeout_s: float) -> AminoError:
        if problem is None or problem.details.get("reason") == "unreachable":
            tried = ", ".join(self._addresses.candidates())
            return ClusterUnavailable(
                f"{method}: no kernel server of the cluster could do it within {timeout_s:.1f} s (tried {tried}); "
                f"check the addresses and that the servers run{f'. The last one: {problem}' if problem else ''}"
            )
        return problem


def _may_have_been_carried_out(method: str, request: msgspec.Struct, answer: Any) -> bool:
    """Return whether ``answer`` says "aborted" because there is no key, which is also so once a commit is carried out."""
    return method == "decide" and getattr(request, "wish", "") == COMMIT and answer.outcome == ABORTED
