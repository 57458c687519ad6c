"""What a resource's status says: pure, from what applying it achieved and what the cluster tells.

Owns the words and the shape of ``status``. Leaves writing it to ``handlers``.
Invariants: only differences are written, so a quiet cluster writes nothing; a condition keeps the time of its last transition.
Conditions are one list that several handlers write as a whole: each begins with what was last written (``Conditions``), not with
what it has read, so none undoes another's.
Failure behaviour: none; what is not known is said to be so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from amino.contracts.services import MicroserviceInfo
from amino.errors import AminoError, Invalid
from amino.manifests.applying import Applied

MISSING = "missing"
UNMADE = frozenset({"", "refused", "waiting"})
SERVERS_SHOWN = 100
MESSAGE_MAX = 32768
_WORD_OF_STATE = {
    "active": "it answers calls",
    "creating": "it is being created",
    "lost": "its state is lost: amino restore, or delete it",
    "quarantined": "it killed several processes in a row: amino describe says how, amino release lets it run again",
    "deleting": "it is being deleted",
    MISSING: "it is not in the cluster any more: somebody deleted it, or etcd was lost and not yet rebuilt; it is not made again by "
    "itself, which could replace state that can be recovered. To begin anew, delete this resource and apply it again",
}


class Conditions:
    """The conditions of one resource, as this operator last wrote them.

    Args:
        status: what the resource says at first.
    """

    def __init__(self, status: Mapping[str, Any]) -> None:
        self._by_type = {str(each.get("type")): dict(each) for each in status.get("conditions") or ()}

    def set(self, kind: str, truth: str, reason: str, message: str, generation: int, now: str) -> list[dict[str, Any]]:
        """Set one condition; returns all."""
        before = self._by_type.get(kind, {})
        self._by_type[kind] = {
            "type": kind,
            "status": truth,
            "reason": reason,
            "message": message[:MESSAGE_MAX],
            "observedGeneration": generation,
            "lastTransitionTime": before["lastTransitionTime"] if before.get("status") == truth else now,
        }
        return [dict(each) for _, each in sorted(self._by_type.items())]


def after_applying(
    status: Mapping[str, Any], conditions: Conditions, applied: Applied, *, generation: int, now: str
) -> dict[str, Any]:
    """Return what changes in ``status`` when a resource was applied."""
    fields: dict[str, Any] = {"observedGeneration": generation}
    if applied.id:
        fields["id"] = applied.id
    if status.get("state", "") in UNMADE:
        fields["state"] = "creating" if applied.id else "defined"
    message = "; ".join(applied.changes) or f"{applied.action} in the cluster"
    fields["conditions"] = conditions.set("Applied", "True", applied.action.capitalize(), message, generation, now)
    return _difference(status, fields)


def after_refusal(
    status: Mapping[str, Any], conditions: Conditions, error: AminoError, *, generation: int, now: str
) -> dict[str, Any]:
    """Return what changes in ``status`` when a resource could not be applied."""
    fields: dict[str, Any] = {"observedGeneration": generation}
    reason = "Invalid" if isinstance(error, Invalid) else type(error).__name__
    fields["conditions"] = conditions.set("Applied", "False", reason, error.message, generation, now)
    if not status.get("id"):
        fields["state"] = "refused" if isinstance(error, Invalid) else "waiting"
    return _difference(status, fields)


def as_seen(
    status: Mapping[str, Any], conditions: Conditions, seen: MicroserviceInfo | None, *, generation: int, now: str
) -> dict[str, Any]:
    """Return what changes in ``status`` by what the cluster tells of the microservice with the id in it."""
    state = MISSING if seen is None else seen.state
    servers = [] if seen is None else sorted(set(seen.servers))[:SERVERS_SHOWN]
    reason = state.capitalize()
    ready = "True" if state == "active" else "False"
    fields: dict[str, Any] = {
        "state": state,
        "servers": servers,
        "where": ",".join(server.partition(".")[0] for server in servers[:3]) + (",..." if len(servers) > 3 else ""),
        "epoch": 0 if seen is None else seen.epoch,
        "conditions": conditions.set("Ready", ready, reason, _WORD_OF_STATE.get(state, state), generation, now),
    }
    return _difference(status, fields)


def _difference(status: Mapping[str, Any], fields: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in fields.items() if status.get(key) != value}
