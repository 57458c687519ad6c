"""The scenarios: which managers, under which load, while what goes wrong.

Owns the table. Leaves carrying it out to ``runner``.
Invariants: a scenario's faults stay within what its managers promise to survive, so every violation is a bug.
Failure behaviour: an unknown name is ``Invalid``, with those that there are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from amino.dm import (
    DHT,
    AtLeastOnceRPC,
    ConsensusRSM,
    ConsensusRSMGeo,
    ConsensusRSMP2P,
    DurableSerializableRPC,
    DurableTransactions,
    LoadBalancedMasterSlave,
    LockingTransactions,
    OptimisticTransactions,
    PeriodicCheckpoint,
    SerializableRPC,
    TwoPhaseCommit,
)
from amino.dm.base import Manager
from amino.errors import Invalid
from amino.testing.chaos.clusters.port import Ability
from amino.testing.chaos.faults.catalogue import parts_of

PROCESS_FAULTS = {
    "kill-kernel": 4,
    "kill-supervisor": 2,
    "kill-server": 3,
    "freeze-kernel": 2,
    "freeze-kernel-long": 2,
    "freeze-supervisor": 1,
    "freeze-supervisor-long": 1,
    "freeze-server": 2,
    "freeze-server-long": 3,
}
NETWORK_FAULTS = {
    "cut-etcd": 3,
    "cut-servers": 3,
    "cut-one-way": 3,
    "cut-off": 2,
    "swallow-answers": 2,
    "slow-etcd": 1,
    "cut-clients": 2,
    "isolate": 3,
    "slow-network": 1,
    "lossy-network": 1,
    "reset-connections": 2,
    "double-connections": 1,
}
ETCD_FAULTS = {
    "kill-member": 3,
    "freeze-member": 3,
    "kill-majority": 1,
    "freeze-majority": 1,
    "restart-etcd": 1,
    "compact": 2,
    "defragment": 1,
    "etcd-full": 1,
}
STORE_FAULTS = {"corrupt-checkpoint": 2, "full-disk": 2, "slow-disk": 2, "stuck-disk": 1}
ROLLING_FAULTS = {"rolling-restart": 1, "rolling-upgrade": 1}
CLOCK_FAULTS = {"clock-forward": 2, "clock-back": 2, "clock-strobe": 1}
DEVICE_FAULTS = {"kill-device": 3, "freeze-device": 1, "freeze-device-long": 2, "isolate-device": 2, "leave-device": 1}
CONTAINER_FAULTS = {"kill-container": 3, "freeze-container": 2, "disconnect-container": 3}
AGAIN = AtLeastOnceRPC(timeout_s=30.0)
BOUNDS = {"rolling-restart": 15.0, "rolling-upgrade": 15.0}
"""Of kinds that nobody should notice: for how long a workload may go unanswered while they last."""
REGIONS = ("north", "east", "south")
MANAGERS = "managers:"
"""What names begin with that stand for the claims of managers: ``managers:ConsensusRSM,DHT``."""


@dataclass(frozen=True)
class Scenario:
    """One scenario.

    Args:
        text: what it shows, one line.
        chains: name of a workload -> the managers of its microservices; each name is that of a workload, perhaps with ``@`` and
            anything behind it, where a workload is there more than once.
        faults: kinds with weights; a cluster leaves out what it does not let happen.
        servers, devices, members, ttl_s: of the cluster; one of containers has no devices. workers: of each workload.
        gap_s: between two faults. pause_s: longest pause of a worker between two operations.
        regions: of the servers, one after the other; none: they have none.
        etcd_quota_mib: of etcd's data, 0: large. disk_mib: of a disk for the checkpoint store, 0: none of its own.
        release: servers can be started as another release of Amino. clocks: their wall clocks can be set. fields: of every server's configuration.
    """

    name: str
    text: str
    chains: Mapping[str, tuple[Manager, ...]]
    faults: Mapping[str, int]
    servers: int = 3
    devices: int = 0
    members: int = 3
    ttl_s: int = 2
    workers: int = 3
    gap_s: tuple[float, float] = (2.0, 4.0)
    pause_s: float = 0.04
    regions: tuple[str, ...] = ()
    etcd_quota_mib: int = 0
    disk_mib: int = 0
    release: bool = False
    clocks: bool = False
    fields: Mapping[str, Any] = field(default_factory=dict)


_CHECKPOINTED = (AGAIN, SerializableRPC(), PeriodicCheckpoint(every=1))
_LOGGED = (AGAIN, DurableSerializableRPC())
_LOGGED_ANEW = (AGAIN, DurableSerializableRPC(snapshot_every=30))
_REPLICATED = (AGAIN, ConsensusRSM())

SCENARIOS = {
    one.name: one
    for one in (
        Scenario(
            "auto-restart",
            "kernel processes and supervisors die; servers start again and objects come back with their state",
            {"counter": _CHECKPOINTED, "register": _CHECKPOINTED},
            {"kill-kernel": 4, "kill-supervisor": 2, "kill-server": 2, "freeze-kernel-long": 1},
        ),
        Scenario(
            "checkpoint-recovery",
            "machines are lost, frozen and cut off; objects come back from checkpoints and logs, wherever there is a server",
            {"counter": _LOGGED, "register": _CHECKPOINTED, "bank": _CHECKPOINTED, "queue": _LOGGED},
            {**PROCESS_FAULTS, "isolate": 2, "cut-etcd": 2, "swallow-answers": 2, "disconnect-container": 2},
        ),
        Scenario(
            "replica-failover",
            "servers with primaries and followers are killed, frozen and cut off; the group goes on",
            {"register": _REPLICATED, "counter": _REPLICATED, "set": _REPLICATED},
            {**PROCESS_FAULTS, **NETWORK_FAULTS, **CONTAINER_FAULTS},
            servers=4,
        ),
        Scenario(
            "coordinator-failover",
            "leaders of slots are lost together with members of etcd, while they decide about what was lost",
            {"register": _REPLICATED, "counter": _CHECKPOINTED},
            {
                "kill-server+kill-member": 2,
                "kill-kernel+freeze-member": 2,
                "freeze-server-long+kill-member": 2,
                "kill-kernel": 2,
                "isolate": 2,
                "cut-etcd": 2,
                "kill-majority": 1,
                "restart-etcd": 1,
                "compact": 1,
            },
            servers=4,
        ),
        Scenario(
            "etcd-trouble",
            "members of etcd are killed, frozen, filled, compacted and restarted under everything",
            {"register": _REPLICATED, "counter": _CHECKPOINTED, "counter@logged": _LOGGED},
            ETCD_FAULTS,
            etcd_quota_mib=32,
        ),
        Scenario(
            "store-trouble",
            "the disk of the checkpoint store is full, slow or stands still, and newest checkpoints are damaged when they are needed",
            {"counter": _LOGGED_ANEW, "register": _CHECKPOINTED, "counter@each": _CHECKPOINTED, "queue": _LOGGED_ANEW},
            {**STORE_FAULTS, "kill-server": 2, "kill-kernel": 1, "isolate": 1, "kill-server+full-disk": 1},
            disk_mib=64,
        ),
        Scenario(
            "damaged-checkpoints",
            "servers are lost whose objects' newest checkpoints are damaged: the ones before, and logs, must do",
            {
                "counter": _LOGGED_ANEW,
                "queue": _LOGGED_ANEW,
                "counter@tenth": (AGAIN, PeriodicCheckpoint(every=10), SerializableRPC()),
                "set": (AGAIN, PeriodicCheckpoint(every=5), SerializableRPC()),
            },
            {"corrupt-checkpoint": 3, "corrupt-snapshot": 3, "kill-kernel": 1, "kill-server": 1},
        ),
        Scenario(
            "rolling-restart",
            "every server in turn drains and starts again, under load; between two rounds one of them is lost",
            {
                "counter": _CHECKPOINTED,
                "register": _REPLICATED,
                "queue": _LOGGED,
                "set": (AGAIN, DHT(shards=2), ConsensusRSM()),
            },
            {"rolling-restart": 3, "kill-server": 1},
            servers=4,
        ),
        Scenario(
            "rolling-upgrade",
            "every server in turn becomes another release of Amino, and goes back, under load",
            {"counter": _CHECKPOINTED, "register": _REPLICATED, "queue": _LOGGED, "counter@logged": _LOGGED_ANEW},
            {"rolling-upgrade": 3, "kill-kernel": 1},
            servers=4,
            release=True,
        ),
        Scenario(
            "clock-jumps",
            "wall clocks of servers jump ahead and back by an hour, and servers are lost while they are wrong",
            {
                "register": _REPLICATED,
                "counter": _LOGGED_ANEW,
                "bank": (AGAIN, LockingTransactions(lock_s=2.0, wait_s=5.0), PeriodicCheckpoint(every=1)),
                "bank@two": (AGAIN, TwoPhaseCommit(timeout_s=2.0), PeriodicCheckpoint(every=1)),
            },
            {
                **CLOCK_FAULTS,
                "clock-forward+kill-server": 2,
                "clock-back+kill-kernel": 2,
                "clock-back:all": 1,
                "isolate": 1,
            },
            servers=4,
            workers=2,
            pause_s=0.1,
            clocks=True,
        ),
        Scenario(
            "memory-pressure",
            "servers have hardly any memory left, and are lost meanwhile",
            {
                "bank": (AGAIN, LockingTransactions(lock_s=2.0, wait_s=5.0), ConsensusRSM()),
                "list-append": (AGAIN, OptimisticTransactions(), PeriodicCheckpoint(every=1)),
                "counter": _LOGGED_ANEW,
            },
            {"memory-pressure": 3, "memory-pressure+kill-kernel": 1, "memory-pressure:primary": 1},
            gap_s=(5.5, 7.0),
            workers=2,
            pause_s=0.1,
        ),
        Scenario(
            "transactions",
            "servers of banks and lists are killed, frozen and cut off in the middle of transactions",
            {
                "bank": (AGAIN, LockingTransactions(lock_s=2.0, wait_s=5.0), ConsensusRSM()),
                "bank@two": (AGAIN, TwoPhaseCommit(timeout_s=2.0), PeriodicCheckpoint(every=1)),
                "list-append": (AGAIN, OptimisticTransactions(), PeriodicCheckpoint(every=1)),
                "list-append@logged": (AGAIN, DurableTransactions()),
            },
            {**PROCESS_FAULTS, **NETWORK_FAULTS},
            servers=4,
            workers=2,
            pause_s=0.1,
        ),
        Scenario(
            "collections",
            "shards, masters and slaves, and logs are killed, frozen and cut off under sets, queues and entries",
            {
                "set": (AGAIN, DHT(shards=2), ConsensusRSM()),
                "queue": _LOGGED,
                "key-value": (AGAIN, LoadBalancedMasterSlave()),
                "counter": (AGAIN, PeriodicCheckpoint(every=10), SerializableRPC()),
            },
            {**PROCESS_FAULTS, **NETWORK_FAULTS},
            servers=4,
            workers=2,
            pause_s=0.1,
        ),
        Scenario(
            "regions",
            "servers of three regions are killed, frozen and cut off; at rest every region has a replica and the primary is at home",
            {
                "register": (AGAIN, ConsensusRSMGeo(regions=REGIONS, preferred_region=REGIONS[0])),
                "key-value": (
                    AGAIN,
                    ConsensusRSMGeo(regions=REGIONS, preferred_region=REGIONS[1], read_staleness_s=1.0),
                ),
            },
            {**PROCESS_FAULTS, **NETWORK_FAULTS, **CONTAINER_FAULTS},
            servers=6,
            regions=REGIONS,
        ),
        Scenario(
            "devices",
            "client devices with primaries and followers are killed, frozen and cut off; others, and servers for safety, go on",
            {
                "register": (AGAIN, ConsensusRSMP2P()),
                "counter": (AGAIN, ConsensusRSMP2P(replicas=2)),
                "register@servers": _REPLICATED,
            },
            {**DEVICE_FAULTS, "kill-device:primary": 2, "kill-device+kill-server": 2, "kill-server": 2, "isolate": 1},
            devices=3,
        ),
        Scenario(
            "soak",
            "everything goes wrong under mixed managers, one thing every 5 to 15 seconds",
            {
                "register": _REPLICATED,
                "counter": _CHECKPOINTED,
                "counter@logged": _LOGGED_ANEW,
                "register@kept": _CHECKPOINTED,
            },
            {
                **PROCESS_FAULTS,
                **NETWORK_FAULTS,
                **ETCD_FAULTS,
                **STORE_FAULTS,
                **ROLLING_FAULTS,
                **CLOCK_FAULTS,
                **CONTAINER_FAULTS,
            },
            servers=4,
            gap_s=(5.0, 15.0),
            pause_s=0.2,
            etcd_quota_mib=64,
            disk_mib=128,
            release=True,
            clocks=True,
        ),
    )
}


def with_faults(scenario: Scenario, kinds: Sequence[str]) -> Scenario:
    """Return a scenario with other faults, and without what its cluster has for faults only and none of them needs."""
    needs = {ability for kind in kinds for part in parts_of(kind) for ability in part.needs}
    return replace(
        scenario,
        faults=dict.fromkeys(kinds, 1),
        etcd_quota_mib=scenario.etcd_quota_mib if Ability.QUOTA in needs else 0,
        disk_mib=scenario.disk_mib if Ability.DISK in needs else 0,
        release=scenario.release and Ability.RELEASES in needs,
        clocks=scenario.clocks and Ability.CLOCK in needs,
    )


def named(name: str) -> Scenario:
    """Return a scenario.

    Raises:
        Invalid: there is none of that name.
    """
    if name.startswith(MANAGERS):
        from chaos.claims import scenario_of

        return scenario_of(name.removeprefix(MANAGERS).split(","))
    try:
        return SCENARIOS[name]
    except KeyError:
        raise Invalid(f"no scenario {name!r}; there are {', '.join(SCENARIOS)}") from None
