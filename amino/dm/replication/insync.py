"""Which in-sync set there should be, and what the document is after a change of primary.

Owns these two decisions. Leaves finding out who answers to ``primary`` and to the DM coordinator, and writing to adapters.
Invariants: a set is never below ``min_in_sync`` unless it only grows; a successor is a member of the in-sync set.
Failure behaviour: where no set helps there is none to propose.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from amino.dm.replication.view import View
from amino.errors import Invalid


def proposed(
    in_sync: tuple[str, ...], answering: Collection[str], ready: Collection[str], min_in_sync: int
) -> tuple[str, ...] | None:
    """Return the in-sync set to propose, or None if the present one is right or no other would help.

    Args:
        in_sync: the present set.
        answering: those of it that answer, the primary included.
        ready: replicas outside it that answer and have everything.
        min_in_sync: fewest members.
    """
    answer = tuple(replica for replica in in_sync if replica in answering) + tuple(sorted(ready))
    if len(answer) >= min_in_sync or len(answer) - len(ready) == len(in_sync):
        return answer if set(answer) != set(in_sync) else None
    return in_sync + tuple(sorted(ready)) if ready else None


def promoted(view: View, successor: str, dead: Collection[str]) -> View:
    """Return the document with ``successor`` as primary, at the next epoch, without another old primary and ``dead``.

    The present primary may be its own successor: stuck with dead members, it can neither commit what it has executed
    nor give a joiner its state, which holds what is not committed; a new epoch without the dead lets it do both.

    Args:
        successor: id of a member of the in-sync set.
        dead: ids of replicas whose incarnation is gone, as the transaction that writes this proves.

    Raises:
        Invalid: ``successor`` is no such member, or is dead.
    """
    gone = {view.primary, *dead} - ({successor} - set(dead))
    if successor in gone or successor not in view.in_sync:
        raise Invalid(f"{successor} cannot follow {view.primary}: in-sync are {view.in_sync}, dead {sorted(dead)}")
    return replace(
        view,
        epoch=view.epoch + 1,
        replicas=tuple(member for member in view.replicas if member.id not in gone),
        primary=successor,
        in_sync=tuple(replica for replica in view.in_sync if replica not in gone),
    )
