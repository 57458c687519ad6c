"""Distributed locks: what clients ask of the registry, and the record of a lock that is held.

Owns these messages and ``LockDocument``. Leaves granting to ``oms.lock_service`` and holding to ``stubs.locks``.
Invariant: a token is the store revision of its grant, so those of one name only grow, and nothing is kept of a free lock.
Failure behaviour: none.
"""

from __future__ import annotations

import msgspec

TTL_S_MIN = 0.5
TTL_S_MAX = 3600.0
WAIT_S_MAX = 30.0
MARGIN = 0.1
"""Part of the TTL by which a holder gives up earlier than the slot's leader takes the lock from it."""


class AcquireLockRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Take the lock ``lock``. Idempotent by ``holder``: a retry finds what the first try got.

    Args:
        lock: name of the lock; 1 to 128 letters, digits, ``.``, ``_`` or ``-``.
        holder: id of this acquisition, chosen by the caller and never used twice.
        ttl_s: seconds after the last renewal until others may have it (0.5 to 3,600).
        wait_s: seconds that the answer may wait for its turn (0 to 30); the place in the queue is kept for a second after.
    """

    lock: str
    holder: str
    ttl_s: float = 10.0
    wait_s: float = 0.0
    timeout_s: float = 10.0


class LockGrant(msgspec.Struct, frozen=True, omit_defaults=True):
    """Whether the lock is the asker's.

    Args:
        token: fencing token of the grant; 0 if somebody else has it.
        holder: who has it.
        waiting: how many wait for it.
        waited_s: seconds from when the request came until the TTL began.
    """

    token: int = 0
    holder: str = ""
    waiting: int = 0
    waited_s: float = 0.0


class HeldLockRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Renew or release a lock that ``holder`` has under ``token``; released with token 0, whatever of it ``holder`` has."""

    lock: str
    holder: str
    token: int
    timeout_s: float = 10.0


class LockDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """``locks/<name>``: a lock that is held; the revision it was written at is its token. Free locks have no key.

    Renewals are not written: the slot's leader counts the TTL on its own clock, a new leader from when it first looks.
    """

    holder: str
    ttl_s: float
    format: int = 1
