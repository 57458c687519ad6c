"""Every server ends and starts again, one after the other, under callers that count: the order, and the judgement.

Owns both. Leaves the cluster, what is called and the figures' row to the tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from amino.testing import LocalCluster
from amino.testing.local_cluster import LocalServer
from bench.callers import Callers
from tests.acceptance.figures import Figures


def roll(local: LocalCluster, *, first: Callable[[LocalServer], object] | None = None, **how: Any) -> None:
    """End one server after the other by SIGTERM, which drains it, and start it again; the next when it serves.

    Args:
        first: what is done to a server before it is told to end.
        how: as what it starts, see ``LocalServer.start``.
    """
    for server in local.servers.values():
        if first is not None:
            first(server)
        server.drain()
        server.wait_ended()
        server.start(**how)


def judge(callers: Callers, adds: Sequence[Callable[[], int]], figures: Figures, what: str, note: str = "") -> None:
    """No call failed, none was lost, none ran twice: the answers that each caller got are 1, 2, 3, ...

    Args:
        callers: each with a counter of its own. adds: to count once more, for each of the callers, in their order.
        what: the figure's name. note: what else is to be said of it.
    """
    failed = [each.error for each in callers.seen if each.error]
    told = f"of {len(callers.seen)}{': ' if failed else ''}{'; '.join(failed[:3])}"
    figures.note(what, len(failed), "calls", at_most=0, note="; ".join(filter(None, (told, note))))
    for number, add in enumerate(adds):
        answers = [each.result for each in callers.of(number)]
        assert answers == list(range(1, len(answers) + 1)), f"counter {number}"
        assert add() == len(answers) + 1, f"counter {number}"
