"""A cluster of one, in memory: what the adapter's services end in while the real parts are tested elsewhere.

It keeps the promises of the contracts that clients see: names are unique, deleting frees them, refs can be passed on,
a request id runs once.
"""

from __future__ import annotations

import importlib
from collections.abc import Awaitable, Callable
from typing import Any

from amino.contracts import services as c
from amino.contracts.calls import Raised
from amino.contracts.documents import GroupDocument, MicroserviceRecord, ReplicaDocument, ServerRecord
from amino.errors import AlreadyExists, NotFound
from amino.marks import method_table
from amino.rpc.grpc.invoke import CallerRequest
from amino.wire import codec
from amino.wire.codec import Reference


class FakeStub:
    """What a ref becomes on the server."""

    def __init__(self, reference: Reference) -> None:
        self.__amino_reference__ = reference


class FakeRegistry:
    """The OMS of a cluster of one."""

    def __init__(self) -> None:
        self.made: dict[str, tuple[c.CreateRequest, Any, dict[str, int]]] = {}
        self.seen: list[tuple[str, Any]] = []
        self.fail_with: BaseException | None = None

    def find_id(self, request: Any) -> str:
        for ms_id, (created, _, _) in self.made.items():
            if ms_id == request.microservice or (request.name and created.spec.name == request.name):
                return ms_id
        raise NotFound(f"no microservice {request.microservice or request.name!r}; create it", name=request.name)

    def _location(self, ms_id: str, *, created: bool = False) -> c.Location:
        request, _, methods = self.made[ms_id]
        replica = c.ReplicaLocation(id="r1", server="s1", incarnation=7, address="127.0.0.1:7400")
        return c.Location(ms_id, request.spec, {"/": c.GroupLocation(1, (replica,), "r1")}, methods, created)

    def _note(self, method: str, request: Any) -> None:
        self.seen.append((method, request))
        if self.fail_with is not None:
            raise self.fail_with

    async def create(self, request: c.CreateRequest) -> c.Location:
        self._note("create", request)
        for ms_id, (made, _, _) in self.made.items():
            if ms_id == request.microservice:
                return self._location(ms_id, created=True)
            if request.spec.name and made.spec.name == request.spec.name:
                if request.if_exists == "get":
                    return self._location(ms_id)
                raise AlreadyExists(f"the name {request.spec.name!r} is taken by {ms_id}; delete it or choose another")
        module, _, name = request.spec.cls.partition(":")
        cls = getattr(importlib.import_module(module), name)
        args, kwargs = codec.unpack(request.arguments)
        self.made[request.microservice] = (request, cls(*args, **kwargs), method_table(cls))
        return self._location(request.microservice, created=True)

    async def locate(self, request: c.LocateRequest) -> c.Location:
        self._note("locate", request)
        return self._location(self.find_id(request))

    async def delete(self, request: c.DeleteRequest) -> c.Empty:
        self._note("delete", request)
        del self.made[self.find_id(request)]
        return c.Empty()

    async def move(self, request: c.MoveRequest) -> c.Location:
        self._note("move", request)
        return self._location(self.find_id(request))

    async def scale(self, request: c.ScaleRequest) -> c.Location:
        self._note("scale", request)
        return self._location(self.find_id(request))

    async def change(self, request: c.ChangeRequest) -> c.ChangeReply:
        self._note("change", request)
        return c.ChangeReply(self._location(next(iter(self.made))), ("dms: [] -> [PeriodicCheckpoint]",))

    async def find(self, request: c.FindRequest) -> c.FindReply:
        self._note("find", request)
        return c.FindReply(
            tuple(
                c.MicroserviceInfo(
                    id=ms_id,
                    name=made.spec.name,
                    cls=made.spec.cls,
                    state="active",
                    epoch=1,
                    servers=("s1",),
                    dms=tuple(dm.name for dm in made.spec.dms),
                    labels=made.spec.labels,
                )
                for ms_id, (made, _, _) in sorted(self.made.items())
                if made.spec.name.startswith(request.name_prefix)
            )
        )

    async def describe(self, request: c.ByName) -> c.Description:
        self._note("describe", request)
        ms_id = self.find_id(request)
        made = self.made[ms_id][0]
        replica = ReplicaDocument("r1", "s1", 7, confirmed=True)
        group = GroupDocument(phase="active", epoch=3, replicas=(replica,), ineligible={"s2@9": "no module shop"})
        return c.Description(
            id=ms_id,
            record=MicroserviceRecord(made.spec, made.arguments, created_at=12.5),
            groups={"/": group},
            slot=5,
            slot_leader="s1",
            state="active",
            explanation=("chosen: the only one",),
            checkpoints=({"epoch": 3, "sequence": 1, "url": "file:///x", "intact": True},),
        )

    async def members(self, request: c.Empty) -> c.Membership:
        self._note("members", request)
        record = ServerRecord(name="s1", address="127.0.0.1:7400", labels={"host": "h"}, pid=4)
        return c.Membership(11, (c.ServerInfo(record, 7, replicas=len(self.made), slots=64),), "test")

    async def slots(self, request: c.Empty) -> c.SlotList:
        self._note("slots", request)
        return c.SlotList(tuple(c.SlotInfo(n, "s1", n) for n in range(64)))

    async def cordon(self, request: c.CordonRequest) -> c.Empty:
        self._note("cordon", request)
        return c.Empty()

    async def drain(self, request: c.DrainRequest) -> c.DrainReply:
        self._note("drain", request)
        return c.DrainReply(2, ("a",))

    async def pause(self, request: c.PauseRequest) -> c.Empty:
        self._note("pause", request)
        return c.Empty()

    async def release(self, request: c.ByName) -> c.Empty:
        self._note("release", request)
        return c.Empty()

    async def restore(self, request: c.ByName) -> c.Location:
        self._note("restore", request)
        return self._location(self.find_id(request))

    async def push_code(self, request: c.PushCodeRequest) -> c.Empty:
        self._note("push_code", request)
        return c.Empty()

    async def define_application(self, request: c.ApplicationRequest) -> c.Empty:
        self._note("define_application", request)
        return c.Empty()

    async def application(self, request: c.ByName) -> c.Location:
        self._note("application", request)
        return self._location(self.find_id(request))

    async def events(self, request: c.Empty) -> c.EventList:
        self._note("events", request)
        return c.EventList((c.EventInfo(3, "created", 1.5, "m", "s1", "made"),))

    async def acquire_lock(self, request: c.AcquireLockRequest) -> c.LockGrant:
        self._note("acquire_lock", request)
        return c.LockGrant(7, request.holder)

    async def renew_lock(self, request: c.HeldLockRequest) -> c.LockGrant:
        self._note("renew_lock", request)
        return c.LockGrant(request.token, request.holder)

    async def release_lock(self, request: c.HeldLockRequest) -> c.Empty:
        self._note("release_lock", request)
        return c.Empty()

    async def begin_decision(self, request: c.BeginDecisionRequest) -> c.Decision:
        self._note("begin_decision", request)
        return c.Decision(request.transaction, "pending", 7, request.cohorts, request.resource)

    async def decide(self, request: c.DecideRequest) -> c.Decision:
        self._note("decide", request)
        return c.Decision(request.transaction, "aborted")

    async def decisions(self, request: c.DecisionsRequest) -> c.DecisionList:
        self._note("decisions", request)
        return c.DecisionList((c.Decision("t1", "committed", 7, ("m1/",), request.resource),))

    async def end_decision(self, request: c.DecideRequest) -> c.Empty:
        self._note("end_decision", request)
        return c.Empty()

    async def clear_deaths(self, request: c.ClearDeathsRequest) -> c.Empty:
        raise NotImplementedError  # not offered over gRPC


class FakeInvoker:
    """Calls the objects of a ``FakeRegistry`` right here; a request id runs once."""

    def __init__(self, registry: FakeRegistry) -> None:
        self._registry = registry
        self.calls: list[dict[str, Any]] = []
        self.answers: dict[tuple[str, str, int], Any] = {}
        self.answer: Callable[..., Awaitable[Any]] | None = None

    async def __call__(
        self,
        target: c.ByName,
        method: str,
        args: list[Any],
        kwargs: dict[str, Any],
        deadline_s: float,
        request: CallerRequest | None,
        traceparent: str | None,
    ) -> Any:
        self.calls.append(
            {
                "target": target,
                "method": method,
                "args": args,
                "kwargs": kwargs,
                "deadline_s": deadline_s,
                "request": request,
                "traceparent": traceparent,
            }
        )
        if self.answer is not None:
            return await self.answer(target, method)
        ms_id = self._registry.find_id(target)
        _, instance, methods = self._registry.made[ms_id]
        if method not in methods:
            raise NotFound(f"{type(instance).__name__} has no public method {method!r}; it has {', '.join(methods)}")
        key = (request.client, ms_id, request.sequence) if request else None
        if key is not None and key in self.answers:
            return self.answers[key]
        try:
            result = getattr(instance, method)(*args, **kwargs)
        except Exception as error:
            raise Raised(error) from error
        if key is not None:
            self.answers[key] = result
        return result


class FakeKernel:
    """Notes the commands that a kernel server gets."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    async def instantiate(self, request: c.InstantiateRequest) -> c.InstantiateReply:
        self.seen.append(("instantiate", request))
        return c.InstantiateReply(41, {"add": 0})

    async def transfer(self, request: c.TransferRequest) -> c.TransferReply:
        self.seen.append(("transfer", request))
        return c.TransferReply(42, 0.25)

    async def adopt(self, request: c.AdoptRequest, snapshot: memoryview) -> c.InstantiateReply:
        self.seen.append(("adopt", (request, bytes(snapshot))))
        return c.InstantiateReply(43)

    async def retire(self, request: c.RetireRequest) -> c.Empty:
        self.seen.append(("retire", request))
        return c.Empty()

    async def fence(self, request: c.FenceRequest) -> c.Empty:
        self.seen.append(("fence", request))
        return c.Empty()

    async def statistics(self, request: c.Empty) -> c.KernelStatistics:
        self.seen.append(("statistics", request))
        return c.KernelStatistics("s1", 7, replicas=3, valid_for_s=2.5)

    async def replicas(self, request: c.Empty) -> c.ReplicaList:
        self.seen.append(("replicas", request))
        return c.ReplicaList((c.ReplicaInfo("m", "/", "r1", 3, "serving"),))
