"""Answers of the Registry that list things: servers, slots, events.

Owns their shape. ``services`` re-exports them. Leaves filling them in to the OMS.
Invariant: messages only ever gain fields with defaults.
Failure behaviour: none.
"""

from __future__ import annotations

import msgspec

from amino.contracts.documents import (
    ServerRecord,
)

EVENTS_WAIT_S_MAX = 20.0

# --- the registry: what any client may ask of any kernel server -----------------------------------------------------


class ServerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """A live server, as members see it."""

    record: ServerRecord
    incarnation: int
    cordoned: str = ""
    replicas: int = 0
    slots: int = 0


class Membership(msgspec.Struct, frozen=True, omit_defaults=True):
    """All live servers at a store revision; newer revisions win. Pushed to subscribers on every change.

    Args:
        leaders: by slot, the index in ``servers`` of its leader, -1 for none; a hint that saves clients a hop.
    """

    revision: int
    servers: tuple[ServerInfo, ...]
    cluster: str = ""
    paused: bool = False
    leaders: tuple[int, ...] = ()


class EventsRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    """The history, or what of it is newer than ``after``.

    Args:
        after: revision of the newest event that is known already; 0: none.
        wait_s: with ``after``, seconds to wait while there is nothing newer, at most ``EVENTS_WAIT_S_MAX``.
    """

    after: int = 0
    wait_s: float = 0.0


class EventInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the bounded event history."""

    revision: int
    kind: str
    at: float
    microservice: str = ""
    server: str = ""
    text: str = ""


class EventList(msgspec.Struct, frozen=True, omit_defaults=True):
    """Newest last."""

    events: tuple[EventInfo, ...] = ()


class SlotInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who leads a slot, and how many microservices are in it."""

    slot: int
    leader: str
    microservices: int = 0


class SlotList(msgspec.Struct, frozen=True, omit_defaults=True):
    """All slots, in order."""

    slots: tuple[SlotInfo, ...] = ()
