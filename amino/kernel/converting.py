"""Changing the managers of a replica that runs: built again beside itself, then put in its own place.

Owns the order of it: seal, snapshot, build, first checkpoint, one guarded write, take over. Leaves the table of replicas
and its locks to ``host``, and deciding to slot leaders.
Invariants: the state of one instant goes over, with answered requests; until the write has landed the old replica is
untouched (and sealed), after it nothing of it answers.
Failure behaviour: whatever fails before the write leaves the old replica sealed, for the slot leader to resume it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import msgspec

from amino.contracts.services import ConvertReply
from amino.errors import AminoError, NotExecuted, NotFound
from amino.kernel.arrival import arrived
from amino.telemetry.trace import current_traceparent

if TYPE_CHECKING:
    from amino.contracts.services import ConvertRequest
    from amino.kernel.context import ReplicaContext
    from amino.kernel.host import Host
    from amino.kernel.object import KernelObject

_log = logging.getLogger("amino.kernel")

# ruff: noqa: SLF001 - a part of the host, in a file of its own


async def convert(host: Host, request: ConvertRequest) -> ConvertReply:
    """See ``contracts.services.Kernel.convert``; the caller holds the group's lock and has checked the fence."""
    place, home = (request.microservice, request.path), (request.microservice, request.to_path)
    old = host._objects.get(place)
    if old is None or old.replica != request.replica:
        raise NotFound(f"replica {request.replica} of {request.microservice} is not on {host._around.server}")
    if old.epoch != request.document.epoch:
        raise NotExecuted(
            f"{request.microservice} is at epoch {old.epoch} by now; a newer leader decides", reason="fenced"
        )
    await _seal(old, request.quiesce_timeout_s)
    clock = host._around.clock
    started = clock.monotonic()
    try:
        await old.chain.before_snapshot()
    except TimeoutError:
        raise NotExecuted(
            f"{request.microservice} could not come to rest: what it has executed is not committed; change it later",
            reason="moving",
        ) from None
    snapshot = await host._parts.run(old.snapshot_sealed)
    before = host._contexts[place]
    new, after, revision = await _build(host, request, snapshot)
    del host._objects[place]
    host._objects[home] = new
    new.epoch, new.generation = request.goal.epoch, request.record.generation
    if after.of_group is not None:
        after.of_group.seen = msgspec.structs.replace(request.goal, methods=new.methods), revision
    await _end(host, old, before)
    if home != place:
        host._revisions.pop(place, None)
        await _create(host, new)
    await host._begin(new)
    arrived(new, current_traceparent())
    host._serve(home, new, revision, ())
    await host._parts.changed(new, request)
    old.leave({})
    if not old.in_flight:
        old.release_instance()
    return ConvertReply(revision, clock.monotonic() - started)


async def _build(host: Host, request: ConvertRequest, snapshot: bytes) -> tuple[KernelObject, ReplicaContext, int]:
    """Build the replica with its new managers, and put it on record; returns the documents' revision with it."""
    place, home = (request.microservice, request.path), (request.microservice, request.to_path)
    before = host._contexts[place]
    # until the write has landed it is what is on record that may publish a first checkpoint
    epoch = request.document.epoch if home == place else request.goal.epoch
    new = await host._shell(home, request.replica, epoch, request)
    after = host._contexts[home]
    try:
        await host._parts.run(lambda: host._rebuild(new, snapshot))
        if home == place:
            await new.chain.on_create()
        goal = msgspec.structs.replace(request.goal, methods=new.methods)
        compares, write = host._parts.change_of(request, goal)
        key = host._parts.group_key(*home)
        revision = await host._confirmer.change(key, goal, request.replica, request.fence, compares, write)
    except BaseException:
        del host._contexts[home]
        host._contexts[place] = before
        await new.chain.on_stop()
        await after.aclose()
        raise
    if home != place:
        del host._contexts[place]
    return new, after, revision


async def _end(host: Host, old: KernelObject, before: ReplicaContext) -> None:
    """End the components that were; whatever they say, others have taken over."""
    host.groups.remove(old)
    try:
        await old.chain.on_stop()
    except Exception:  # noqa: BLE001 - a manager's fault
        _log.exception("a component of %s did not stop in order", old.microservice)
    await before.aclose()


async def _create(host: Host, new: KernelObject) -> None:
    """Let managers begin in a group that is new, too; what fails is reported: the change has been made."""
    try:
        await new.chain.on_create()
    except (AminoError, TimeoutError) as error:
        host._parts.event("component-failed", new.microservice, f"on_create: {error}")


async def _seal(old: KernelObject, timeout_s: float) -> None:
    if old.state != "serving":
        return
    try:
        await old.seal(timeout_s)
    except TimeoutError:
        raise NotExecuted(
            f"{old.in_flight} calls of {old.microservice} still ran after {timeout_s} s; change it when it is less busy",
            reason="moving",
        ) from None
