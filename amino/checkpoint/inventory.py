"""What a checkpoint store holds, found without etcd: for the day when etcd is lost.

Owns listing the store and reading the checkpoints and descriptions of one microservice. Leaves what is made of them to the OMS.
Invariants: a checkpoint counts as intact only after all of it was read and its checksum held; nothing is changed but that logs
are sealed where that is asked for.
Failure behaviour: damage is a finding; a store that cannot be read raises ``StoreFailed``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from amino.checkpoint import format as file_format
from amino.checkpoint import log_format, names
from amino.checkpoint.description import Description, decode_description
from amino.checkpoint.store import CheckpointStore, StoredFile
from amino.contracts.documents import CheckpointEntry
from amino.errors import AlreadyExists, Invalid


class FoundCheckpoint(NamedTuple):
    """One checkpoint.

    Args:
        entry: for a manifest; its checksum is empty if the file is damaged or missing.
        problem: what is wrong with it, empty if it is intact.
        logged: whether there are records in the log beside it.
    """

    entry: CheckpointEntry
    problem: str = ""
    logged: bool = False


class FoundGroup(NamedTuple):
    """What there is of one group: checkpoints, newest first; its newest intact description; what is damaged beside."""

    checkpoints: tuple[FoundCheckpoint, ...] = ()
    description: Description | None = None
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Files:
    """The files of one group, by name."""

    checkpoints: dict[str, StoredFile | None] = field(default_factory=dict)
    logs: set[str] = field(default_factory=set)
    descriptions: list[str] = field(default_factory=list)


def find_all(store: CheckpointStore) -> dict[str, dict[str, Files]]:
    """Return the files of all microservices, by id and path. Blocks."""
    found: dict[str, dict[str, Files]] = {}

    def group(ms_id: str, path: str) -> Files:
        return found.setdefault(ms_id, {}).setdefault(path, Files())

    for file in store.list(names.CHECKPOINTS):
        name = names.parse_checkpoint(file.key)
        if name is None:
            continue
        files = group(name.microservice, name.path)
        if file.key == name.url:
            files.checkpoints[name.url] = file
        elif file.key == names.log_of(name.url):
            files.logs.add(name.url)
            files.checkpoints.setdefault(name.url, None)
    for file in store.list(names.DESCRIPTIONS):
        ms_id, path = names.group_of_description(file.key)
        group(ms_id, path).descriptions.append(file.key)
    return found


def read_all(
    store: CheckpointStore, groups: Mapping[str, Files], *, intact_max: int, seal: Collection[str]
) -> dict[str, FoundGroup]:
    """Return what the files of one microservice hold, by path. Blocks.

    Args:
        intact_max: so many intact checkpoints of each group are looked for, from the newest on.
        seal: paths of the groups whose logs are sealed first, so that nobody who was thought dead appends to what was read.

    Raises:
        StoreFailed: the store cannot be read.
    """
    return {path: _read(store, files, intact_max, seal=path in seal) for path, files in groups.items()}


def _read(store: CheckpointStore, files: Files, intact_max: int, *, seal: bool) -> FoundGroup:
    problems: list[str] = []
    descriptions = []
    for key in files.descriptions:
        data = store.read(key)
        try:
            if data is not None:
                descriptions.append(decode_description(data))
        except (file_format.NotIntact, Invalid) as error:
            problems.append(f"{key}: {error}")
    described = max(descriptions, key=lambda one: one.order, default=None)
    checkpoints: list[FoundCheckpoint] = []
    intact = 0
    for url in sorted(files.checkpoints, key=_order, reverse=True):
        if intact >= intact_max:
            break
        found = _checkpoint(store, url, files.checkpoints[url], logged=url in files.logs, seal=seal)
        intact += not found.problem
        if not found.problem or files.checkpoints[url] is not None or found.logged:
            checkpoints.append(found)  # else a log whose checkpoint was never written, and nothing in it
    return FoundGroup(tuple(checkpoints), described, tuple(problems))


def _order(url: str) -> tuple[int, int, str]:
    name = names.parse_checkpoint(url)
    assert name is not None, "it was listed as one"
    return name.epoch, name.sequence, url


def _checkpoint(
    store: CheckpointStore, url: str, file: StoredFile | None, *, logged: bool, seal: bool
) -> FoundCheckpoint:
    problem = "it is missing"
    data = store.read(url) if file is not None else None
    if data is not None:
        try:
            file_format.decode_whole(data)
            problem = ""
        except file_format.NotIntact as error:
            problem = str(error)
    size, records = _log(store, url, seal=seal) if logged else (-1, 0)
    epoch, sequence, _ = _order(url)
    entry = CheckpointEntry(
        epoch,
        sequence,
        url,
        "" if data is None or problem else file_format.digest_in(data),
        len(data or b""),
        file.modified_at if file is not None else 0.0,
        logged,
        size,
    )
    return FoundCheckpoint(entry, problem, records > 0)


def _log(store: CheckpointStore, url: str, *, seal: bool) -> tuple[int, int]:
    """Return how many bytes of a log count and how many records they are; (-1, 1) for one that is damaged."""
    if seal:
        with contextlib.suppress(AlreadyExists):
            store.write(names.seal_of(url), [b"sealed"])
    found = store.read_segment(names.log_of(url))
    if found is None:
        return -1, 0
    data, whole = found
    try:
        content = log_format.read(log_format.seed_of(url), data, whole=whole)
    except file_format.NotIntact:
        return -1, 1
    return content.size, len(content.records)
