"""Single attempts of a call, with every retry off: one frame to one server, and how long its answer takes.

Owns sending call frames past stubs and managers, to every server that was the group's primary. Leaves judging to tests.
Invariant: an attempt is never repeated.
Failure behaviour: what a server answers is noted; an answer that takes longer than a bound fails ``judge``.
"""

from __future__ import annotations

import asyncio
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Self

from amino.contracts.calls import CallHead, encode_call_head
from amino.errors import AminoError
from amino.rpc.peer_transport import PeerTransport
from amino.wire import codec
from amino.wire.frames import FrameKind, Status, decode_error
from tests.dm.replication.real_world import PATIENCE_S, World
from tests.waiting import until


@dataclass(slots=True)
class Attempt:
    """One attempt: what, how long it took, and the error it was answered with (empty for a result)."""

    what: str
    took_s: float
    error: str


@dataclass(slots=True)
class Attempts:
    """Asks whoever is the primary at the beginning, all the while; a context manager.

    Args:
        target: a ``Counters`` stub.
    """

    world: World
    target: Any
    made: list[Attempt] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        described = self.world.client.describe(self.target)
        group = described.groups["/"]
        primary = next(one for one in group.replicas if one.id == group.primary)
        address = next(one.record.address for one in self.world.client.servers() if one.record.name == primary.server)
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._ask(address, described.id, group.epoch)), daemon=True
        )
        self._thread.start()
        until(
            lambda: any(not one.error for one in self.made),
            PATIENCE_S,
            lambda: f"no attempt succeeds: {self.made[-1:]}",
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        assert self._thread is not None
        self._thread.join(40)
        assert not self._thread.is_alive(), "an attempt is never answered"

    async def _ask(self, address: str, microservice: str, epoch: int) -> None:
        transport = PeerTransport("attempts", "amino")
        under_way: set[asyncio.Task[None]] = set()
        number = 0
        while not self._stop.is_set():
            number += 1
            what = "get" if number % 2 else "add"
            task = asyncio.create_task(self._one(transport, address, microservice, epoch, what, number))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
            await asyncio.sleep(0.05)
        if under_way:
            await asyncio.wait(under_way)
        await transport.aclose()

    async def _one(
        self, transport: PeerTransport, address: str, microservice: str, epoch: int, what: str, number: int
    ) -> None:
        args = ("attempts",) if what == "get" else ("attempts", "attempts", number)
        kind, segments = codec.encode_arguments(args, {}, trusted=True)
        head = CallHead(
            microservice=microservice,
            path="/",
            method=what,
            client="attempts",
            root=microservice,
            sequence=number,
            nested=(),
            floor=0,
            attempt=0,
            age_s=0.0,
            epoch=epoch,
            budget_s=30.0,
            codec=kind,
            headers=None,
            traceparent=None,
        )
        began, error = time.perf_counter(), ""
        try:
            reply = await transport.request(address, FrameKind.CALL, encode_call_head(head), segments, timeout_s=30.0)
            if reply.status != Status.OK:
                error = str(decode_error(reply.head))
        except AminoError as problem:
            error = str(problem)
        self.made.append(Attempt(what, time.perf_counter() - began, error))

    def judge(self, bound_s: float) -> None:
        """Check that every attempt was answered within ``bound_s`` seconds, each failure with its reason."""
        slowest = max(self.made, key=lambda one: one.took_s)
        assert slowest.took_s <= bound_s, f"an attempt took {slowest.took_s:.2f} s, the bound is {bound_s} s: {slowest}"
        assert all(len(one.error) > 20 for one in self.made if one.error), "an error without a reason"
