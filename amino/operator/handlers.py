"""What the operator does when resources of ``amino.run/v1`` come, change and go: kopf's handlers.

Owns when what is done, and what is tried again. Leaves the doing to ``Microservices`` and the words to ``status``.
Invariants: a resource that breaks a rule is not tried again until it is changed; everything else is, for ever; deleting a resource
deletes the microservice that it made or took over, by id, and no other.
Failure behaviour: an error is in the resource's status and in an event of it; the operator goes on.
"""

from __future__ import annotations

import asyncio
import datetime
from typing import Any

import kopf

from amino.contracts.services import MicroserviceInfo
from amino.errors import AminoError, Invalid, NotFound
from amino.operator import status as words
from amino.operator.microservices import Microservices

GROUP, VERSION = "amino.run", "v1"
KEEP = "amino.run/on-delete"
"""Annotation: ``keep`` leaves the microservice in the cluster when its resource is deleted."""
RETRY_S = 15.0


def register(
    registry: kopf.OperatorRegistry, microservices: Microservices, *, poll_s: float, retry_s: float = RETRY_S
) -> None:
    """Register all handlers.

    Args:
        poll_s: how often the state of each microservice is looked at.
        retry_s: how long after a failure the next try is made.
    """

    async def applied(
        *,
        body: kopf.Body,
        meta: kopf.Meta,
        spec: kopf.Spec,
        status: kopf.Status,
        patch: kopf.Patch,
        memo: kopf.Memo,
        **_: Any,
    ) -> None:
        generation = int(meta.get("generation") or 0)
        try:
            done = await asyncio.to_thread(
                microservices.apply, str(body["kind"]), str(meta.name), meta.labels, dict(spec), status.get("id", "")
            )
        except AminoError as error:
            patch.status.update(
                words.after_refusal(status, _conditions(memo, status), error, generation=generation, now=_now())
            )
            if isinstance(error, NotFound) and status.get("id"):
                raise kopf.PermanentError("the microservice is not in the cluster any more") from error
            if isinstance(error, Invalid):
                raise kopf.PermanentError(error.message) from error
            raise kopf.TemporaryError(error.message or type(error).__name__, delay=retry_s) from error
        patch.status.update(
            words.after_applying(status, _conditions(memo, status), done, generation=generation, now=_now())
        )

    for plural in ("microservices", "applications"):
        kopf.on.create(GROUP, VERSION, plural, registry=registry, id="apply")(applied)
        kopf.on.update(GROUP, VERSION, plural, registry=registry, id="apply")(applied)

    @kopf.on.delete(GROUP, VERSION, "microservices", registry=registry, id="delete")
    async def deleted(*, meta: kopf.Meta, status: kopf.Status, logger: Any, **_: Any) -> None:
        known = status.get("id", "")
        if not known:
            return  # it never came to be, so there is nothing of its own
        if meta.annotations.get(KEEP) == "keep":
            logger.info("%s stays in the cluster, as its annotation %s says", meta.name, KEEP)
            return
        try:
            await asyncio.to_thread(microservices.delete, known)
        except AminoError as error:
            raise kopf.TemporaryError(error.message or type(error).__name__, delay=retry_s) from error

    @kopf.timer(GROUP, VERSION, "microservices", registry=registry, id="state", interval=poll_s)
    async def state(
        *, meta: kopf.Meta, status: kopf.Status, patch: kopf.Patch, memo: kopf.Memo, logger: Any, **_: Any
    ) -> None:
        known = status.get("id", "")
        if not known:
            return
        try:
            seen = await _seen(microservices, known)
        except AminoError as error:
            logger.warning("the state of %s is not known: %s", meta.name, error)
            return
        generation = int(meta.get("generation") or 0)
        patch.status.update(words.as_seen(status, _conditions(memo, status), seen, generation=generation, now=_now()))


async def _seen(microservices: Microservices, known: str) -> MicroserviceInfo | None:
    try:
        return microservices.seen_nowait(known)
    except LookupError:
        return await asyncio.to_thread(microservices.seen, known)


def _conditions(memo: kopf.Memo, status: kopf.Status) -> words.Conditions:
    found: words.Conditions | None = memo.get("conditions")
    if found is None:
        found = memo["conditions"] = words.Conditions(status)
    return found


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
