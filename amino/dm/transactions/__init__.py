"""Managers that run several calls as one. Not here: durability and replication, which managers further out add."""

from amino.dm.transactions.durable import DurableTransactions
from amino.dm.transactions.locking import LockingTransactions
from amino.dm.transactions.optimistic import OptimisticTransactions
from amino.dm.transactions.participant import Participant
from amino.dm.transactions.two_phase import TwoPhaseCommit

__all__ = ["DurableTransactions", "LockingTransactions", "OptimisticTransactions", "Participant", "TwoPhaseCommit"]
