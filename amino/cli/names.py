"""How a microservice is named on the command line: by its name, or by its id.

Owns telling the two apart, and labels as conditions. Leaves finding to the registry.
Invariant: 24 hexadecimal digits are an id, everything else a name.
Failure behaviour: ``Invalid`` for what is neither.
"""

from __future__ import annotations

import re
from typing import Any

from amino.contracts.documents import Requirement
from amino.contracts.services import LocateRequest, Location
from amino.errors import Invalid
from amino.ids import valid_name
from amino.stubs.cluster import Cluster
from amino.stubs.stub import DynamicStub
from amino.stubs.target import Target

_ID = re.compile(r"[0-9a-f]{24}\Z")
_CONDITION = re.compile(r"(?P<key>[^!=]+?)(?:(?P<operator>!=|=)(?P<values>.*))?\Z")


def naming(target: str) -> dict[str, Any]:
    """Return ``target`` as the fields that requests name microservices by."""
    if _ID.match(target):
        return {"microservice": target}
    if not valid_name(target):
        raise Invalid(f"{target!r} names no microservice; use its name, or its id of 24 hexadecimal digits")
    return {"name": target}


def stub_of(cluster: Cluster, target: str) -> Any:
    """Return a stub of the microservice; ``NotFound`` if there is none."""
    location: Location = cluster.registry.locate(LocateRequest(**naming(target)))
    return cluster.bind(DynamicStub(None, Target(location.microservice, location.spec.name), location.spec.cls))


def conditions(labels: list[str]) -> tuple[Requirement, ...]:
    """Read ``key=value`` (or ``key=a,b``), ``key!=value`` and ``key``."""
    found: list[Requirement] = []
    for label in labels:
        match = _CONDITION.match(label)
        if match is None:
            raise Invalid(f"label {label!r}; write key=value, key=a,b, key!=value or key")
        values = tuple(match["values"].split(",")) if match["values"] is not None else ()
        if match["operator"] is None:
            found.append(Requirement(match["key"], "Exists"))
        elif match["operator"] == "!=":
            found.append(Requirement(match["key"], "NotIn", values))
        else:
            found.append(Requirement(match["key"], "Equal" if len(values) == 1 else "In", values))
    return tuple(found)
