"""How the processes of a server connect to etcd, from their configuration.

Owns the translation of configuration into an open store, and the cluster's document. Leaves the store to
``coordination``.
Invariant: the cluster document is created once, whoever comes first, and never overwritten here.
Failure behaviour: ``CoordinationUnavailable`` when etcd does not answer, ``Invalid`` for files or documents that do not fit.
"""

from __future__ import annotations

import random

from amino.aio.clock import Clock
from amino.config import EtcdConfig
from amino.contracts.documents import ClusterDocument, decode, encode
from amino.coordination.etcd import EtcdStore, EtcdTls
from amino.coordination.keys import Keys
from amino.coordination.store import Get, Put, Store, absent

HASH_SEED_MAX = 2**32 - 1


async def open_store(config: EtcdConfig, *, request_timeout_s: float, clock: Clock) -> EtcdStore:
    """Open the store that ``config`` names."""
    tls = None
    if config.tls is not None:
        tls = EtcdTls(config.tls.ca, config.tls.cert or None, config.tls.key or None)
    return await EtcdStore.open(
        config.endpoints,
        tls=tls,
        user=config.user or None,
        password=config.password or None,
        request_timeout_s=request_timeout_s,
        clock=clock,
    )


async def cluster_document(store: Store, keys: Keys) -> ClusterDocument:
    """Return the cluster's document, which the first server to ask creates with a random hash seed."""
    fresh = ClusterDocument(hash_seed=random.SystemRandom().randint(1, HASH_SEED_MAX))
    result = await store.txn([absent(keys.cluster)], [Put(keys.cluster, encode(fresh))], [Get(keys.cluster)])
    if result.succeeded:
        return fresh
    record = result.reads[0][0]
    return decode(record.value, ClusterDocument, record.key)
