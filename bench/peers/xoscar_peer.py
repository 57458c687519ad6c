"""Peer: xoscar, one actor in a pool of its own process."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, Any

from bench.stats import rate_async, sequential_async

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class _Client:
    def __init__(self, address: str) -> None:
        import xoscar

        self._runner = asyncio.Runner()
        self._actor = self._runner.run(xoscar.actor_ref(address, "service"))

    def null(self, seconds: float) -> list[float]:
        return self._runner.run(sequential_async(lambda: self._actor.null(), seconds))  # noqa: PLW0108 - looked up anew

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return self._runner.run(sequential_async(lambda: self._actor.echo(payload), seconds))

    def in_flight(self, number: int, seconds: float) -> float:
        return self._runner.run(rate_async(lambda: self._actor.null(), number, seconds))  # noqa: PLW0108 - as above

    def close(self) -> None:
        self._runner.close()


class Xoscar:
    """xoscar with its default backend."""

    name = "xoscar"
    requires = ("xoscar",)
    placed = True

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the server until killed."""
        import xoscar

        class Service(xoscar.Actor):  # type: ignore[misc]
            async def null(self) -> None:
                return None

            async def echo(self, payload: Any) -> Any:
                return payload

        with socket.create_server(("127.0.0.1", 0)) as probe:
            address = f"127.0.0.1:{probe.getsockname()[1]}"

        async def main() -> None:
            pool = await xoscar.create_actor_pool(address, n_process=0)
            await xoscar.create_actor(Service, address=address, uid="service")
            announce(address)
            await pool.join()

        asyncio.run(main())

    def connect(self, address: str) -> Client:
        """Connect to the actor."""
        return _Client(address)


PEER = Xoscar()
