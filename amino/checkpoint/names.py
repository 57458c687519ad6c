"""The names of everything Amino keeps in a checkpoint store; the one module that knows them.

Owns the layout below the store's root and the check of names. Leaves what the files mean to their writers.
Invariants: a name stays below the root on every system; two different things never share one.
Failure behaviour: a name that would leave its place is refused with ``Invalid``.
"""

from __future__ import annotations

import re

from amino.errors import Invalid

IDENTITY = "amino-store-id"
CHECKPOINTS = "checkpoints/"
ARGUMENTS = "arguments/"
CODE = "code/"
MEMBERS = "members/"
PROBES = "probes/"

_KEY_LENGTH_MAX = 512
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


def microservice_of(key: str) -> str:
    """Return the id of the microservice whose checkpoint ``key`` is."""
    return key[len(CHECKPOINTS) :].partition("/")[0]


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
