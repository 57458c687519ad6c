"""Clusters to break: one protocol, two topologies.

Owns starting and ending them, what may be asked of their processes and networks, and looking at them from outside. Leaves what
goes wrong to ``faults``.
Invariants: everything started is ended; signals go to processes of the cluster only, by id.
Failure behaviour: what does not come up raises with the reason, and nothing is left.
"""

from amino.testing.chaos.clusters.attached import AttachedCluster
from amino.testing.chaos.clusters.containers import ContainerCluster
from amino.testing.chaos.clusters.port import CLIENTS, ETCD, Ability, Cluster, Network, Part
from amino.testing.chaos.clusters.processes import ProcessCluster
from amino.testing.chaos.clusters.view import ClusterView

__all__ = [
    "CLIENTS",
    "ETCD",
    "Ability",
    "AttachedCluster",
    "Cluster",
    "ClusterView",
    "ContainerCluster",
    "Network",
    "Part",
    "ProcessCluster",
]
