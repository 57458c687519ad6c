"""Which microservices to look at, when: bounded, without doubles, with back-off.

Owns the queue between "something changed" and "somebody looks". Leaves looking to the function it is given.
Invariants: at most ``RUNNING_MAX`` at once, never the same one twice at once; what keeps failing is looked at ever less
often, at least every ``PAUSE_S_MAX`` seconds.
Failure behaviour: a look that raises unexpectedly is logged and repeated later.
"""

from __future__ import annotations

import asyncio
import logging
import random as random_module
from collections.abc import Awaitable, Callable

from amino.aio.tasks import TaskOwner
from amino.errors import AminoError

_log = logging.getLogger("amino.oms")
RUNNING_MAX = 64
PAUSE_S_MIN = 0.05
PAUSE_S_MAX = 5.0


class Worklist:
    """Ids that somebody should look at.

    Args:
        look: looks at one id; returns whether it is settled (else it is looked at again later).
        wanted: whether an id is still worth a look; asked just before.
        random: for jitter.
    """

    def __init__(
        self,
        look: Callable[[str], Awaitable[bool]],
        wanted: Callable[[str], bool],
        *,
        random: random_module.Random,
        running_max: int = RUNNING_MAX,
    ) -> None:
        self._look = look
        self._wanted = wanted
        self._random = random
        self._running_max = running_max
        self._ready: dict[str, None] = {}
        self._later: dict[str, asyncio.TimerHandle] = {}
        self._running: set[str] = set()
        self._again: set[str] = set()
        self._failures: dict[str, int] = {}
        self._tasks = TaskOwner("worklist")
        self._closed = False

    def __repr__(self) -> str:
        return f"Worklist({len(self._ready)} ready, {len(self._running)} running, {len(self._later)} later)"

    def __len__(self) -> int:
        return len(self._ready) + len(self._running) + len(self._later)

    def add(self, ms_id: str, delay_s: float = 0.0) -> None:
        """See that ``ms_id`` is looked at within ``delay_s`` seconds. Never waits."""
        if self._closed or ms_id in self._ready:
            return
        if delay_s <= 0:
            self._cancel(ms_id)
            if ms_id in self._running:
                self._again.add(ms_id)
                return
            self._ready[ms_id] = None
            self._pump()
            return
        loop = asyncio.get_running_loop()
        present = self._later.get(ms_id)
        if present is not None:
            if present.when() <= loop.time() + delay_s:
                return
            present.cancel()
        self._later[ms_id] = loop.call_later(delay_s, self._due, ms_id)

    def add_failed(self, ms_id: str) -> None:
        """See that ``ms_id`` is looked at again, later with each time in a row."""
        failures = self._failures[ms_id] = min(self._failures.get(ms_id, 0) + 1, 20)
        self.add(ms_id, min(PAUSE_S_MAX, PAUSE_S_MIN * 2**failures) * (0.5 + self._random.random() / 2))

    def hurry(self) -> None:
        """The world has changed: look at everything that waits now."""
        for ms_id in list(self._later):
            self.add(ms_id)

    def drop(self, unwanted: Callable[[str], bool]) -> None:
        """Forget ids that somebody else looks at from now on; looks under way go on."""
        for ms_id in [one for one in self._later if unwanted(one)]:
            self._cancel(ms_id)
        self._ready = {ms_id: None for ms_id in self._ready if not unwanted(ms_id)}
        self._again = {ms_id for ms_id in self._again if not unwanted(ms_id)}
        self._failures = {ms_id: count for ms_id, count in self._failures.items() if not unwanted(ms_id)}

    async def aclose(self) -> None:
        """Forget everything and end the looks under way. Idempotent."""
        self._closed = True
        self._ready.clear()
        for ms_id in list(self._later):
            self._cancel(ms_id)
        await self._tasks.aclose()

    def _cancel(self, ms_id: str) -> None:
        handle = self._later.pop(ms_id, None)
        if handle is not None:
            handle.cancel()

    def _due(self, ms_id: str) -> None:
        self._later.pop(ms_id, None)
        self.add(ms_id)

    def _pump(self) -> None:
        while self._ready and len(self._running) < self._running_max:
            ms_id = next(iter(self._ready))
            del self._ready[ms_id]
            if not self._wanted(ms_id):
                self._failures.pop(ms_id, None)
                continue
            self._running.add(ms_id)
            self._tasks.spawn(self._run(ms_id), ms_id)

    async def _run(self, ms_id: str) -> None:
        settled = False
        try:
            settled = await self._look(ms_id)
        except AminoError as error:
            _log.info("%s: %s", ms_id, error)
        except Exception:  # noqa: BLE001 - one bad document must not stop the others
            _log.exception("looking at microservice %s failed; it is tried again", ms_id)
        finally:
            self._running.discard(ms_id)
            again = ms_id in self._again
            self._again.discard(ms_id)
            if settled:
                if ms_id not in self._later:
                    self._failures.pop(ms_id, None)
            elif not self._closed:
                self.add_failed(ms_id)
            if again:
                self.add(ms_id)
            if not self._closed:
                self._pump()
