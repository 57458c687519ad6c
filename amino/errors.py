"""The error tree, by meaning.

Owns every error that Amino raises to its users. Leaves translation of foreign errors to one place per adapter.
Invariant: every error names the value, the rule and the remedy; ``code`` is stable and travels on the wire.
Failure behaviour: none; this module only describes failures.
"""

from __future__ import annotations

from typing import Any, ClassVar


class AminoError(Exception):
    """Base of everything Amino raises by itself; never raised directly.

    Args:
        message: one sentence that names the value, the rule and the remedy.
        details: plain values (str, int, float, bool, None) for programs; they travel on the wire.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details: dict[str, Any] = details

    def __reduce__(self) -> tuple[Any, ...]:
        return (_rebuild, (type(self), self.message, self.details))


def _rebuild(cls: type[AminoError], message: str, details: dict[str, Any]) -> AminoError:
    return cls(message, **details)


class Invalid(AminoError):
    """An argument, option, spec or frame breaks a rule; nothing was done. Repeating it will fail again."""

    code = "invalid"


class NotEncodable(Invalid):
    """An argument or result cannot be sent on this link (no encoding, or too large for the limit)."""

    code = "not-encodable"


class NotFound(AminoError):
    """No microservice, name, server or method of that name exists (now). You do not get it for one being moved."""

    code = "not-found"


class AlreadyExists(AminoError):
    """The name is taken. ``get_or_create`` returns the holder instead."""

    code = "already-exists"


class PermissionDenied(AminoError):
    """The peer's certificate role, or the lack of TLS, does not allow this."""

    code = "permission-denied"


class NotExecuted(AminoError):
    """The call certainly did not run; repeating it is safe. The kernel client repeats it within the deadline.

    ``details['reason']`` is one of ``moved``, ``moving``, ``not-here``, ``stale-epoch``, ``overloaded``, ``fenced``,
    ``not-ready``, ``unreachable``, ``older-release`` (a server of a later release can), ``locked``, ``deadline``. The last two are
    not repeated: the time for it was used up.
    """

    code = "not-executed"

    @property
    def reason(self) -> str:
        """Why it did not run."""
        return str(self.details.get("reason", "unreachable"))


class Overloaded(NotExecuted):
    """A bound on calls in flight, queue length or memory is reached; back off and repeat."""

    code = "overloaded"


class OutcomeUnknown(AminoError):
    """The call may or may not have run (connection lost after sending, deadline passed, server fenced meanwhile).

    Only deployment managers with request ids on both sides may repeat it by themselves.
    """

    code = "outcome-unknown"


class StateLost(AminoError):
    """The microservice's state is gone with the servers that held it. ``amino restore`` or ``amino delete`` it."""

    code = "state-lost"


class Quarantined(AminoError):
    """The microservice killed several processes in a row and is not run any more. ``amino release`` lets it try again."""

    code = "quarantined"


class NoEligibleServer(AminoError):
    """No server matches the placement, or none can load the code; the message lists each server's reason."""

    code = "no-eligible-server"


class CodeUnavailable(AminoError):
    """A class, bundle or deployment manager cannot be loaded here; the message carries the import error."""

    code = "code-unavailable"


class ConstructionFailed(AminoError):
    """The class's constructor raised; nothing was created. The cause's type and traceback are in the details."""

    code = "construction-failed"


class StoreFailed(AminoError):
    """The checkpoint store refused a read or write (full, unreachable, not shared). State in memory is kept."""

    code = "store-failed"


class CorruptCheckpoint(StoreFailed):
    """No stored checkpoint passes its checksum; nothing was restored."""

    code = "corrupt-checkpoint"


class CoordinationUnavailable(AminoError):
    """etcd did not answer in time, or has no majority. Whether a write landed is unknown."""

    code = "coordination-unavailable"


class ClusterUnavailable(AminoError):
    """No kernel server of the cluster can be reached."""

    code = "cluster-unavailable"


class SessionLost(AminoError):
    """The server's lease is gone; this incarnation must not act any more."""

    code = "session-lost"


class Conflict(AminoError):
    """A guarded write found another value than it compared with; load, decide and write again."""

    code = "conflict"


class LockHeld(AminoError):
    """Somebody else held the distributed lock for as long as you were ready to wait."""

    code = "lock-held"


class LockLost(AminoError):
    """The distributed lock is not yours any more: it could not be renewed within its TTL. Take it again before going on."""

    code = "lock-lost"


class StaleToken(AminoError):
    """The fencing token is older than one that the microservice has seen: its lock was lost to another holder meanwhile."""

    code = "stale-token"


class EventsMissed(AminoError):
    """Events are gone: dropped before the subscriber came, or lost with state that it had seen. Says which."""

    code = "events-missed"


class TransactionAborted(AminoError):
    """The transaction is over and published nothing. Run its whole block again, or ``control.run`` it with retries.

    ``details['reason']`` is one of ``conflict`` (another was first), ``lost`` (its private copy went with the replica that
    held it), ``expired``, ``diverged`` (a method is not deterministic), ``refused``, ``rolled-back``.
    """

    code = "transaction-aborted"

    @property
    def reason(self) -> str:
        """Why it was aborted."""
        return str(self.details.get("reason", "conflict"))


class RemoteError(AminoError):
    """An application error whose type cannot be rebuilt here; carries its type name, message and remote traceback."""

    code = "application-error"

    @property
    def type_name(self) -> str:
        """``module.QualifiedName`` of the error as raised at the server."""
        return str(self.details.get("type_name", ""))

    @property
    def remote_traceback(self) -> str:
        """The traceback at the server, as text."""
        return str(self.details.get("traceback", ""))


def by_code() -> dict[str, type[AminoError]]:
    """Return every error class by its wire code."""
    found: dict[str, type[AminoError]] = {}
    todo: list[type[AminoError]] = [AminoError]
    while todo:
        cls = todo.pop()
        if "code" in vars(cls):  # a subclass without a code of its own travels as its parent
            found[cls.code] = cls
        todo.extend(cls.__subclasses__())
    return found
