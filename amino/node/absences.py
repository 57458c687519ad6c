"""Noticing that a replica which this server should have is not here.

Owns telling its slot leader, once at a time. Leaves making sure and recovering it to ``oms.absence``.
Invariants: only a confirmed replica of this very incarnation is reported; at most ``REPORTS_MAX`` reports are under way.
Failure behaviour: a report that fails is made again by the next call for the replica; the audit finds it otherwise.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from amino.contracts.services import AbsentRequest
from amino.errors import AminoError

if TYPE_CHECKING:
    from amino.kernel.object import KernelObject
    from amino.node.kernel_server import KernelServer

REPORTS_MAX = 64
PAUSE_S = 0.5


class Absences:
    """Looks kernel objects up, and notices those that should be there."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._reported: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"Absences({len(self._reported)} reported)"

    def find(self, microservice: str, path: str) -> KernelObject | None:
        """Return the kernel object, None if it is not here: then that is looked into."""
        found = self._owner.host.find(microservice, path)
        if found is None:
            self.notice(microservice, path)
        return found

    def notice(self, microservice: str, path: str) -> None:
        """Report the replica if it should be here. Never waits."""
        replica = self._expected(microservice, path)
        place = (microservice, path)
        if replica and place not in self._reported and len(self._reported) < REPORTS_MAX:
            self._reported.add(place)
            self._owner._tasks.spawn(self._report(microservice, path, replica), "report")  # noqa: SLF001 - a part of its owner

    def _expected(self, microservice: str, path: str) -> str:
        """Return the id of the replica that its document says is here, empty for none."""
        found = self._owner.oms.directory.group(microservice, path)
        here = (self._owner.name, self._owner.incarnation)
        for one in found.document.replicas if found is not None else ():
            if one.confirmed and (one.server, one.incarnation) == here:
                return one.id
        return ""

    async def _report(self, microservice: str, path: str, replica: str) -> None:
        try:
            with contextlib.suppress(AminoError):
                await self._owner.registry.report_absent(AbsentRequest(microservice, path, replica))
            await asyncio.sleep(PAUSE_S)  # callers come often, and the watch may be behind
        finally:
            self._reported.discard((microservice, path))
