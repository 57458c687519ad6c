"""Commands to the kernels of other servers, ended early when their server is lost.

Owns time-outs, addresses, and the proof that a lost incarnation is dead (tombstone, else a try to fence it). Leaves what
to command to ``leader``.
Invariants: no command outlives the news that its server is gone, or that its microservice is to be deleted; only an
incarnation that etcd proves to be gone is asked to stop, at most once by this server.
Failure behaviour: ``TimeoutError`` when time ran out or the server was lost; errors of the kernel pass through; of a server that
lives and cannot be reached ``on_silence`` is told.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from amino.aio.tasks import TaskOwner
from amino.contracts.documents import ReplicaDocument, Tombstone, decode
from amino.contracts.services import FenceRequest, Kernel, KernelCaller
from amino.coordination.keys import Keys
from amino.coordination.store import Delete, Get, Store, not_created_at
from amino.errors import AminoError, Conflict, NotExecuted
from amino.oms.directory import Directory, Host

FENCE_TIMEOUT_S = 0.2
PROOFS_MAX = 1024


class Commands:
    """How a slot leader reaches kernels.

    Args:
        store: for tombstones.
        kernels: the transport.
    """

    def __init__(self, store: Store, keys: Keys, directory: Directory, kernels: KernelCaller) -> None:
        self._store = store
        self._keys = keys
        self._directory = directory
        self._kernels = kernels
        self._scopes: dict[str | Host, dict[asyncio.Timeout, None]] = {}
        self._proofs: OrderedDict[Host, asyncio.Task[Tombstone | None]] = OrderedDict()
        self._tasks = TaskOwner("commands")
        self.on_silence: Callable[[], None] | None = None
        directory.on_loss(self._lost)

    def __repr__(self) -> str:
        return f"Commands({sum(map(len, self._scopes.values()))} running)"

    async def aclose(self) -> None:
        """End what is under way. Idempotent."""
        await self._tasks.aclose()

    @asynccontextmanager
    async def to(self, ms_id: str, replica: ReplicaDocument, timeout_s: float) -> AsyncIterator[Kernel]:
        """Yield the kernel that has (or is to have) ``replica``, for at most ``timeout_s`` seconds.

        Raises:
            NotExecuted: its server is not there (any more).
            TimeoutError: time ran out, the server was lost meanwhile, or ``interrupt`` was called.
        """
        server = self._directory.server(replica.server)
        if server is None or server.incarnation != replica.incarnation:
            raise NotExecuted(f"server {replica.server}@{replica.incarnation} is gone", reason="unreachable")
        host = (replica.server, replica.incarnation)
        scope = asyncio.timeout(timeout_s)
        until = asyncio.get_running_loop().time() + timeout_s
        try:
            async with scope:
                with self._listed(scope, ms_id, host):
                    yield self._kernels.at(server.record.address)
        except TimeoutError:
            if asyncio.get_running_loop().time() >= until:  # else it was ended early, which says nothing of the server
                self._tell_silence(host)
            raise
        except NotExecuted as error:
            if error.reason == "unreachable":
                self._tell_silence(host)
            raise

    @contextmanager
    def _listed(self, scope: asyncio.Timeout, *topics: str | Host) -> Iterator[None]:
        for topic in topics:
            self._scopes.setdefault(topic, {})[scope] = None
        try:
            yield
        finally:
            for topic in topics:
                running = self._scopes[topic]
                running.pop(scope, None)
                if not running:
                    del self._scopes[topic]

    def _tell_silence(self, host: Host) -> None:
        if self.on_silence is not None and self._directory.lives(*host):
            self.on_silence()

    def interrupt(self, matches: Callable[[str], bool]) -> None:
        """End commands about microservices for which ``matches(id)`` holds, with ``TimeoutError``."""
        for topic in [topic for topic in self._scopes if isinstance(topic, str) and matches(topic)]:
            self._end(topic)

    def _lost(self, name: str, incarnation: int) -> None:
        self._end((name, incarnation))

    def _end(self, topic: str | Host) -> None:
        for scope in self._scopes.get(topic, ()):
            if not scope.expired():
                scope.reschedule(asyncio.get_running_loop().time())

    async def proof(self, name: str, incarnation: int) -> Tombstone | None:
        """Return the tombstone of a lost incarnation; if there is none, first try to make it stop.

        Raises:
            Conflict: it is not lost. CoordinationUnavailable: etcd did not say.
        """
        host = (name, incarnation)
        task = self._proofs.get(host)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._proofs[host] = self._tasks.spawn(self._prove(name, incarnation), f"proof {name}")
            task.add_done_callback(_seen)
            while len(self._proofs) > PROOFS_MAX:
                self._proofs.popitem(last=False)
        return await asyncio.shield(task)

    def tombstones(self) -> dict[Host, Tombstone]:
        """Return the tombstones read so far."""
        return {
            host: tombstone
            for host, task in self._proofs.items()
            if task.done() and not task.cancelled() and task.exception() is None
            for tombstone in [task.result()]
            if tombstone is not None
        }

    async def _prove(self, name: str, incarnation: int) -> Tombstone | None:
        key = self._keys.tombstone(name, incarnation)
        # a transaction on the write path, because a stale list or a stale read must not make us stop a live server
        gone = not_created_at(self._keys.server(name), incarnation)
        result = await self._store.txn([gone], [Get(key), Delete(self._keys.nothing)])
        if not result.succeeded:
            self._directory.servers_cache.relist_soon()
            raise Conflict(f"server {name}@{incarnation} lives, whatever this server has heard")
        if result.reads[0]:
            return decode(result.reads[0][0].value, Tombstone, key)
        departed = self._directory.departed.get((name, incarnation))
        if departed is not None:
            with contextlib.suppress(AminoError, TimeoutError, OSError):
                async with asyncio.timeout(FENCE_TIMEOUT_S):
                    await self._kernels.at(departed.address).fence(FenceRequest(incarnation))
        return None


def _seen(task: asyncio.Task[Tombstone | None]) -> None:
    if not task.cancelled():
        task.exception()  # whoever awaits it gets it too
