"""Managers that keep several replicas of one object alike. Not here: who is promoted, which the DM coordinator decides.

``machine.Machine`` is the pure core of one replica: events in, effects out. Its docstring says how an adapter drives it;
``docs/replication.md`` says what it does and why.
"""

from amino.dm.replication.consensus import ConsensusRSM
from amino.dm.replication.geo import ConsensusRSMGeo
from amino.dm.replication.master_slave import LoadBalancedMasterSlave
from amino.dm.replication.p2p import ConsensusRSMP2P

__all__ = ["ConsensusRSM", "ConsensusRSMGeo", "ConsensusRSMP2P", "LoadBalancedMasterSlave"]
