"""Commands that are carried out whole, even if whoever sent them stops waiting.

Owns running a command as a task of its own. Leaves what it does to the host.
Invariant: a command that has begun ends by itself; only the end of its owner cancels it. Half of one could leave a replica
confirmed in etcd and gone from its server.
Failure behaviour: an ``AminoError`` reaches the sender if it still waits; any other is logged by the owner too.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, Protocol, TypeVar, cast

from amino.errors import AminoError

if TYPE_CHECKING:
    from amino.aio.tasks import TaskOwner

P = ParamSpec("P")
R = TypeVar("R")


class HasCommands(Protocol):
    """Whose commands they are."""

    commands: TaskOwner


S = TypeVar("S", bound=HasCommands)


def whole(
    method: Callable[Concatenate[S, P], Coroutine[Any, Any, R]],
) -> Callable[Concatenate[S, P], Coroutine[Any, Any, R]]:
    """Make an ``async def`` method a command: cancelling the wait for it does not cancel it."""

    @functools.wraps(method)
    async def command(self: S, *args: P.args, **kwargs: P.kwargs) -> R:
        work = self.commands.spawn(_caught(method(self, *args, **kwargs)), method.__name__)
        outcome = await asyncio.shield(work)
        if isinstance(outcome, AminoError):
            raise outcome
        return outcome

    return cast("Callable[Concatenate[S, P], Coroutine[Any, Any, R]]", command)


async def _caught(work: Awaitable[R]) -> R | AminoError:
    try:
        return await work
    except AminoError as error:  # perhaps nobody waits any more
        return error
