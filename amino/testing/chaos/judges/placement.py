"""The judge of places: at rest, replicas that are wanted in regions are there.

Owns comparing documents with the servers' regions. Leaves waiting for rest to the runner.
Invariant: pure. Failure behaviour: a server that is not known is a region that is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from amino.contracts.documents import GroupDocument
from amino.testing.chaos.record import Verdict

NAME = "placement"


def placed(groups: Iterable[GroupDocument], regions: Mapping[str, str], workload: str = "") -> Verdict:
    """Judge whether each region that a group wants has a replica in sync, and its preferred one the primary.

    Args:
        groups: documents at rest; those that want no regions count as placed. regions: of the servers that live, by name.
        workload: whose groups they are.
    """
    wrong: list[str] = []
    count = 0
    for group in groups:
        if not group.regions:
            continue
        count += 1
        there = {one.id: regions.get(one.server, "") for one in group.replicas}
        missing = set(group.regions) - {there[one] for one in group.in_sync if one in there}
        if missing:
            wrong.append(f"no replica is in sync in {', '.join(sorted(missing))}: {sorted(there.values())}")
        if group.preferred_region and there.get(group.primary) != group.preferred_region:
            wrong.append(f"the primary is in {there.get(group.primary)!r}, not in {group.preferred_region}")
    text = "; ".join(wrong[:3]) if wrong else f"{count} groups have their replicas and primaries where they are wanted"
    return Verdict(NAME, not wrong, text, workload, figures={"groups": float(count)})
