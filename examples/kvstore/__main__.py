"""Fills a store, lets it grow and shrink while it is written to, and kills a server under it."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import amino
from amino.dm import DHT, AtLeastOnceRPC, ConsensusRSM, LoadBalancedMasterSlave
from amino.testing import LocalCluster
from kvstore.store import KeyValueStore

CHAINS = {
    "consensus": [AtLeastOnceRPC(), DHT(shards=3), ConsensusRSM()],
    "master-slave": [AtLeastOnceRPC(), DHT(shards=3), LoadBalancedMasterSlave(replicas=2, staleness_s=0)],
}


class Writer(threading.Thread):
    """Writes and reads until told to stop; dies if a call fails or reads anything but what it wrote."""

    def __init__(self, store: KeyValueStore) -> None:
        super().__init__()
        self.store = store
        self.stop = threading.Event()
        self.finished = False

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            self.store.put("heartbeat", str(number))
            assert self.store.get("heartbeat") == str(number)
        self.finished = True


def main(local: LocalCluster, cluster: amino.Cluster, chain: str) -> None:
    store = cluster.new(amino.spec(KeyValueStore, name="store", dms=CHAINS[chain]))
    for number in range(1000):
        store.put(f"moth-{number}", f"seen {number} times")
    print(f"{store.size()} keys on 3 shards: {store.sizes()}")
    writer = Writer(store)
    writer.start()
    for shards in (5, 2):
        cluster.scale(store, shards=shards)
        print(f"{len(store.keys('moth-'))} moths on {shards} shards, found at {store.get('moth-17')!r}")
    local.server("s2").kill()
    print(f"{len(store.keys('moth-'))} moths without s2, found at {store.get('moth-17')!r}")
    print(f"deleted: {store.delete('moth-17')}, again: {store.delete('moth-17')}, now: {store.get('moth-17')}")
    print(f"like moth-99: {store.keys('moth-99')}")
    writer.stop.set()
    writer.join()
    print(f"the writer noticed {'nothing' if writer.finished else 'something'}")


if __name__ == "__main__":
    with LocalCluster(servers=3, app_dirs=[Path(__file__).parents[1]]) as local, local.connect() as cluster:
        main(local, cluster, sys.argv[1] if len(sys.argv) > 1 else "consensus")
