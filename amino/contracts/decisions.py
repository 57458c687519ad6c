"""The outcome of a two-phase commit: one key, written once.

Owns the messages and the document. Leaves deciding to ``oms.decisions`` and asking to deployment managers.
Invariants: the key is created before anything is prepared; whoever decides names the revision of its creation; an absent
key means abort; a key that says commit stays until every cohort has made that durable.
Failure behaviour: none.
"""

from __future__ import annotations

import msgspec

PENDING, COMMITTED, ABORTED = "pending", "committed", "aborted"
COMMIT, ABORT, ASK = "commit", "abort", "ask"


class BeginDecisionRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Create the decision of a transaction, pending. Idempotent.

    Args:
        transaction: its id; never used twice.
        cohorts: the microservices that are to prepare, each with its group's path: ``<id>/`` or ``<id>/<path>``.
        resource: name of the database that decides; empty where this key does.
    """

    transaction: str
    cohorts: tuple[str, ...] = ()
    resource: str = ""


class DecideRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """Decide, if nobody has, and tell what is decided. Idempotent.

    Args:
        revision: of the key's creation.
        wish: ``commit``, ``abort``, or ``ask`` to be told only.
    """

    transaction: str
    revision: int
    wish: str = ASK


class Decision(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is decided: ``pending``, ``committed`` or ``aborted``."""

    transaction: str
    outcome: str
    revision: int = 0
    cohorts: tuple[str, ...] = ()
    resource: str = ""


class DecisionsRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """List decisions, those of one resource."""

    resource: str = ""


class DecisionList(msgspec.Struct, frozen=True, omit_defaults=True):
    """In order of their ids."""

    decisions: tuple[Decision, ...] = ()


class DecisionDocument(msgspec.Struct, frozen=True, omit_defaults=True):
    """``decisions/<txn-id>``: pending or committed; what is aborted has no key. ``begun_at`` (wall clock) is for display."""

    outcome: str
    cohorts: tuple[str, ...]
    resource: str = ""
    begun_at: float = 0.0
    format: int = 1
