"""A network between real servers, clients and etcd that can be cut, slowed and reset: loopback proxies, one per server.

Owns the proxies and the faults. Leaves servers to ``local_cluster``, devices to whoever starts them: each advertises the address of
its proxy, so that everybody else's connections pass through it; its own to etcd pass through another.
Invariants: who connects is known by the name in its handshake; bytes that are held back arrive later, in order, or never
(when the connection is reset), as on a real network; a cut one way leaves the other way open.
Failure behaviour: a proxy that cannot reach its server closes the connection, as a closed port does.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import threading
from collections import Counter, deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from amino.config import EtcdConfig
from amino.errors import Invalid
from amino.rpc.handshake import decode_hello
from amino.wire.frames import FrameParser

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.testing.local_cluster import LocalCluster, LocalServer


class Reached(NamedTuple):
    """How somebody has to be started to be reached, and to reach etcd, through the network.

    Args:
        listen: ``host:port``. advertise: host. etcd: ``host:port`` of the members, as it must know them.
    """

    listen: str
    advertise: str
    etcd: tuple[str, ...]


CLIENTS, ETCD, ANYBODY = "clients", "etcd", "*"
_CHUNK_BYTES = 256 * 1024
_HELD_BYTES_MAX = 4 * 1024 * 1024


class FaultyNetwork:
    """The network of one ``LocalCluster``; use as a context manager around it.

    Names are those of servers and devices, ``CLIENTS`` (everybody who is neither), ``ETCD``, and ``ANYBODY``. Methods may be called
    from any thread, take effect at once and never wait, except ``add_server`` and ``reach``.

    Example::

        with FaultyNetwork() as network, LocalCluster(servers=0) as local:
            for name in ("s1", "s2", "s3"):
                network.add_server(local, name)
            with amino.connect(*network.addresses) as client:
                network.isolate("s1")
    """

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._live, name="amino-faulty-network", daemon=True)
        self._listeners: list[asyncio.Server] = []
        self._addresses: dict[str, str] = {}
        self._hosts = 0
        self._streams: set[_Stream] = set()
        self._cuts: set[tuple[str, str]] = set()
        self._delays: dict[tuple[str, str], float] = {}
        self._losses: dict[tuple[str, str], float] = {}
        self._doubled: set[tuple[str, str]] = set()
        self._passed: Counter[tuple[str, str]] = Counter()
        self._troubled: Counter[tuple[str, str]] = Counter()
        self._random = random.Random(0)

    def __repr__(self) -> str:
        return f"FaultyNetwork({', '.join(self._addresses)}; cut: {sorted(self._cuts)})"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        asyncio.run_coroutine_threadsafe(self._aclose(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def addresses(self) -> list[str]:
        """Addresses of the servers' proxies, for ``amino.connect(*network.addresses)``."""
        return list(self._addresses.values())

    def add_server(self, local: LocalCluster, name: str, **fields: Any) -> LocalServer:
        """Add a server to ``local`` that is reached, and reaches etcd, through this network; wait until it serves.

        Args:
            fields: of its ``ServerConfig``, and ``labels``; ``wait=False`` returns before it serves.

        Raises:
            Invalid: this system has no loopback addresses but 127.0.0.1 (Linux has).
        """
        ways = self.reach(name, local.etcd_endpoints)
        self._addresses[name] = f"{ways.advertise}:{ways.listen.rpartition(':')[2]}"
        return local.add_server(
            name,
            listen=ways.listen,
            advertise=ways.advertise,
            grpc_listen="",
            etcd=EtcdConfig(endpoints=ways.etcd),
            **fields,
        )

    def reach(self, name: str, etcd: Sequence[str]) -> Reached:
        """Make the ways of a server or device; returns how it has to be started, and started again.

        Args:
            etcd: ``host:port`` of etcd's members.

        Raises:
            Invalid: this system has no loopback addresses but 127.0.0.1 (Linux has).
        """
        endpoints = tuple(self._run(self._listen("127.0.0.1", 0, each, name)) for each in etcd)
        self._hosts += 1
        host = f"127.0.1.{self._hosts}"
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
            try:
                self._run(self._listen(host, port, f"127.0.0.1:{port}", name, inward=True))
            except OSError as error:
                raise Invalid(f"{host} cannot be bound ({error}); a FaultyNetwork needs Linux") from error
        return Reached(f"127.0.0.1:{port}", host, endpoints)

    # --- faults -----------------------------------------------------------------------------------------------------

    def cut(self, source: str, target: str) -> None:
        """Let no byte pass from ``source`` to ``target``; the other way stays open."""
        self._later(lambda: self._cuts.add((source, target)))

    def isolate(self, name: str) -> None:
        """Cut a server off from everybody, both ways."""
        self.cut(name, ANYBODY)
        self.cut(ANYBODY, name)

    def separate(self, one: str, other: str) -> None:
        """Cut two off from each other, both ways."""
        self.cut(one, other)
        self.cut(other, one)

    def delay(self, source: str, target: str, seconds: float) -> None:
        """Let bytes from ``source`` to ``target`` take so much longer; 0 ends it."""
        self._later(lambda: self._delays.__setitem__((source, target), seconds))

    def lose(self, source: str, target: str, share: float) -> None:
        """Lose a share, 0 to 1, of what goes from ``source`` to ``target``: its connection is reset; 0 ends it."""
        self._later(lambda: self._losses.__setitem__((source, target), share))

    def double(self, source: str, target: str, *, on: bool) -> None:
        """Have each connection that ``source`` opens to ``target`` opened twice, as when a lost answer made it try again.

        Both begin with the same handshake; the second stays silent after it, for as long as the first.
        """
        self._later(lambda: (self._doubled.add if on else self._doubled.discard)((source, target)))

    def reset(self, source: str, target: str) -> int:
        """Reset every connection that ``source`` has opened to ``target``; what was under way is lost. Returns how many."""
        found: list[_Stream] = []

        def reset() -> None:
            for stream in list(self._streams):
                if source in (ANYBODY, stream.opener) and target in (ANYBODY, stream.opened):
                    found.append(stream)
                    self._troubled[stream.opener, stream.opened] += 1
                    stream.abort()

        self._later(reset)
        return len(found)

    def mend(self, source: str, target: str) -> None:
        """Undo every fault of this very direction; what was held arrives now, where its connection still stands."""

        def mend() -> None:
            for faults in (self._cuts, self._doubled):
                faults.discard((source, target))
            for shares in (self._delays, self._losses):
                shares.pop((source, target), None)

        self._later(mend)

    def heal(self) -> None:
        """Undo all faults; what was held arrives now, where its connection still stands."""

        def heal() -> None:
            self._cuts.clear()
            self._delays.clear()
            self._losses.clear()
            self._doubled.clear()

        self._later(heal)

    def _later(self, change: Callable[[], Any]) -> None:
        done = threading.Event()

        def apply() -> None:
            try:
                change()
                for stream in list(self._streams):  # some end when what they held passes
                    stream.changed()
            finally:
                done.set()

        self._loop.call_soon_threadsafe(apply)
        done.wait()

    def is_cut(self, source: str, target: str) -> bool:
        """Whether bytes from ``source`` to ``target`` are held."""
        return any((a, b) in self._cuts for a in (source, ANYBODY) for b in (target, ANYBODY))

    def passes(self, source: str, target: str) -> int:
        """Return how many bytes have passed from ``source`` to ``target`` so far."""
        return self._counted(self._passed, source, target)

    def trouble(self, source: str, target: str) -> int:
        """Return how often something was held back, lost, reset or doubled from ``source`` to ``target`` so far."""
        return self._counted(self._troubled, source, target)

    def _counted(self, counter: Counter[tuple[str, str]], source: str, target: str) -> int:
        return sum(
            count for (a, b), count in list(counter.items()) if source in (ANYBODY, a) and target in (ANYBODY, b)
        )

    def note(self, names: tuple[str, str], *, passed: int = 0, trouble: int = 0) -> None:
        """Count bytes that passed, and troubles. On the loop of the proxies."""
        if passed:
            self._passed[names] += passed
        if trouble:
            self._troubled[names] += trouble

    def loses(self, source: str, target: str) -> bool:
        """Decide whether what goes from ``source`` to ``target`` now is lost."""
        share = _of(self._losses, source, target)
        return share > 0 and self._random.random() < share

    def doubles(self, source: str, target: str) -> bool:
        """Whether connections from ``source`` to ``target`` are opened twice."""
        return any((a, b) in self._doubled for a in (source, ANYBODY) for b in (target, ANYBODY))

    def delay_of(self, source: str, target: str) -> float:
        """Return the added delay from ``source`` to ``target``, seconds."""
        return _of(self._delays, source, target)

    # --- proxies ----------------------------------------------------------------------------------------------------

    def _live(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    async def _listen(self, host: str, port: int, target: str, name: str, *, inward: bool = False) -> str:
        """Listen for connections to server ``name`` (``inward``), or of it to etcd; returns the address."""

        def accept() -> _Stream:
            return _Stream(self, target, "" if inward else name, name if inward else ETCD)

        listener = await self._loop.create_server(accept, host, port)
        self._listeners.append(listener)
        return f"{host}:{listener.sockets[0].getsockname()[1]}"

    def opened(self, stream: _Stream) -> None:
        """Note a connection."""
        self._streams.add(stream)

    def closed(self, stream: _Stream) -> None:
        """Note that a connection has ended."""
        self._streams.discard(stream)

    async def _aclose(self) -> None:
        for listener in self._listeners:
            listener.close()
        for stream in list(self._streams):
            stream.abort()
        await asyncio.sleep(0)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _of(faults: dict[tuple[str, str], float], source: str, target: str) -> float:
    return max(faults.get((a, b), 0.0) for a in (source, ANYBODY) for b in (target, ANYBODY))


class _Way:
    """Bytes of one direction, held until they may pass."""

    def __init__(self) -> None:
        self.held: deque[tuple[float, bytes]] = deque()
        self.size = 0
        self.source: asyncio.Transport | None = None
        self.sink: asyncio.Transport | None = None
        self.timer: asyncio.TimerHandle | None = None
        self.ends = False


class _Stream(asyncio.Protocol):
    """One connection through a proxy: the side that was opened to us. ``_Far`` is the side we open."""

    def __init__(self, network: FaultyNetwork, target: str, opener: str, opened: str) -> None:
        self.opener = opener
        self.opened = opened
        self._network = network
        self._loop = asyncio.get_running_loop()
        self._target = target
        self._parser = FrameParser()
        self._out, self._back = _Way(), _Way()
        self._second: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect to the server."""
        assert isinstance(transport, asyncio.Transport)
        self._out.source = self._back.sink = transport
        self._network.opened(self)
        self._connecting = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        host, _, port = self._target.rpartition(":")
        with contextlib.suppress(OSError):
            far, _ = await self._loop.create_connection(lambda: _Far(self), host, int(port))
            self._out.sink = self._back.source = far
            self.changed()
            return
        self.abort()

    def data_received(self, data: bytes) -> None:
        """Pass on what the opener sends."""
        if not self.opener:  # its first bytes tell who it is
            frames = self._parser.feed(bytes(data))
            if frames:
                hello = decode_hello(frames[0][3])
                self.opener = hello.name if hello.role == "server" else CLIENTS
                if self._network.doubles(self.opener, self.opened):
                    first = b"".join(each for _, each in self._out.held) + bytes(data)
                    self._opening = self._loop.create_task(self._open_again(_first_frame(first)))
        self._take(self._out, data)

    async def _open_again(self, hello: bytes) -> None:
        """Open a second connection with the same handshake; what it is answered is not passed on."""
        host, _, port = self._target.rpartition(":")
        with contextlib.suppress(OSError):
            self._second, _ = await self._loop.create_connection(asyncio.Protocol, host, int(port))
            self._second.write(hello)
            self._network.note((self.opener, self.opened), trouble=1)

    def far_received(self, data: bytes) -> None:
        """Pass on what the server sends."""
        self._take(self._back, data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's form
        """Let the server see it, once it may."""
        self._end(self._out)

    def far_lost(self) -> None:
        """Let the opener see it, once it may."""
        self._end(self._back)

    def changed(self) -> None:
        """Faults have changed: pass on what may pass now."""
        for way in (self._out, self._back):
            self._pass(way)

    def abort(self) -> None:
        """End both sides at once; what is held is lost."""
        self._network.closed(self)
        for way in (self._out, self._back):
            if way.timer is not None:
                way.timer.cancel()
            if way.sink is not None:
                way.sink.abort()
        if self._second is not None:
            self._second.abort()

    def _names(self, way: _Way) -> tuple[str, str]:
        return (self.opener, self.opened) if way is self._out else (self.opened, self.opener)

    def _take(self, way: _Way, data: bytes) -> None:
        names = self._names(way)
        if self.opener and self._network.loses(*names):
            self._network.note(names, trouble=1)
            self.abort()
            return
        if self.opener and (self._network.is_cut(*names) or self._network.delay_of(*names)):
            self._network.note(names, trouble=1)
        way.held.append((self._loop.time() + self._network.delay_of(*self._names(way)), bytes(data)))
        way.size += len(data)
        if way.size > _HELD_BYTES_MAX and way.source is not None:
            way.source.pause_reading()
        self._pass(way)

    def _end(self, way: _Way) -> None:
        way.ends = True
        self._pass(way)

    def _pass(self, way: _Way) -> None:
        if way.sink is None or (not self.opener and way.held):
            return
        if self._network.is_cut(*self._names(way)):
            return
        now = self._loop.time()
        while way.held and way.held[0][0] <= now:
            data = way.held.popleft()[1]
            way.size -= len(data)
            way.sink.write(data)
            self._network.note(self._names(way), passed=len(data))
        if way.size <= _HELD_BYTES_MAX and way.source is not None and not way.source.is_closing():
            way.source.resume_reading()
        if way.held:
            if way.timer is not None:
                way.timer.cancel()
            way.timer = self._loop.call_at(way.held[0][0], self._pass, way)
        elif way.ends:
            way.sink.close()
            if self._out.ends and self._back.ends:
                self._network.closed(self)
                if self._second is not None:
                    self._second.close()


def _first_frame(data: bytes) -> bytes:
    return data[: 4 + int.from_bytes(data[:4], "little")]


class _Far(asyncio.Protocol):
    """The side of a connection that the proxy has opened to the server."""

    def __init__(self, stream: _Stream) -> None:
        self._stream = stream

    def data_received(self, data: bytes) -> None:
        """Hand over what the server sends."""
        self._stream.far_received(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's form
        """Hand over that it closed."""
        self._stream.far_lost()
