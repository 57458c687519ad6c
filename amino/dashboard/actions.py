"""What an operator can do at the dashboard: each action as a message, and carrying it out by the registry.

Owns the messages and the words that say what was done. Leaves permission to ``access``.
Invariant: an action is what the command of the same name does; nothing is done that the command line could not.
Failure behaviour: the registry's own errors.
"""

from __future__ import annotations

import msgspec

from amino.contracts.services import ByName, CordonRequest, DrainRequest, MoveRequest, PauseRequest, ScaleRequest
from amino.dashboard.ports import Source
from amino.errors import Invalid

WHY = "asked for at the dashboard"
DRAIN_S = 60.0


class Move(msgspec.Struct, frozen=True, tag="move", tag_field="action", forbid_unknown_fields=True):
    """Move a replica (the only one, or the primary) to ``server``, or anywhere else that fits."""

    microservice: str
    server: str = ""
    path: str = "/"
    replica: str = ""


class Checkpoint(msgspec.Struct, frozen=True, tag="checkpoint", tag_field="action", forbid_unknown_fields=True):
    """Store the present state."""

    microservice: str


class Scale(msgspec.Struct, frozen=True, tag="scale", tag_field="action", forbid_unknown_fields=True):
    """Have so many shards, or so many replicas."""

    microservice: str
    shards: int = 0
    replicas: int = 0


class Restore(msgspec.Struct, frozen=True, tag="restore", tag_field="action", forbid_unknown_fields=True):
    """Bring a lost microservice back."""

    microservice: str


class Release(msgspec.Struct, frozen=True, tag="release", tag_field="action", forbid_unknown_fields=True):
    """Let a quarantined microservice run again."""

    microservice: str


class Drain(msgspec.Struct, frozen=True, tag="drain", tag_field="action", forbid_unknown_fields=True):
    """Cordon a server and move everything off it."""

    server: str


class Cordon(msgspec.Struct, frozen=True, tag="cordon", tag_field="action", forbid_unknown_fields=True):
    """Close a server to new replicas."""

    server: str


class Uncordon(msgspec.Struct, frozen=True, tag="uncordon", tag_field="action", forbid_unknown_fields=True):
    """Open a server again."""

    server: str


class Pause(msgspec.Struct, frozen=True, tag="pause", tag_field="action", forbid_unknown_fields=True):
    """Stop (or resume) automatic recovery and balancing."""

    paused: bool


Action = Move | Checkpoint | Scale | Restore | Release | Drain | Cordon | Uncordon | Pause
_decoder: msgspec.json.Decoder[Action] = msgspec.json.Decoder(Action)


def decode(body: bytes) -> Action:
    """Return the action that a page asked for. Raises ``Invalid`` if there is none such."""
    try:
        return _decoder.decode(body)
    except msgspec.MsgspecError as error:
        raise Invalid(f"this is no action: {error}") from error


async def carry_out(source: Source, action: Action) -> str:
    """Do it; returns what was done, in words.

    Raises:
        AminoError: it was not done, or (``OutcomeUnknown``) it may have been.
    """
    registry = source.registry
    match action:
        case Move(microservice, server, path, replica):
            await registry.move(
                MoveRequest(microservice=microservice, server=server, path=path, replica=replica, why=WHY)
            )
            return f"moved to {server}" if server else "moved"
        case Checkpoint(microservice):
            return f"checkpoint {await source.checkpoint(microservice)} is stored"
        case Scale(microservice, shards, replicas):
            if bool(shards) == bool(replicas) or min(shards, replicas) < 0:
                raise Invalid(f"shards={shards}, replicas={replicas}; give one of the two, 1 or more")
            await registry.scale(ScaleRequest(microservice=microservice, shards=shards, replicas=replicas))
            return f"{shards} shards" if shards else f"{replicas} replicas wanted"
        case Restore(microservice):
            return f"restored from {(await registry.restore(ByName(microservice=microservice))).restored_from}"
        case Release(microservice):
            await registry.release(ByName(microservice=microservice))
            return "released"
        case Drain(server):
            reply = await registry.drain(DrainRequest(server, timeout_s=DRAIN_S, why=WHY))
            return f"{reply.moved} moved, {len(reply.left)} left"
        case Cordon(server):
            await registry.cordon(CordonRequest(server, why=WHY))
            return f"{server} takes no new replicas"
        case Uncordon(server):
            await registry.cordon(CordonRequest(server, cordon=False))
            return f"{server} takes new replicas"
        case Pause(paused):
            await registry.pause(PauseRequest(paused))
            return "automatic recovery is paused" if paused else "automatic recovery runs"
