"""Killing the servers of microservices under workers that commit, one after the other.

Owns the kills and the waits between them. Leaves judging what came of it to the tests.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from tests.waiting import until

COMMITS = 20
"""How many commits the workers make between two kills."""


def home_of(client: Any, name: str) -> str:
    """Return the server of a microservice's only replica, or primary; waits while it is being placed again."""

    def placed() -> Any:
        group = client.describe(name).groups["/"]
        return group if group.replicas else None

    group = until(placed, 30.0, f"{name} was not placed again")
    return str(next((one for one in group.replicas if one.id == group.primary), group.replicas[0]).server)


def kill_in_turn(cluster: Any, client: Any, names: Iterable[str], workers: Sequence[Any], patience_s: float) -> None:
    """Kill the kernel process of each microservice's server in turn, while ``workers`` commit; each must go on after it.

    Args:
        workers: have ``committed``, a list that grows, and ``problem``. patience_s: for the next commit after a kill.
    """

    def commits() -> int:
        return sum(len(worker.committed) for worker in workers)

    for name in names:
        goal = commits() + COMMITS
        until(lambda goal=goal: commits() >= goal, 60.0, f"not {COMMITS} commits under load")  # type: ignore[misc]
        server = cluster.server(home_of(client, name))
        before, killed = server.incarnation, time.monotonic()
        server.kill_kernel()
        server.wait_serving(after=before)
        reached = commits()
        left_s = max(killed + patience_s - time.monotonic(), 1.0)
        until(lambda reached=reached: commits() > reached, left_s, "nothing was committed after a kill")  # type: ignore[misc]
