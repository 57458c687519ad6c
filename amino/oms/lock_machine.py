"""What the leader of a lock's slot decides about it: whose turn it is, and when the holder's time is over.

Owns the queue and the verdicts. Leaves clocks, waiting and writing to ``lock_service``.
Invariants: a lock that is held is granted to another only when its TTL has passed since the last renewal that this leader
saw (or since it first looked); those who wait are served in order of arrival.
Failure behaviour: none; these functions only decide.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from amino.contracts.locks import LockDocument


class Verdict(Enum):
    """What to do for somebody who wants the lock."""

    HAS_IT = "it is theirs already"
    GRANT = "write the grant"
    WAIT = "not yet"


@dataclass(slots=True)
class LockState:
    """One lock, as its slot's leader knows it.

    Args:
        revision: of the document, 0 if the lock is free.
        seen_s: when the holder was last heard of, on the leader's monotonic clock.
        queue: who waits, in order of arrival.
    """

    document: LockDocument | None = None
    revision: int = 0
    seen_s: float = 0.0
    queue: dict[str, None] = field(default_factory=dict)

    @property
    def free_at_s(self) -> float:
        """When it may be granted to another."""
        return self.seen_s + self.document.ttl_s if self.document is not None else 0.0

    def is_of(self, holder: str, token: int) -> bool:
        """Return whether it was granted to ``holder`` last, under ``token`` (0: under any)."""
        return self.document is not None and self.document.holder == holder and token in (0, self.revision)

    def is_held_by(self, holder: str, token: int, now_s: float) -> bool:
        """Return whether ``holder`` has it under ``token`` and its time is not over."""
        return bool(token) and self.is_of(holder, token) and now_s < self.free_at_s

    def judge(self, holder: str, now_s: float) -> Verdict:
        """Return what to do for ``holder``, who is in the queue."""
        if self.document is not None and self.document.holder == holder:
            return Verdict.HAS_IT  # an earlier try went through, perhaps unanswered
        if next(iter(self.queue), holder) != holder or now_s < self.free_at_s:
            return Verdict.WAIT
        return Verdict.GRANT

    def learned(self, document: LockDocument | None, revision: int, now_s: float) -> None:
        """Take over what etcd holds; a holder that was not known here has its full TTL from now."""
        if revision != self.revision:
            self.document, self.revision, self.seen_s = document, revision, now_s
