"""The gRPC service Registry: the OMS for any language.

Owns the translation of its requests and replies. Leaves what they do to the ``Registry`` of the contracts.
Invariants: what a request leaves out has the contract's default; a request takes no longer than its gRPC deadline;
code is taken from trusted callers only.
Failure behaviour: as ``service``.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from google.protobuf.message import Message

from amino.contracts import services as contracts
from amino.contracts.services import Description, Registry
from amino.errors import Invalid
from amino.ids import new_id
from amino.rpc.grpc.callers import require_trusted
from amino.rpc.grpc.messages import from_message, location_message, packed_arguments, to_message
from amino.rpc.grpc.service import Method, seconds_left
from amino.wire import typed
from amino.wire.gen.amino_v1 import registry_pb2 as pb
from amino.wire.typed import Bind

S = TypeVar("S", bound=msgspec.Struct)


class RegistryService:
    """The methods of ``amino.v1.Registry``.

    Args:
        registry: what they end in.
        bind: makes refs among constructor arguments and options callable.
        secure: whether the port asks for certificates.
    """

    def __init__(self, registry: Registry, bind: Bind | None = None, *, secure: bool = False) -> None:
        self._registry = registry
        self._secure = secure
        self._bind = bind

    def methods(self) -> dict[str, Method]:
        """Return the methods by name."""
        registry = self._registry
        return {
            "Create": self._create,
            "Locate": self._plain(registry.locate, contracts.LocateRequest, location_message),
            "Delete": self._plain(registry.delete, contracts.DeleteRequest, _into(pb.Empty)),
            "Move": self._plain(registry.move, contracts.MoveRequest, location_message),
            "Scale": self._plain(registry.scale, contracts.ScaleRequest, location_message),
            "Change": self._plain(registry.change, contracts.ChangeRequest, _change_message),
            "Find": self._plain(registry.find, contracts.FindRequest, _into(pb.FindReply)),
            "Describe": self._plain(registry.describe, contracts.ByName, _description_message),
            "Members": self._plain(registry.members, contracts.Empty, _into(pb.Membership)),
            "Slots": self._plain(registry.slots, contracts.Empty, _into(pb.SlotList)),
            "Cordon": self._plain(registry.cordon, contracts.CordonRequest, _into(pb.Empty)),
            "Drain": self._plain(registry.drain, contracts.DrainRequest, _into(pb.DrainReply)),
            "Pause": self._plain(registry.pause, contracts.PauseRequest, _into(pb.Empty)),
            "Release": self._plain(registry.release, contracts.ByName, _into(pb.Empty)),
            "Restore": self._plain(registry.restore, contracts.ByName, location_message),
            "PushCode": self._push_code,
            "DefineApplication": self._define_application,
            "Application": self._plain(registry.application, contracts.ByName, location_message),
            "Events": self._plain(registry.events, contracts.EventsRequest, _into(pb.EventList)),
            "AcquireLock": self._plain(registry.acquire_lock, contracts.AcquireLockRequest, _into(pb.LockGrant)),
            "RenewLock": self._plain(registry.renew_lock, contracts.HeldLockRequest, _into(pb.LockGrant)),
            "ReleaseLock": self._plain(registry.release_lock, contracts.HeldLockRequest, _into(pb.Empty)),
            "BeginDecision": self._plain(registry.begin_decision, contracts.BeginDecisionRequest, _into(pb.Decision)),
            "Decide": self._plain(registry.decide, contracts.DecideRequest, _into(pb.Decision)),
            "Decisions": self._plain(registry.decisions, contracts.DecisionsRequest, _into(pb.DecisionList)),
            "EndDecision": self._plain(registry.end_decision, contracts.DecideRequest, _into(pb.Empty)),
        }

    def _plain(
        self, run: Callable[[S], Awaitable[Any]], kind: type[S], reply: Callable[[Any], Message]
    ) -> Callable[[Any, Any], Awaitable[Message]]:
        timed = "timeout_s" in kind.__struct_fields__

        async def method(message: Any, context: Any) -> Message:
            request = from_message(message, kind, self._bind)
            if timed:
                request = _within(request, context)
            return reply(await run(request))

        return method

    async def _create(self, message: pb.CreateRequest, context: Any) -> Message:
        given = {"arguments": await packed_arguments(message, self._bind)}
        if not message.microservice:
            given["microservice"] = new_id()  # type: ignore[assignment]
        request = _within(from_message(message, contracts.CreateRequest, self._bind, **given), context)
        if request.if_exists not in ("fail", "get"):
            raise Invalid(f"if_exists is {request.if_exists!r}; give fail or get")
        return location_message(await self._registry.create(request))

    async def _push_code(self, message: pb.PushCodeRequest, context: Any) -> Message:
        require_trusted(context, "amino.v1.Registry/PushCode", secure=self._secure)
        await self._registry.push_code(from_message(message, contracts.PushCodeRequest))
        return pb.Empty()

    async def _define_application(self, message: pb.ApplicationRequest, _context: Any) -> Message:
        given = {"arguments": await packed_arguments(message, self._bind)}
        await self._registry.define_application(
            from_message(message, contracts.ApplicationRequest, self._bind, **given)
        )
        return pb.Empty()


def _change_message(reply: contracts.ChangeReply) -> Message:
    return pb.ChangeReply(location=location_message(reply.location), changes=reply.changes)


def _into(kind: type[Message]) -> Callable[[msgspec.Struct], Message]:
    return lambda struct: to_message(struct, kind())


def _within(request: S, context: Any) -> S:
    """Bound the request's own time-out by its gRPC deadline."""
    stated: float = request.timeout_s  # type: ignore[attr-defined]
    return msgspec.structs.replace(request, timeout_s=seconds_left(context, stated))


def _description_message(description: Description) -> pb.Description:
    target = pb.Description(
        id=description.id,
        created_at=description.record.created_at,
        slot=description.slot,
        slot_leader=description.slot_leader,
        state=description.state,
        explanation=description.explanation,
    )
    to_message(description.record.spec, target.spec)
    for path, group in description.groups.items():
        to_message(group, target.groups[path])
    for index, checkpoint in enumerate(description.checkpoints):
        target.checkpoints.add().CopyFrom(typed.to_value(dict(checkpoint), f"checkpoints[{index}]").map_value)
    return target
