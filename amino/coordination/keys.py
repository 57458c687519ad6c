"""The names of everything Amino keeps in etcd; the one module that knows them.

Owns the layout below ``/amino/<cluster>/`` and its inverse. Leaves what the values mean to ``amino.contracts``.
Invariants: two different things never share a key; a prefix ends with ``/``, so that slot 1 never lists slot 10.
Failure behaviour: a part that would leave its place (a name with ``/``) is refused with ``Invalid``.
"""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

from amino.errors import Invalid
from amino.ids import CACHED_MAX, SLOT_COUNT, valid_name

_PATH = re.compile(r"/|(/[A-Za-z0-9][A-Za-z0-9._-]*)+")
RESERVED = ("sync", "store", "safe")


@dataclass(frozen=True, slots=True)
class OwnedKey:
    """Whose microservice or group a key is about; ``path`` is empty for the microservice itself."""

    slot: int
    id: str
    path: str = ""


@dataclass(frozen=True, slots=True)
class TombstoneKey:
    """Which incarnation a tombstone is about."""

    name: str
    incarnation: int


class Keys:
    """Every key of one cluster.

    Args:
        cluster: the cluster's name; see ``ids.valid_name``.
    """

    def __init__(self, cluster: str) -> None:
        self.cluster_name = _name(cluster)
        self.root = f"/amino/{cluster}/"
        self.servers_prefix = f"{self.root}servers/"
        self.beats_prefix = f"{self.root}beats/"
        self.tombstones_prefix = f"{self.root}tombstones/"
        self.slots_prefix = f"{self.root}slots/"
        self.microservices_prefix = f"{self.root}microservices/"
        self.names_prefix = f"{self.root}names/"
        self.groups_prefix = f"{self.root}groups/"
        self.checkpoints_prefix = f"{self.root}checkpoints/"
        self.decisions_prefix = f"{self.root}decisions/"
        self.applications_prefix = f"{self.root}applications/"
        self.code_prefix = f"{self.root}code/"
        self.events_prefix = f"{self.root}events/"
        self.locks_prefix = f"{self.root}locks/"
        self.cluster = f"{self.root}cluster"
        self.nothing = f"{self.root}nothing"
        """Never written. Deleting it makes a transaction take the write path without changing anything."""

    def __repr__(self) -> str:
        return f"Keys({self.cluster_name})"

    def server(self, name: str) -> str:
        """Return the leased key of a kernel server; its create revision is the incarnation."""
        return self.servers_prefix + _name(name)

    def beat(self, name: str) -> str:
        """Return the leased key that a server rewrites to show that it lives."""
        return self.beats_prefix + _name(name)

    def tombstone(self, name: str, incarnation: int) -> str:
        """Return the key that says this incarnation is proven dead."""
        return f"{self.tombstones_prefix}{_name(name)}/{incarnation}"

    def told(self, name: str, incarnation: int) -> str:
        """Return the leased key that says the loss of this incarnation has been told to telemetry."""
        return f"{self.root}told/{_name(name)}/{incarnation}"

    def slot(self, number: int) -> str:
        """Return the leased key of a slot's leader."""
        return f"{self.slots_prefix}{_slot(number)}"

    def microservice(self, slot: int, ms_id: str) -> str:
        """Return the key of a microservice's record."""
        return f"{self.microservices_prefix}{_slot(slot)}/{_name(ms_id)}"

    def microservices_of(self, slot: int) -> str:
        """Return the prefix of a slot's microservices."""
        return f"{self.microservices_prefix}{_slot(slot)}/"

    def name(self, name: str) -> str:
        """Return the key that holds the id of the microservice of that name."""
        return self.names_prefix + _name(name)

    def group(self, slot: int, ms_id: str, path: str) -> str:
        """Return the key of a group document; the root group (path ``/``) ends with ``/``."""
        return f"{self.groups_prefix}{_slot(slot)}/{_name(ms_id)}{_path(path)}"

    def groups_of_slot(self, slot: int) -> str:
        """Return the prefix of a slot's group documents."""
        return f"{self.groups_prefix}{_slot(slot)}/"

    def groups_of(self, slot: int, ms_id: str) -> str:
        """Return the prefix of a microservice's group documents, the root group's own key included."""
        return f"{self.groups_prefix}{_slot(slot)}/{_name(ms_id)}/"

    def manifest(self, ms_id: str, path: str) -> str:
        """Return the key of a group's checkpoint manifest."""
        return f"{self.checkpoints_prefix}{_name(ms_id)}{_path(path)}"

    def manifests_of(self, ms_id: str) -> str:
        """Return the prefix of a microservice's manifests."""
        return f"{self.checkpoints_prefix}{_name(ms_id)}/"

    def decision(self, transaction: str) -> str:
        """Return the write-once outcome of a two-phase commit."""
        return self.decisions_prefix + _name(transaction)

    def application(self, name: str) -> str:
        """Return the key of an application's definition."""
        return self.applications_prefix + _name(name)

    def code(self, sha256: str) -> str:
        """Return the key of a code bundle."""
        return self.code_prefix + _name(sha256)

    def event(self, sequence: int) -> str:
        """Return the key of a history entry; keys sort by sequence."""
        if sequence < 0:
            raise Invalid(f"event {sequence}: sequences start at 0")
        return f"{self.events_prefix}{sequence:020d}"

    def lock(self, name: str) -> str:
        """Return the key of a distributed lock."""
        return self.locks_prefix + _name(name)

    def parse_server(self, key: str) -> str:
        """Return the server's name."""
        return self._rest(key, self.servers_prefix)

    def parse_beat(self, key: str) -> str:
        """Return the server's name."""
        return self._rest(key, self.beats_prefix)

    def parse_tombstone(self, key: str) -> TombstoneKey:
        """Return the incarnation a tombstone is about."""
        name, _, incarnation = self._rest(key, self.tombstones_prefix).rpartition("/")
        return TombstoneKey(name, _number(key, incarnation))

    def parse_slot(self, key: str) -> int:
        """Return the slot's number."""
        return _number(key, self._rest(key, self.slots_prefix))

    def parse_microservice(self, key: str) -> OwnedKey:
        """Return slot and id of a microservice's record."""
        slot, _, ms_id = self._rest(key, self.microservices_prefix).partition("/")
        return OwnedKey(_number(key, slot), ms_id)

    def parse_name(self, key: str) -> str:
        """Return the microservice's name."""
        return self._rest(key, self.names_prefix)

    def parse_group(self, key: str) -> OwnedKey:
        """Return slot, id and path of a group document."""
        slot, _, rest = self._rest(key, self.groups_prefix).partition("/")
        ms_id, _, path = rest.partition("/")
        return OwnedKey(_number(key, slot), ms_id, f"/{path}")

    def parse_manifest(self, key: str) -> tuple[str, str]:
        """Return id and path of a manifest."""
        ms_id, _, path = self._rest(key, self.checkpoints_prefix).partition("/")
        return ms_id, f"/{path}"

    def parse_event(self, key: str) -> int:
        """Return the sequence of a history entry."""
        return _number(key, self._rest(key, self.events_prefix))

    def parse_lock(self, key: str) -> str:
        """Return the lock's name."""
        return self._rest(key, self.locks_prefix)

    def parse_code(self, key: str) -> str:
        """Return the sha256 of a bundle."""
        return self._rest(key, self.code_prefix)

    def _rest(self, key: str, prefix: str) -> str:
        if not key.startswith(prefix) or len(key) == len(prefix):
            raise Invalid(f"key {key!r} is not below {prefix!r}; use the parser that fits it")
        return key[len(prefix) :]


def _name(text: str) -> str:
    if not valid_name(text):
        raise Invalid(
            f"{text!r} cannot name anything in etcd; use 1 to 128 letters, digits, '.', '_', '-', "
            "starting with a letter or digit"
        )
    return text


def _slot(number: int) -> int:
    if not 0 <= number < SLOT_COUNT:
        raise Invalid(f"slot {number} does not exist; slots are 0 to {SLOT_COUNT - 1}")
    return number


@functools.lru_cache(CACHED_MAX)
def _path(path: str) -> str:
    if _PATH.fullmatch(path) is None:
        raise Invalid(f"group path {path!r} is not '/' or '/' before each of its parts, as in '/0/2'")
    return path


def _number(key: str, text: str) -> int:
    if not text.isdigit():
        raise Invalid(f"key {key!r}: {text!r} is not a number; nothing of ours is stored there")
    return int(text)
