"""Losing a server on purpose, and timing what follows.

Owns the choice of the victim, the signal, and the two times. Leaves the load to ``workload``.
Invariants: times count from just before the signal; the good call that counts began after the processes were gone (or
stopped), and goes to an object that the victim hosted.
Failure behaviour: what was not seen within ``PATIENCE_S`` stays ``None``, and the demo is not ok.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psutil

from amino.cli.demo.kinds import FailoverKind
from amino.cli.demo.ledger import Ledger
from amino.cli.demo.workload import People
from amino.errors import AminoError, ClusterUnavailable

PATIENCE_S = 20.0
POLL_S = 0.002
_GONE_WITHIN_S = 1.0
_TIMELINES = "timeline."


@dataclass(slots=True)
class Failover:
    """One loss of a server.

    Args:
        at: monotonic seconds, just before the signal. objects: how many it hosted.
        bound_s: what the time to the first good call is designed for.
        detect_s: until this client was told that the server is lost. recover_s: until the first good call.
        probed: the microservice that was called.
    """

    kind: FailoverKind
    server: str
    objects: int
    bound_s: float
    at: float = 0.0
    detect_s: float | None = None
    recover_s: float | None = None
    probed: str = ""
    incarnation: int = 0


class Breaker:
    """Breaks servers of a local cluster.

    Args:
        local: the ``LocalCluster``. cluster: a connection to it.
        ttl_s: of the servers' sessions.
    """

    def __init__(self, local: Any, cluster: Any, people: People, ledger: Ledger, ttl_s: int) -> None:
        self._local = local
        self._cluster = cluster
        self._people = people
        self._ledger = ledger
        self._ttl_s = ttl_s
        self._number = 0

    def choose(self, kind: FailoverKind) -> tuple[Failover, Any]:
        """Return the failover to come, of the server that hosts most users' timelines, and the profile to probe with."""
        rows = self._cluster.find(name_prefix=_TIMELINES)
        hosts = {row.name.removeprefix(_TIMELINES): row.servers[0] for row in rows if row.servers}
        [(server, _)] = Counter(hosts.values()).most_common(1)
        probed = next(profile for profile in self._people.all() if hosts.get(profile.name) == server)
        [objects] = [each.replicas for each in self._cluster.servers() if each.record.name == server] or [0]
        bound_s = 1.0 if kind is FailoverKind.KERNEL else self._ttl_s + 1.0
        return Failover(kind, server, objects, bound_s, probed=f"{_TIMELINES}{probed.name}"), probed

    def cause(self, failover: Failover, probed: Any, wait: Callable[[float], object]) -> None:
        """Break the server and wait until it was noticed and made up for, or ``PATIENCE_S`` have passed.

        Args:
            wait: passes the given seconds; may raise to give up.
        """
        server = self._local.server(failover.server)
        strike = {
            FailoverKind.KERNEL: server.kill_kernel,
            FailoverKind.SERVER: server.kill,
            FailoverKind.FREEZE: server.stop,
        }[failover.kind]
        pids = (
            [server.kernel_pid] if failover.kind is FailoverKind.KERNEL else [server.kernel_pid, server.supervisor_pid]
        )
        failover.at = time.monotonic()
        incarnation = failover.incarnation = strike()
        _await_silence(pids, failover.at + _GONE_WITHIN_S)
        with self._probing(failover, probed):
            while time.monotonic() - failover.at < PATIENCE_S:
                if failover.detect_s is None and not self._is_member(failover.server, incarnation):
                    failover.detect_s = time.monotonic() - failover.at
                if failover.detect_s is not None and failover.recover_s is not None:
                    return
                wait(POLL_S)

    def repair(self, failover: Failover) -> int:
        """Bring the server back, empty; returns its new incarnation."""
        server = self._local.server(failover.server)
        if failover.kind is FailoverKind.SERVER:
            server.wait_ended()
            return int(server.start())
        if failover.kind is FailoverKind.FREEZE:
            server.resume()
        return int(server.wait_serving(after=failover.incarnation))  # it may serve again long since

    def _is_member(self, name: str, incarnation: int) -> bool:
        return any(
            each.record.name == name and each.incarnation == incarnation for each in self._cluster.servers_nowait()
        )

    @contextmanager
    def _probing(self, failover: Failover, probed: Any) -> Iterator[None]:
        """Call the object in a thread until a call is good."""
        self._number += 1
        text = f"first words after failover {self._number}"
        ended = threading.Event()

        def probe() -> None:
            while not ended.is_set():
                with contextlib.suppress(AminoError):
                    tweet = probed.timeline.append(text)
                    failover.recover_s = time.monotonic() - failover.at
                    self._ledger.posted(tweet)
                    return

        thread = threading.Thread(target=probe, name="probe")
        try:
            thread.start()  # inside: an interrupt may come before it returns
            yield
        finally:
            ended.set()
            if thread.ident is not None:
                thread.join()


def _await_silence(pids: list[int], until: float) -> None:
    """Wait until none of the processes runs any more: signals take effect a moment after they were sent."""
    still = (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD, psutil.STATUS_STOPPED)
    for pid in pids:
        with contextlib.suppress(psutil.NoSuchProcess):
            process = psutil.Process(pid)
            while process.is_running() and process.status() not in still:
                if time.monotonic() > until:
                    raise ClusterUnavailable(f"process {pid} still runs after it was sent a signal; look at it")
                time.sleep(0.0002)
