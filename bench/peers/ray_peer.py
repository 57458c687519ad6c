"""Peer: Ray, one actor on a local Ray cluster that the client starts."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, Any

from bench.stats import rate_batches, sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class _Client:
    def __init__(self) -> None:
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_ENABLE_UV_RUN_RUNTIME_ENV"] = "0"
        import ray

        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            object_store_memory=256 << 20,
            _node_ip_address="127.0.0.1",
        )

        class Service:
            def null(self) -> None:
                return None

            def echo(self, payload: Any) -> Any:
                return payload

        self._ray: Any = ray
        self._actor: Any = ray.remote(Service).remote()
        ray.get(self._actor.null.remote())

    def _batch(self, number: int) -> None:
        self._ray.get([self._actor.null.remote() for _ in range(number)])

    def null(self, seconds: float) -> list[float]:
        return sequential(lambda: self._ray.get(self._actor.null.remote()), seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return sequential(lambda: self._ray.get(self._actor.echo.remote(payload)), seconds, warm_up=5)

    def in_flight(self, number: int, seconds: float) -> float:
        return rate_batches(self._batch, number, seconds)

    def close(self) -> None:
        self._ray.shutdown()


class RayPeer:
    """Ray brings its own servers; the serving process of the harness only waits."""

    name = "ray"
    requires = ("ray",)
    placed = False

    def serve(self, announce: Callable[[str], None]) -> None:
        """Do nothing until killed."""
        announce("local")
        threading.Event().wait()

    def connect(self, address: str) -> Client:  # noqa: ARG002 - Ray starts its own
        """Start a local Ray cluster and an actor."""
        return _Client()


PEER = RayPeer()
