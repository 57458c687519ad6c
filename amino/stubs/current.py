"""``amino.current()``: what a method can know of where and for whom it runs.

Owns the public view of the invocation, ``amino.now``, ``amino.random`` and ``amino.deadline``. Leaves the data to ``contracts.calls``.
Invariant: valid while the method runs, in its thread or task and those that inherit its context.
Failure behaviour: outside a method, ``current`` raises ``Invalid``.
"""

from __future__ import annotations

import random as random_module
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from amino.contracts.calls import CURRENT
from amino.errors import Invalid
from amino.stubs.runtime import DEADLINE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from amino.contracts.calls import Invocation
    from amino.contracts.own import Firing
    from amino.stubs.cluster import Cluster


@dataclass(frozen=True, slots=True)
class Current:
    """The call that is running."""

    _invocation: Invocation

    @property
    def cluster(self) -> Cluster:
        """The cluster, for creating and finding other microservices."""
        return self._invocation.runtime.cluster  # type: ignore[no-any-return]

    @property
    def ref(self) -> Any:
        """A stub of the microservice itself; can be passed on and stored."""
        runtime = self._invocation.runtime
        return runtime.stub(runtime.target(self._invocation.microservice), None, "")

    @property
    def microservice(self) -> str:
        """Id of the microservice."""
        return self._invocation.microservice

    @property
    def server(self) -> str:
        """Name of the kernel server."""
        return self._invocation.server

    @property
    def region(self) -> str:
        """The server's region, empty if it has none."""
        return self._invocation.labels.get("region", "")

    @property
    def request_id(self) -> str:
        """Identity of this call; equal in all its retries."""
        return str(self._invocation.request)

    @property
    def timer(self) -> Firing | None:
        """The occurrence of a timer that this call is for: ``name``, ``due``, ``number``, ``missed``; None if for none."""
        return self._invocation.firing

    @property
    def remaining_s(self) -> float:
        """Seconds until the call's deadline; negative when it has passed."""
        return self._invocation.deadline - float(self._invocation.runtime.clock.monotonic())


def now() -> float:
    """Return the wall clock in seconds since the epoch; inside a method, a value that every replica and replay sees alike.

    Use it in place of ``time.time()`` in methods of microservices whose managers replicate or log operations.
    """
    invocation = CURRENT.get()
    if invocation is None:
        return time.time()
    wall = invocation.runtime.clock.wall
    effects = invocation.effects
    return float(wall() if effects is None else effects.value(effects.next("now"), wall))


def random() -> random_module.Random:
    """Return a source of random numbers; inside a method, one that gives every replica and replay the same numbers.

    Each call returns a new generator with a seed of its own. Not for secrets.
    """
    invocation = CURRENT.get()
    if invocation is None:
        return random_module.Random()
    source: random_module.Random = invocation.runtime.random
    effects = invocation.effects
    if effects is None:
        return random_module.Random(source.getrandbits(64))
    return random_module.Random(effects.value(effects.next("random"), lambda: source.getrandbits(63)))


def current() -> Current:
    """Return the call that is running.

    Raises:
        Invalid: no method of a microservice is running here.
    """
    invocation = CURRENT.get()
    if invocation is None:
        raise Invalid("amino.current() was called outside a microservice's method; use amino.connect(...) there")
    return Current(invocation)


@contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Give calls made in this block ``seconds`` each at most (default outside: 30); nested calls inherit what is left.

    Raises:
        Invalid: ``seconds`` is not positive.
    """
    if not seconds > 0:
        raise Invalid(f"a deadline of {seconds} s is not positive; give the seconds a call may take")
    token = DEADLINE.set(seconds)
    try:
        yield
    finally:
        DEADLINE.reset(token)
