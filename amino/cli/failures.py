"""Exit codes and error messages: what happened in one line, what to do in the next, and never a traceback.

Owns the mapping from errors to codes and words. Leaves raising to everything else.
Invariant: every error gets a code from the table below and at least one line.
Failure behaviour: an error that is not Amino's is reported as a bug, with how to see its traceback.

0 ok, 1 error, 2 wrong usage, 3 not found, 4 unavailable, 5 outcome unknown, 130 interrupted.
"""

from __future__ import annotations

from amino.errors import (
    AlreadyExists,
    AminoError,
    ClusterUnavailable,
    CodeUnavailable,
    CoordinationUnavailable,
    NoEligibleServer,
    NotExecuted,
    NotFound,
    OutcomeUnknown,
    PermissionDenied,
    Quarantined,
    RemoteError,
    SessionLost,
    StateLost,
)

OK, ERROR, USAGE, NOT_FOUND, UNAVAILABLE, UNKNOWN, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130

_CODES: tuple[tuple[type[AminoError], int], ...] = (
    (NotFound, NOT_FOUND),
    (OutcomeUnknown, UNKNOWN),
    (NotExecuted, UNAVAILABLE),
    (ClusterUnavailable, UNAVAILABLE),
    (CoordinationUnavailable, UNAVAILABLE),
    (SessionLost, UNAVAILABLE),
)

_REMEDIES: tuple[tuple[type[AminoError], str], ...] = (
    (NotFound, "amino get microservices and amino get servers list what exists"),
    (AlreadyExists, "choose another name, or delete the holder with amino delete"),
    (OutcomeUnknown, "look at its state before you repeat it"),
    (NotExecuted, "nothing was done: repeat it"),
    (ClusterUnavailable, "check --address and that the servers run"),
    (CoordinationUnavailable, "check that etcd runs and has a majority"),
    (StateLost, "amino restore brings it back from its newest checkpoint, amino delete removes it"),
    (Quarantined, "amino release lets it run again; amino describe says which method killed its processes"),
    (NoEligibleServer, "change its placement, or start a server that fits"),
    (CodeUnavailable, "start the servers with --app-dir, or push the code with amino app push"),
    (PermissionDenied, "use a certificate of the role that may do it"),
)


class ApplicationFailed(Exception):
    """A called method raised; the cause is its error."""


def exit_code(error: BaseException) -> int:
    """Return the exit code for ``error``."""
    return next((code for kind, code in _CODES if isinstance(error, kind)), ERROR)


def explain(error: BaseException) -> list[str]:
    """Return the lines to show: what happened, then what to do."""
    if isinstance(error, ApplicationFailed):
        cause = error.__cause__
        name = cause.type_name if isinstance(cause, RemoteError) else type(cause).__qualname__
        return [f"the method raised {name}: {_one_line(str(cause))}"]
    if not isinstance(error, AminoError):
        return [
            f"a bug: {type(error).__name__}: {_one_line(str(error))}",
            "run it again with AMINO_DEBUG=1 for the traceback, and report it",
        ]
    message = _one_line(error.message) or error.code
    what, separator, remedy = message.rpartition("; ")
    if not separator:
        what, remedy = message, next((text for kind, text in _REMEDIES if isinstance(error, kind)), "")
    return [what, remedy] if remedy else [what]


def _one_line(text: str) -> str:
    return " ".join(text.split())
