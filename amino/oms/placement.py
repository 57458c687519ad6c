"""Choosing a server for a replica: a pure decision with its explanation.

Owns selector matching, eligibility, spread, least load and the words that explain the choice. Leaves counting replicas
to ``directory`` and writing the placement to ``writes``.
Invariants: the same inputs give the same server; a server that breaks a rule is never chosen.
Failure behaviour: ``NoEligibleServer`` that lists each server with its reason.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from amino.contracts.documents import FORMAT_READ, Placement, Requirement
from amino.errors import Invalid, NoEligibleServer

LISTED_MAX = 20
HARDLY = 8
"""A preferred server may have this fraction (an eighth) more replicas than the emptiest."""

SELECTOR_TERMS_MAX = 64


class Candidate(msgspec.Struct, frozen=True):
    """A live server as placement sees it.

    Args:
        replicas: how many replicas it has or is being given.
        cordoned: why it takes no new replicas, empty if it does.
        format_read: the latest format version of documents that it acts on.
    """

    name: str
    incarnation: int
    labels: Mapping[str, str] = msgspec.field(default_factory=dict)
    replicas: int = 0
    capacity: int = 0
    device: bool = False
    store_id: str = ""
    cordoned: str = ""
    format_read: int = FORMAT_READ


@dataclass(frozen=True, slots=True)
class Demand:
    """What is to be placed.

    Args:
        key: what ties are broken by; equal servers get different microservices.
        placement: the spec's selector and spread.
        needs_store: whether the chain keeps checkpoints, so that the server must see a store.
        store_id: the very store that holds its checkpoints already, empty if any will do.
        refused: ``server@incarnation`` -> why that server cannot have it (cannot load the class, store failed).
        excluded: server -> why it is out of the question this time (the source of a move).
        only: the one server that is asked for, empty for any.
        prefer: the server where it costs least to make it (the slot's leader): taken if hardly more is on it than on others.
        neighbours: label sets of the servers that hold the group's other replicas.
        regions: that it must be in, away from its neighbours where possible; empty for any.
        preferred_region: that it should be in if no neighbour is.
        devices: ``first``: on a device if one can have it; ``only``: on no other server.
        format: version of the group's document, which its servers must be able to act on.
    """

    key: str
    placement: Placement = field(default_factory=Placement)
    needs_store: bool = False
    store_id: str = ""
    refused: Mapping[str, str] = field(default_factory=dict)
    excluded: Mapping[str, str] = field(default_factory=dict)
    only: str = ""
    prefer: str = ""
    neighbours: Sequence[Mapping[str, str]] = ()
    regions: tuple[str, ...] = ()
    preferred_region: str = ""
    devices: Literal["", "first", "only"] = ""
    format: int = 1


@dataclass(frozen=True, slots=True)
class Choice:
    """The server chosen, and why, in one line."""

    server: Candidate
    explanation: str


def incarnation_key(name: str, incarnation: int) -> str:
    """Return how a server's incarnation is named in a document's ``ineligible``."""
    return f"{name}@{incarnation}"


def check_placement(placement: Placement) -> None:
    """Check a placement's form.

    Raises:
        Invalid: an operator has too many or too few values, or there are too many terms.
    """
    if len(placement.selector) > SELECTOR_TERMS_MAX:
        raise Invalid(
            f"placement.selector has {len(placement.selector)} terms; at most {SELECTOR_TERMS_MAX} are allowed"
        )
    for term in placement.selector:
        for requirement in term:
            count = len(requirement.values)
            where = f"placement.selector: {requirement.operator} on label {requirement.key!r}"
            if requirement.operator == "Exists" and count:
                raise Invalid(f"{where} takes no values, got {list(requirement.values)}; use In to compare")
            if requirement.operator == "Equal" and count != 1:
                raise Invalid(f"{where} takes exactly one value, got {count}; use In for several")
            if requirement.operator in ("In", "NotIn") and not count:
                raise Invalid(f"{where} needs at least one value")


def requirement_holds(requirement: Requirement, labels: Mapping[str, str]) -> bool:
    """Return whether ``labels`` meet one requirement. A label that is not there is ``NotIn`` everything."""
    value = labels.get(requirement.key)
    if requirement.operator == "Exists":
        return value is not None
    if requirement.operator == "NotIn":
        return value not in requirement.values
    return value is not None and value in requirement.values


def selector_holds(selector: Sequence[Sequence[Requirement]], labels: Mapping[str, str]) -> bool:
    """Return whether one term of ``selector`` holds in full; an empty selector holds for everything."""
    return not selector or any(all(requirement_holds(one, labels) for one in term) for term in selector)


def why_not(demand: Demand, server: Candidate) -> str:
    """Return why ``server`` may not have the replica, empty if it may."""
    if demand.only and server.name != demand.only:
        return f"not the server asked for ({demand.only})"
    for rule in (_excluded, _refused, _cordoned, _release, _device, _selector, _region, _store, _capacity):
        reason = rule(demand, server)
        if reason:
            return reason
    return ""


def _excluded(demand: Demand, server: Candidate) -> str:
    return demand.excluded.get(server.name, "")


def _refused(demand: Demand, server: Candidate) -> str:
    return demand.refused.get(incarnation_key(server.name, server.incarnation), "")


def _cordoned(_: Demand, server: Candidate) -> str:
    return f"cordoned: {server.cordoned}" if server.cordoned else ""


def _release(demand: Demand, server: Candidate) -> str:
    if server.format_read >= demand.format:
        return ""
    return f"its release reads documents up to format {server.format_read}, and this group's has {demand.format}"


def _device(demand: Demand, server: Candidate) -> str:
    if demand.devices == "only" and not server.device:
        return "no device"
    asked = bool(demand.devices or demand.only == server.name) or any(
        requirement.key == "device" for term in demand.placement.selector for requirement in term
    )
    return "a device, and not asked for by name or by the label 'device'" if server.device and not asked else ""


def _selector(demand: Demand, server: Candidate) -> str:
    if selector_holds(demand.placement.selector, server.labels):
        return ""
    shown = ", ".join(f"{key}={value}" for key, value in sorted(server.labels.items())) or "none"
    return f"its labels ({shown}) match no term of the selector"


def _region(demand: Demand, server: Candidate) -> str:
    region = server.labels.get("region", "")
    if not demand.regions or region in demand.regions:
        return ""
    return f"its region ({region or 'none'}) is none of {', '.join(demand.regions)}"


def _store(demand: Demand, server: Candidate) -> str:
    if not demand.needs_store:
        return ""
    if not server.store_id:
        return "it has no checkpoint store, which a manager of the chain needs"
    if demand.store_id and server.store_id != demand.store_id:
        return "it sees another checkpoint store than the one that holds the checkpoints"
    return ""


def _capacity(_: Demand, server: Candidate) -> str:
    full = server.capacity and server.replicas >= server.capacity
    return f"full: {server.replicas} of {server.capacity} replicas" if full else ""


def choose(demand: Demand, servers: Iterable[Candidate]) -> Choice:
    """Choose the server for one replica: spread first, then fewest replicas, then a fixed order per ``demand.key``.

    ``demand.prefer`` goes before the fewest replicas where the difference is small.

    Raises:
        NoEligibleServer: none may have it; ``details['servers']`` and the message give each one's reason.
    """
    eligible: list[Candidate] = []
    reasons: dict[str, str] = {}
    for server in sorted(servers, key=lambda one: one.name):
        reason = why_not(demand, server)
        if reason:
            reasons[server.name] = reason
        else:
            eligible.append(server)
    if demand.needs_store and not demand.store_id and eligible:
        eligible = _of_one_store(eligible, reasons)
    if not eligible:
        raise _nobody(demand, reasons)
    chosen = _preferred(demand, min(eligible, key=lambda one: _rank(demand, one)), eligible)
    return Choice(chosen, _explain(demand, chosen, eligible, reasons))


def _of_one_store(eligible: list[Candidate], reasons: dict[str, str]) -> list[Candidate]:
    """Keep the servers of the store that most of them share, so that recovery finds a server for the checkpoints."""
    counts: dict[str, int] = {}
    for server in eligible:
        counts[server.store_id] = counts.get(server.store_id, 0) + 1
    store = min(counts, key=lambda one: (-counts[one], one))
    for server in eligible:
        if server.store_id != store:
            reasons[server.name] = "it shares its checkpoint store with fewer servers than others do"
    return [server for server in eligible if server.store_id == store]


def _preferred(demand: Demand, best: Candidate, eligible: list[Candidate]) -> Candidate:
    """Return the preferred server if it is as good as ``best`` but for a few replicas, else ``best``."""
    for server in eligible:
        if server.name == demand.prefer and server.replicas * HARDLY <= best.replicas * (HARDLY + 1):
            return server if _crowding(demand, server) == _crowding(demand, best) else best
    return best


def _rank(demand: Demand, server: Candidate) -> tuple[tuple[int, ...], int, bytes, str]:
    return (
        _crowding(demand, server),
        server.replicas,
        hashlib.blake2b(f"{demand.key}\x1f{server.name}".encode(), digest_size=8).digest(),
        server.name,
    )


def _crowding(demand: Demand, server: Candidate) -> tuple[int, ...]:
    """Return how many neighbours share each label that matters with ``server``; devices and regions first where they matter."""
    by_kind: tuple[int, ...] = (int(not server.device),) if demand.devices else ()
    by_region: tuple[int, ...] = ()
    if demand.regions or demand.preferred_region:
        region = server.labels.get("region")
        there = sum(1 for labels in demand.neighbours if labels.get("region") == region)
        taken = any(labels.get("region") == demand.preferred_region for labels in demand.neighbours)
        by_region = (int(bool(demand.preferred_region) and not taken and region != demand.preferred_region), there)
    if not demand.neighbours:
        return by_kind + by_region
    return (
        by_kind
        + by_region
        + tuple(
            sum(1 for labels in demand.neighbours if labels.get(label) == server.labels.get(label))
            for label in demand.placement.spread
        )
    )


def _explain(demand: Demand, chosen: Candidate, eligible: list[Candidate], reasons: Mapping[str, str]) -> str:
    if demand.only:
        why = "asked for"
    elif len(eligible) == 1:
        why = "the only eligible server"
    elif demand.devices and any(one.device != chosen.device for one in eligible):
        why = "a device, which goes before servers"
    elif demand.neighbours and any(_crowding(demand, one) > _crowding(demand, chosen) for one in eligible):
        why = f"best spread over {', '.join(demand.placement.spread)}"
    elif any(one.replicas < chosen.replicas for one in eligible):
        why = f"leads its slot, and has hardly more replicas ({chosen.replicas}) than others"
    else:
        why = f"fewest replicas ({chosen.replicas}) among {len(eligible)} eligible"
    loads = ", ".join(f"{one.name} {one.replicas}" for one in eligible[:LISTED_MAX])
    parts = [f"{chosen.name}: {why}: {loads}" if not demand.only else f"{chosen.name}: {why}"]
    if not demand.only:
        parts += _listed(reasons)
    return "; ".join(parts)


def _listed(reasons: Mapping[str, str]) -> list[str]:
    lines = [f"{name} {reason}" for name, reason in sorted(reasons.items())]
    if len(lines) > LISTED_MAX:
        lines = [*lines[:LISTED_MAX], f"and {len(lines) - LISTED_MAX} more servers"]
    return lines


def _term(term: Sequence[Requirement]) -> str:
    """Return a term of a selector in words: ``region In eu, us and disk Exists``."""
    return " and ".join(f"{one.key} {one.operator} {', '.join(one.values)}".rstrip() for one in term) or "anything"


def _nobody(demand: Demand, reasons: dict[str, str]) -> NoEligibleServer:
    if demand.only and demand.only not in reasons:
        text = f"there is no live server {demand.only!r}; list them with `amino get servers`"
    elif demand.only:
        text = f"server {demand.only!r} cannot have it: {reasons[demand.only]}"
    elif reasons:
        selector = demand.placement.selector
        asked = f" (its selector: {' or '.join(map(_term, selector))})" if selector else ""
        text = f"no server may have it: {'; '.join(_listed(reasons))}; add a server, uncordon one or relax placement{asked}"
    else:
        text = "no live server that can hold microservices; start one with `amino server`"
    return NoEligibleServer(text, servers="; ".join(_listed(reasons)))
