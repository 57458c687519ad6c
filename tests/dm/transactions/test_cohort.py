"""A cohort that learns outcomes, one decision at a time; whole transactions are in the histories."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from amino.aio.tasks import TaskOwner
from amino.contracts.decisions import COMMITTED, Decision
from amino.dm.transactions.cohort import CohortComponent
from amino.dm.transactions.machine import Prepared


def test_a_silent_cohort_holds_nobody_up() -> None:
    """Who was in doubt tells itself first, and everybody else at once; the key stays until all have heard."""

    async def main() -> None:
        tasks = TaskOwner("test")
        told: list[str] = []
        silence, third, ended = asyncio.Event(), asyncio.Event(), asyncio.Event()
        decision = Decision("t1", COMMITTED, 7, ("m1/0", "m1/1", "m2/", "m3/"))

        async def message(cohort: str, *_: Any) -> None:
            if cohort in ("m1/1", "m2/"):
                await silence.wait()
            told.append(cohort)
            if cohort == "m3/":
                third.set()

        async def registry(operation: str, request: Any) -> Decision:
            if operation == "end_decision":
                assert request.transaction == "t1"
                ended.set()
            return decision

        context = SimpleNamespace(
            microservice="m1",
            path="/0",
            message=message,
            registry=registry,
            spawn=tasks.spawn,
            clock=SimpleNamespace(monotonic=float),
        )
        cohort = CohortComponent("TwoPhaseCommit", 1.0, context)  # type: ignore[arg-type]
        await cohort._ask(Prepared("t1", 7, list(decision.cohorts), "", b""))
        assert told == ["m1/0"]
        await third.wait()
        assert set(told) == {"m1/0", "m3/"}
        assert not ended.is_set()
        silence.set()
        await ended.wait()
        assert {"m1/1", "m2/"} <= set(told)
        await tasks.aclose()

    asyncio.run(asyncio.wait_for(main(), 10))
