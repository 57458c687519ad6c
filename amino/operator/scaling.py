"""As many servers as microservices ask for: a loop that sets the number of pods of the servers' StatefulSet.

Owns the loop. Leaves the decision to ``scaling_machine``, the demand to ``Microservices``. This is what a manager that adds
replicas by itself needs beyond a server that has room: it writes how many it wants, and servers follow.
Invariants: one loop per operator; only the number of pods is written; who is removed drains first (the pods' preStop).
Failure behaviour: what cannot be found out or written is logged and tried at the next round.
"""

from __future__ import annotations

import asyncio
import logging

from amino.aio.clock import Clock
from amino.errors import AminoError
from amino.operator.kubernetes import KubernetesApi
from amino.operator.microservices import Microservices
from amino.operator.scaling_machine import Bounds, Quiet, step

_log = logging.getLogger("amino.operator")
EVERY_S = 15.0


class Scaler:
    """Keeps the number of servers right.

    Args:
        path: of the StatefulSet's ``scale`` in the API of Kubernetes.
    """

    def __init__(
        self, microservices: Microservices, kubernetes: KubernetesApi, path: str, bounds: Bounds, clock: Clock
    ) -> None:
        self._microservices = microservices
        self._kubernetes = kubernetes
        self._path = path
        self._bounds = bounds
        self._clock = clock
        self._quiet = Quiet()

    async def run(self) -> None:
        """Look and act every ``EVERY_S`` seconds, for ever."""
        while True:
            await asyncio.to_thread(self.round)
            await asyncio.sleep(EVERY_S)

    def round(self) -> int | None:
        """Look and act once; blocks. Returns the number written, None if nothing was."""
        try:
            servers = int(self._kubernetes.get(self._path)["spec"].get("replicas", 0))
            demand = self._microservices.demand()
            self._quiet, wanted = step(self._quiet, self._clock.monotonic(), servers, demand, self._bounds)
            if wanted == servers:
                return None
            self._kubernetes.merge(self._path, {"spec": {"replicas": wanted}})
        except (AminoError, KeyError, ValueError) as error:
            _log.warning("the number of servers stays as it is: %s", error)
            return None
        _log.info("%d servers instead of %d: %s", wanted, servers, demand)
        return wanted


def scale_path(namespace: str, statefulset: str) -> str:
    """Return where the number of pods of a StatefulSet is read and written."""
    return f"/apis/apps/v1/namespaces/{namespace}/statefulsets/{statefulset}/scale"
