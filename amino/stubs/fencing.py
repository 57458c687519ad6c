"""Fencing tokens inside methods: ``amino.fenced(lock)`` refuses whoever lost a distributed lock meanwhile.

Owns the public functions. Leaves the tokens to the object's state (``kernel.tables``) and locks to ``locks``.
Invariant: after a token was accepted, no older one of that lock is, by this microservice, whatever happens to its server.
Failure behaviour: an older token raises ``StaleToken``; outside a method ``Invalid``.
"""

from __future__ import annotations

from amino.contracts.calls import CURRENT
from amino.errors import Invalid
from amino.stubs.locks import Fence, Lock


def fenced(lock: Fence | Lock) -> None:
    """Go on only if no later holder of ``lock`` was here before; call it first in a method that the lock protects.

    A ``Lock`` that was passed as an argument arrives as ``Fence`` (name and token). The newest token of each lock name is
    kept in the microservice's state, as durable as its managers make that.

    Raises:
        StaleToken: the caller has lost the lock, and another has been here under it.
        Invalid: not a lock, or no method is running here.
    """
    if not isinstance(lock, Fence | Lock):
        raise Invalid(f"amino.fenced takes a lock that was passed to the method, not {lock!r}; or use check_token")
    check_token(lock.name, lock.token)


def check_token(name: str, token: int) -> None:
    """As ``fenced``, for callers that send the lock's name and token by themselves (other languages, say).

    In a method marked ``@amino.readonly`` it refuses older tokens and remembers none.

    Raises:
        StaleToken: ``token`` is older than one of lock ``name`` that was here. Invalid: no method is running here.
    """
    invocation = CURRENT.get()
    if invocation is None or invocation.home is None:
        raise Invalid("amino.check_token was called outside a microservice's method; the tokens are in its state")
    if isinstance(token, bool) or not isinstance(token, int) or token < 1:
        raise Invalid(f"token {token!r} of lock {name!r} is not a whole number from 1; pass lock.token")
    invocation.home.own_tables().check_token(name, token, readonly=invocation.readonly)
