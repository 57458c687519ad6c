"""``amino rebuild`` and ``amino settle`` put together: etcd and the checkpoint store of a configuration, one run, and its end.

Owns opening and closing both, waiting until servers have brought back what was written, and deciding for an operator. Leaves the work to
``oms.rebuilding``.
Invariant: nothing is left open.
Failure behaviour: as ``oms.rebuilding``; what is not back when time runs out is told as it is then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from amino.aio.clock import RealClock
from amino.checkpoint.access import StoreAccess
from amino.checkpoint.store import open_store as open_checkpoint_store
from amino.contracts.decisions import ABORTED, COMMITTED, PENDING, DecisionDocument
from amino.contracts.documents import decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Put, unchanged
from amino.errors import Invalid
from amino.node.adapters import Chains
from amino.node.connections import open_store
from amino.oms.rebuilding import Rebuilding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from amino.config import ServerConfig
    from amino.oms.rebuilding import Outcome

ETCD_TIMEOUT_S = 5.0
LOOK_EVERY_S = 0.25
_ENDED = ("", "active", "lost", "quarantined", "deleting")


class Progress(NamedTuple):
    """What to show: what is being done, and how far it is."""

    what: str
    done: int
    of: int


async def rebuild(
    config: ServerConfig,
    *,
    dry_run: bool = False,
    restored: bool = False,
    wait_s: float = 60.0,
    progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[list[Outcome], int]:
    """Bring back what the checkpoint store holds; returns how each microservice fared, and how many servers there are.

    Args:
        config: names etcd and the store, as for a server.
        dry_run: change nothing.
        restored: etcd was restored from a backup; no server runs.
        wait_s: how long to wait until the servers have restored what was written.

    Raises:
        Invalid: no store is named, or it is not one of Amino's. StoreFailed, CoordinationUnavailable: run it again.
    """
    if not config.store:
        raise Invalid("no checkpoint store is named; give the --store (or --config) that the servers have")
    clock = RealClock()
    access = StoreAccess(
        await asyncio.to_thread(
            lambda: open_checkpoint_store(config.store, cluster=config.cluster, options=config.store_options)
        )
    )
    store = await open_store(config.etcd, request_timeout_s=ETCD_TIMEOUT_S, clock=clock)
    try:
        run = Rebuilding(
            store=store,
            keys=Keys(config.cluster),
            access=access,
            chains=Chains(),
            clock=clock,
            dry_run=dry_run,
            restored=restored,
            progress=lambda done, of: progress(Progress("reading checkpoints", done, of)),
        )
        outcomes = await run.run()
        servers = await run.servers()
        until = clock.monotonic() + wait_s
        while True:
            outcomes = await run.look(outcomes)
            waiting = _waiting(outcomes)
            progress(Progress("waiting for servers to restore", len(outcomes) - waiting, len(outcomes)))
            if not waiting or not servers or clock.monotonic() >= until:
                return outcomes, servers
            await asyncio.sleep(LOOK_EVERY_S)
    finally:
        await store.aclose()
        await access.aclose()


def _waiting(outcomes: Sequence[Outcome]) -> int:
    return sum(one.state not in _ENDED for one in outcomes)


async def settle(config: ServerConfig, transaction: str, outcome: str) -> str:
    """Decide a two-phase commit whose decision was lost with etcd; returns the outcome that holds now. Idempotent.

    Args:
        outcome: ``committed`` or ``aborted``. What is decided already is not changed.

    Raises:
        Invalid: no such outcome, or no such id. CoordinationUnavailable: repeat it.
    """
    if outcome not in (COMMITTED, ABORTED):
        raise Invalid(f"a transaction is committed or aborted, not {outcome!r}")
    key = Keys(config.cluster).decision(transaction)
    store = await open_store(config.etcd, request_timeout_s=ETCD_TIMEOUT_S, clock=RealClock())
    try:
        while True:
            found = await store.get(key)
            begun = decode(found.value, DecisionDocument, key) if found is not None else DecisionDocument(PENDING, ())
            if begun.outcome != PENDING:
                return begun.outcome
            put = Put(key, encode(msgspec.structs.replace(begun, outcome=outcome)))
            revision = found.mod_revision if found is not None else 0
            result = await store.txn([unchanged(key, revision)], [put])
            if result.succeeded:  # written twice: a commit that was decided, and not only begun, can be ended
                await store.txn([unchanged(key, result.revision)], [put])
                return outcome
    finally:
        await store.aclose()
