"""Peer: Pyro5 with its default threaded server; calls in flight from as many threads, a proxy each.

Measured as it comes (serpent) and with its fastest serializer (marshal), which takes only built-in types.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.stats import rate_threads, sequential

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.peers.port import Client


class _Client:
    def __init__(self, address: str, serializer: str) -> None:
        import Pyro5.api

        Pyro5.config.SERIALIZER = serializer
        self._new_proxy = lambda: Pyro5.api.Proxy(address)
        self._proxy = self._new_proxy()

    def null(self, seconds: float) -> list[float]:
        return sequential(self._proxy.null, seconds)

    def echo(self, payload: bytes, seconds: float) -> list[float]:
        return sequential(lambda: self._proxy.echo(payload), seconds)

    def in_flight(self, number: int, seconds: float) -> float:
        def caller() -> Callable[[], Any]:
            proxy: list[Any] = []  # a proxy belongs to the thread that made it

            def call() -> None:
                if not proxy:
                    proxy.append(self._new_proxy())
                proxy[0].null()

            return call

        return rate_threads([caller() for _ in range(number)], seconds)

    def close(self) -> None:
        self._proxy._pyroRelease()  # noqa: SLF001 - Pyro5's public name for it


class Pyro5Peer:
    """Pyro5 with its threaded server."""

    requires: tuple[str, ...] = ("Pyro5",)
    placed = True

    def __init__(self, name: str, serializer: str) -> None:
        self.name = name
        self._serializer = serializer

    def serve(self, announce: Callable[[str], None]) -> None:
        """Run the server until killed."""
        import Pyro5.api

        Pyro5.config.THREADPOOL_SIZE = 80

        @Pyro5.api.expose
        class Service:
            def null(self) -> None:
                return None

            def echo(self, payload: Any) -> Any:
                return payload

        daemon = Pyro5.api.Daemon(host="127.0.0.1", port=0)
        announce(str(daemon.register(Service(), "service")))
        daemon.requestLoop()

    def connect(self, address: str) -> Client:
        """Connect to the server."""
        return _Client(address, self._serializer)


PEER = Pyro5Peer("pyro5", "serpent")
MARSHAL = Pyro5Peer("pyro5-marshal", "marshal")
