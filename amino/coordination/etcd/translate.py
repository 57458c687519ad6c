"""What an error of etcd or gRPC means: the one place where foreign errors are translated.

Owns the verdict on a failed request: which Amino error it is, whether the request certainly did nothing, and where to
go next. Leaves acting on the verdict to ``store`` and ``stream``.
Invariant: ``untouched`` is claimed only for errors raised before a proposal is made; in doubt the outcome is unknown.
Failure behaviour: an error nobody foresaw is ``CoordinationUnavailable`` with unknown outcome, its text kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import grpc

from amino.coordination.rules import lease_gone
from amino.errors import AminoError, Conflict, CoordinationUnavailable, Invalid


class Next(Enum):
    """Where the next try goes."""

    NOWHERE = "nowhere"  # the same request fails again everywhere
    SAME_MEMBER = "same member"  # it is alive and said what is wrong; ask it again first
    NEXT_MEMBER = "next member"
    NEW_TOKEN = "new token"  # noqa: S105 - not a password


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a failed request means.

    Args:
        error: what to raise if there is no further try.
        then: where a further try goes.
        untouched: the request certainly did nothing, so that even a write may be sent again.
    """

    error: AminoError
    then: Next
    untouched: bool


class LeaseExists(Exception):
    """The lease to be granted exists: our earlier, unanswered grant was done."""


_UNTOUCHED = (
    "raft proposal dropped",
    "etcdserver: no leader",
    "etcdserver: not capable",
    "etcdserver: too many requests",
    "etcdserver: server stopped",
)
_TOKEN = ("invalid auth token", "auth: revision in header is old", "user name is empty")


def judge(error: BaseException, endpoint: str) -> Verdict:
    """Return the verdict on ``error``, raised by a request to ``endpoint``."""
    if not isinstance(error, grpc.RpcError):
        text = f"{type(error).__name__}: {error}"
        return Verdict(_unavailable(endpoint, text), Next.NEXT_MEMBER, untouched=False)
    code: grpc.StatusCode = error.code()
    text = error.details() or ""
    if "lease not found" in text:
        return Verdict(lease_gone(text), Next.NOWHERE, untouched=True)
    if any(part in text for part in _TOKEN):
        refused = Invalid(f"etcd at {endpoint} refuses us: {text}; check user and password", reason="auth")
        return Verdict(refused, Next.NEW_TOKEN, untouched=True)
    if code in _FINAL:
        return Verdict(_final(code, endpoint, text), Next.NOWHERE, untouched=True)
    if any(part in text for part in _UNTOUCHED):
        return Verdict(_unavailable(endpoint, text), Next.SAME_MEMBER, untouched=True)
    if "space exceeded" in text:
        full = _unavailable(endpoint, f"{text}; compact, defragment and disarm the alarm (etcdctl)")
        return Verdict(full, Next.NOWHERE, untouched=True)
    if text.startswith("etcdserver:"):
        return Verdict(_unavailable(endpoint, text), Next.SAME_MEMBER, untouched=False)
    refused_connection = code is grpc.StatusCode.UNAVAILABLE and "failed to connect" in text.lower()
    reason = "no answer in time" if code is grpc.StatusCode.DEADLINE_EXCEEDED else text or code.name
    return Verdict(_unavailable(endpoint, reason), Next.NEXT_MEMBER, untouched=refused_connection)


_FINAL = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}


def _final(code: grpc.StatusCode, endpoint: str, text: str) -> AminoError:
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return Invalid(
            f"etcd at {endpoint}: {text}; grant our user readwrite on the cluster's prefix", reason="permission"
        )
    if code is grpc.StatusCode.OUT_OF_RANGE:
        return Conflict(f"etcd: {text}; read again at a newer revision", reason="compacted")
    if "too large" in text:
        return Invalid(f"etcd: {text}; values over 64 KiB belong in the checkpoint store", reason="too-large")
    return Invalid(f"etcd at {endpoint}: {text or code.name}", reason="refused")


def _unavailable(endpoint: str, text: str) -> CoordinationUnavailable:
    return CoordinationUnavailable(f"etcd at {endpoint}: {text}", endpoint=endpoint)
