"""The names of everything Amino keeps in a checkpoint store; the one module that knows them.

Owns the layout below the store's root and the check of names. Leaves what the files mean to their writers.
Invariants: a name stays below the root on every system; two different things never share one.
Failure behaviour: a name that would leave its place is refused with ``Invalid``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from amino.errors import Invalid

IDENTITY = "amino-store-id"
CHECKPOINTS = "checkpoints/"
DESCRIPTIONS = "descriptions/"
REBUILDS = "rebuilds/"
ARGUMENTS = "arguments/"
CODE = "code/"
MEMBERS = "members/"
PROBES = "probes/"

_KEY_LENGTH_MAX = 512
_LOG = ".log"
_SEAL = ".log.sealed"
_CHECKPOINT = re.compile(r"(\d+)-(\d+)-[0-9a-f]+")
_PART = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,199}[A-Za-z0-9_-])?\Z")


def parts_of(key: str) -> list[str]:
    """Return the parts of ``key``, checked: portable file names, without dots at their ends.

    Raises:
        Invalid: a part could leave the root or does not exist on some system.
    """
    parts = key.split("/")
    if len(key) > _KEY_LENGTH_MAX or not all(_PART.match(part) for part in parts):
        raise Invalid(
            f"{key!r} cannot name a file in a checkpoint store; use parts of letters, digits, '.', '_' and '-', "
            f"joined by '/', at most {_KEY_LENGTH_MAX} characters"
        )
    return parts


def check_prefix(prefix: str) -> None:
    """Refuse a prefix that is neither empty nor a folder's name followed by ``/``."""
    if prefix:
        if not prefix.endswith("/"):
            raise Invalid(f"prefix {prefix!r} must end with '/', so that 'a1' is not taken for a part of 'a'")
        parts_of(prefix[:-1])


def checkpoints_of(ms_id: str) -> str:
    """Return the prefix of a microservice's checkpoints."""
    return f"{CHECKPOINTS}{ms_id}/"


def checkpoint(ms_id: str, path: str, epoch: int, sequence: int, random: str) -> str:
    """Return the name of one checkpoint: group ``/0`` has a folder below that of group ``/``."""
    return f"{CHECKPOINTS}{ms_id}{path.rstrip('/')}/{epoch}-{sequence}-{random}"


def log_of(url: str) -> str:
    """Return the name of the log that goes on from the checkpoint ``url``."""
    return f"{url}{_LOG}"


def seal_of(url: str) -> str:
    """Return the name of the marker that ends the log of the checkpoint ``url``."""
    return f"{url}{_SEAL}"


def checkpoint_of(key: str) -> str:
    """Return the name of the checkpoint that a file is, or is of the log of."""
    return key.partition(_LOG)[0]


def microservice_of(key: str) -> str:
    """Return the id of the microservice whose checkpoint, or description, ``key`` is."""
    return key.split("/", 2)[1]


class CheckpointName(NamedTuple):
    """What the name of a checkpoint, or of its log or seal, tells."""

    microservice: str
    path: str
    epoch: int
    sequence: int
    url: str


def parse_checkpoint(key: str) -> CheckpointName | None:
    """Return what the name of a file below ``CHECKPOINTS`` tells, None if it is none of ours."""
    url = checkpoint_of(key)
    ms_id, *path, last = url[len(CHECKPOINTS) :].split("/")
    found = _CHECKPOINT.fullmatch(last)
    if found is None or not ms_id:
        return None
    return CheckpointName(ms_id, "/" + "/".join(path), int(found[1]), int(found[2]), url)


def descriptions_of(ms_id: str) -> str:
    """Return the prefix of a microservice's descriptions."""
    return f"{DESCRIPTIONS}{ms_id}/"


def description(ms_id: str, path: str, digest: str) -> str:
    """Return the name of the description of a group; the same content always has the same name."""
    return f"{DESCRIPTIONS}{ms_id}{path.rstrip('/')}/{digest[:32]}"


def group_of_description(key: str) -> tuple[str, str]:
    """Return id and path of the group that the description ``key`` is of."""
    ms_id, *path, _ = key[len(DESCRIPTIONS) :].split("/")
    return ms_id, "/" + "/".join(path)


def rebuild(number: int) -> str:
    """Return the name of the marker that the ``number``-th rebuilding of the cluster leaves."""
    return f"{REBUILDS}{number}"


def arguments(ms_id: str) -> str:
    """Return the name of a microservice's constructor arguments that are too large for etcd."""
    return f"{ARGUMENTS}{ms_id}"


def code(sha256: str) -> str:
    """Return the name of a bundle that is too large for etcd."""
    return f"{CODE}{sha256}"


def members_of(server: str) -> str:
    """Return the prefix of a server's markers."""
    return f"{MEMBERS}{server}/"


def member(server: str, run: str) -> str:
    """Return the name of the marker that one run of a server leaves for the others to find."""
    return f"{MEMBERS}{server}/{run}"
