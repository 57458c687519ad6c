"""What a supervisor reads and writes in the cluster's document: the hash seed, and the end of its own cordon.

Owns creating the document, which begins the life of an etcd, and opening a server that was cordoned by its own shutdown. Leaves pauses and the cordons of
operators to the OMS.
Invariants: the document is created once, whoever comes first; every write compares what was read; an operator's cordon is
never lifted here.
Failure behaviour: ``CoordinationUnavailable`` when etcd does not answer (repeating is safe), ``Invalid`` for a document of
another format.
"""

from __future__ import annotations

import random
import time

import msgspec

from amino.contracts.documents import ClusterDocument, decode, encode
from amino.coordination.keys import Keys
from amino.coordination.store import Get, Put, Store, absent, unchanged

HASH_SEED_MAX = 2**32 - 1
SHUTTING_DOWN = "shutting down"
"""Reason of the cordon of a server that drains because it was told to end; lifted when it starts again."""


async def cluster_document(store: Store, keys: Keys) -> ClusterDocument:
    """Return the cluster's document, which the first server to ask creates with a random hash seed."""
    seed = random.SystemRandom().randint(1, HASH_SEED_MAX)
    fresh = ClusterDocument(hash_seed=seed, counts_from=time.time_ns() // 1000)
    result = await store.txn([absent(keys.cluster)], [Put(keys.cluster, encode(fresh))], [Get(keys.cluster)])
    if result.succeeded:
        return fresh
    record = result.reads[0][0]
    return decode(record.value, ClusterDocument, record.key)


async def reopen(store: Store, keys: Keys, name: str) -> bool:
    """Lift the cordon that the server's own shutdown left; returns whether there was one."""
    while True:
        record = await store.get(keys.cluster)
        if record is None:
            return False
        document = decode(record.value, ClusterDocument, record.key)
        if document.cordoned.get(name) != SHUTTING_DOWN:
            return False
        cordoned = {server: why for server, why in document.cordoned.items() if server != name}
        put = Put(keys.cluster, encode(msgspec.structs.replace(document, cordoned=cordoned)))
        if (await store.txn([unchanged(keys.cluster, record.mod_revision)], [put])).succeeded:
            return True
