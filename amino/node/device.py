"""A device: the kernel server that a client process embeds, for as long as that process is connected.

Owns ``Device`` (what a user says about it) and the thread and event loop it lives on. Leaves one incarnation of it to
``device_life``, and calls to the client.
Invariants: the thread never outlives ``close`` or the process; in a forked child there is no device.
Failure behaviour: what prevents the first start is raised in the client; a session that is lost later is followed by a new,
empty incarnation.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from amino import limits
from amino.config import EtcdConfig, ServerConfig, SessionConfig, TlsFiles
from amino.errors import AminoError, ClusterUnavailable, Invalid, NotExecuted

if TYPE_CHECKING:
    from amino.node.device_life import DeviceLife
    from amino.rpc.tls import TlsConfig
    from amino.stubs.ports import Local
    from amino.telemetry.trace import Telemetry

_log = logging.getLogger("amino.device")
LABEL = "device"
"""The label every device carries, its name as value; placement takes devices only where this label or a manager asks for them."""
STOP_S = 5.0
_SIGTERM_EXIT = 128 + signal.SIGTERM


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a client process says about the kernel server it embeds: ``amino.connect(..., device=amino.Device(name=...))``.

    A device is a kernel server like any other, except that it leads nothing and that placement passes over it unless it is
    asked for; so it talks to etcd itself, and servers and other devices must be able to reach its port.

    Args:
        name: unique among servers and devices.
        etcd: ``host:port`` of etcd's members, several with commas, or an ``EtcdConfig`` with user or TLS.
        listen: ``host:port`` that it is reached at; port 0 takes a free one. Beyond loopback it needs TLS (the role
            ``server`` in its certificate), or ``insecure`` in ``connect``.
        advertise: host that others reach it by, where that differs from ``listen``.
        labels: for placement; ``device`` (its name) and ``host`` are added.
        capacity: most replicas it takes, 0 for no bound.
        store: URL of the cluster's checkpoint store, for chains that need one; empty: none.
        tls: PEM files of a server's certificate; default: those given to ``connect``.
        session_ttl_s: seconds after which a device that vanished without trace counts as lost (2 or more). Code that keeps
            Python's interpreter lock for longer costs the device its session.
        drain_timeout_s: how many seconds it waits to hand its replicas over when the connection is closed (0 or more); then it
            leaves as it is.
        threads_max: most calls of blocking methods at once.
        on_sigterm: whether SIGTERM ends the program by ``SystemExit``, so that the device leaves in order; only where the
            program connects in its main thread and has no handler of its own.
    """

    name: str
    etcd: str | EtcdConfig = "127.0.0.1:2379"
    listen: str = "127.0.0.1:0"
    advertise: str = ""
    labels: dict[str, str] = {}
    capacity: int = 0
    store: str = ""
    tls: TlsFiles | None = None
    session_ttl_s: int = 3
    drain_timeout_s: float = 10.0
    threads_max: int = limits.THREADS_MAX
    on_sigterm: bool = True

    def config(self, cluster: str, tls: TlsConfig | None, *, insecure: bool) -> ServerConfig:
        """Return its configuration as a server; ``Invalid`` names a field that is out of range."""
        if LABEL in self.labels:
            raise Invalid(f"device {self.name!r}: the label {LABEL!r} is the device's name; leave it out of labels")
        etcd = self.etcd
        if not isinstance(etcd, EtcdConfig):
            etcd = EtcdConfig(endpoints=tuple(part.strip() for part in etcd.split(",") if part.strip()))
        files = self.tls
        if files is None and tls is not None:
            files = TlsFiles(str(tls.ca), str(tls.cert), str(tls.key))
        config = ServerConfig(
            cluster=cluster,
            name=self.name,
            listen=self.listen,
            grpc_listen="",
            advertise=self.advertise,
            etcd=etcd,
            session=SessionConfig(ttl_s=self.session_ttl_s),
            labels={**self.labels, LABEL: self.name},
            capacity=self.capacity,
            store=self.store,
            tls=files,
            insecure=insecure,
            drain_timeout_s=self.drain_timeout_s,
        )
        return msgspec.structs.replace(
            config, limits=msgspec.structs.replace(config.limits, threads_max=self.threads_max)
        )


class EmbeddedServer:
    """The thread, event loop and incarnations of one device. All methods may be called from any thread.

    Args:
        attach: told of the server to call directly while there is one, None while not; from the device's thread.
    """

    def __init__(
        self, device: Device, config: ServerConfig, telemetry: Telemetry, attach: Callable[[Local | None], None]
    ) -> None:
        self._device = device
        self._config = config
        self._telemetry = telemetry
        self._attach = attach
        self._pid = os.getpid()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._life: DeviceLife | None = None
        self._thread: threading.Thread | None = None
        self._served: Future[None] = Future()
        self._catches_sigterm = False

    def __repr__(self) -> str:
        return f"<device {self.name}, {f'incarnation {self.incarnation}' if self.is_serving else 'not serving'}>"

    @property
    def name(self) -> str:
        """Its name."""
        return self._config.name

    @property
    def incarnation(self) -> int:
        """The incarnation that serves; 0 while none does."""
        life = self._life
        return life.incarnation if life is not None else 0

    @property
    def address(self) -> str:
        """``host:port`` of its peer link; empty while it does not serve."""
        life = self._life
        return life.address if life is not None else ""

    @property
    def is_serving(self) -> bool:
        """Whether it has a session and answers calls."""
        return self.incarnation != 0

    def start(self, timeout_s: float) -> None:
        """Join the cluster; returns once it serves.

        Raises:
            ClusterUnavailable: it did not within ``timeout_s`` seconds, for example because etcd does not answer.
            AlreadyExists: a server or device of that name is alive. Invalid, OSError: it cannot listen as it should.
        """
        self._thread = threading.Thread(target=self._run, name=f"amino-device-{self.name}", daemon=True)
        self._thread.start()
        try:
            self._served.result(timeout_s)
        except TimeoutError:
            self.close(drain=False)
            etcd = ", ".join(self._config.etcd.endpoints)
            raise ClusterUnavailable(
                f"device {self.name} did not join within {timeout_s:.1f} s; check that etcd answers at {etcd}"
            ) from None
        except BaseException:
            self.close(drain=False)
            raise
        atexit.register(self.close)
        if self._device.on_sigterm:
            self._catches_sigterm = _end_on_sigterm()

    def leave(self) -> None:
        """Hand all replicas over, then leave the cluster; the process stays connected as a client. Blocks; idempotent.

        Raises:
            NotExecuted: something could not be handed over within ``drain_timeout_s``, for want of a device or server that
                may have it; nothing is lost, and the device stays.
        """
        life, loop, thread = self._life, self._loop, self._thread
        if life is None or loop is None or thread is None or not thread.is_alive() or os.getpid() != self._pid:
            return
        left = asyncio.run_coroutine_threadsafe(life.hand_over(), loop).result()
        if left:
            raise NotExecuted(
                f"device {self.name} stays, because it could not hand over {'; '.join(left)}. Add a device or server that may "
                "have it, or close the connection to leave all the same",
                reason="moving",
            )
        self.close(drain=False)

    def close(self, *, drain: bool = True) -> None:
        """End it: hand over what can be within ``drain_timeout_s``, stop serving, and say so. Blocks; idempotent.

        Args:
            drain: False leaves at once, as a crash does, but known to all.
        """
        atexit.unregister(self.close)
        thread, life, loop = self._thread, self._life, self._loop
        if thread is None or os.getpid() != self._pid:
            return
        if self._catches_sigterm:
            self._catches_sigterm = False
            _restore_sigterm()
        if life is not None and loop is not None:
            with contextlib.suppress(RuntimeError):  # its loop has ended
                loop.call_soon_threadsafe(life.leave_nowait, drain)
        thread.join(2 * self._config.drain_timeout_s + 3 * STOP_S if drain else 3 * STOP_S)
        if thread.is_alive():
            _log.error("device %s did not end in time; its session will", self.name)

    def _run(self) -> None:
        from amino.node.child import new_event_loop
        from amino.rpc.grpc.environment import prepare_environment

        prepare_environment(os.environ)
        try:
            with asyncio.Runner(loop_factory=new_event_loop) as runner:
                runner.run(self._live())
        except (AminoError, OSError) as error:
            if not self._served.done():
                self._served.set_exception(error)
            else:
                _log.error("device %s ended: %s", self.name, error)
        except BaseException as error:  # noqa: BLE001 - the thread's last line: told to who starts it, else said here
            _log.exception("device %s ended: a bug", self.name)
            if not self._served.done():
                self._served.set_exception(error)

    async def _live(self) -> None:
        from amino.node.device_life import DeviceLife, real_parts

        self._loop = asyncio.get_running_loop()
        parts = real_parts(self._config, self._telemetry)
        self._life = DeviceLife(self._config, parts, self._attach, self._on_serving)
        await self._life.run()

    def _on_serving(self) -> None:
        if not self._served.done():
            self._served.set_result(None)


def _end_on_sigterm() -> bool:
    """Have SIGTERM end the program in order; returns whether that is so now, and was not before."""
    if threading.current_thread() is not threading.main_thread():
        return False
    if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return False
    signal.signal(signal.SIGTERM, _exit_in_order)
    return True


def _restore_sigterm() -> None:
    if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is _exit_in_order:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit_in_order(*_: object) -> None:
    raise SystemExit(_SIGTERM_EXIT)
