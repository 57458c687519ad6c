"""The judge of sessions and epochs: what the changes of keys in etcd say about who was alive and who was in charge.

Owns following servers' keys and tombstones, change by change, and telling the rules of documents who lives. Leaves those rules to
``amino.testing.documents``.
Invariants: pure; changes of one revision were made at once, and are judged by what held after all of them.
Failure behaviour: events that are missing altogether, out of order or unreadable are a failure that says so; after a gap it is
judged only what the changes after it show by themselves, and that no epoch went back.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from amino.contracts.documents import GroupDocument, Manifest, decode
from amino.coordination.keys import Keys
from amino.errors import AminoError
from amino.testing.chaos.record import KeyEvent, Verdict
from amino.testing.documents import Rules

NAME = "sessions and epochs"
SHOWN_MAX = 3


def sessions_and_epochs(events: Sequence[KeyEvent]) -> Verdict:
    """Judge the changes of keys of one run, in order of their revisions."""
    if not events:
        return Verdict(NAME, False, "could not judge: no change of a key in etcd was recorded")
    first, *later = _stretches(events)
    if [event.revision for event in first] != sorted(event.revision for event in first):
        return Verdict(NAME, False, "could not judge: the changes are not in order of their revisions")
    watcher = _Watcher()
    try:
        watcher.follow(first)
        for stretch in later:
            watcher.miss()
            watcher.follow(sorted(stretch, key=lambda event: event.revision))  # a listing, then changes
    except AminoError as error:
        return Verdict(NAME, False, f"could not judge: {error}")
    figures = {"changes": float(len(events)), "documents": float(watcher.documents), "ended": float(watcher.ended)}
    figures["gaps"] = float(len(later))
    if watcher.broken:
        texts = "; ".join(watcher.broken[:SHOWN_MAX])
        return Verdict(NAME, False, f"{len(watcher.broken)} times: {texts}", figures=figures)
    text = f"{watcher.documents} changes of documents and {watcher.ended} ended sessions follow the rules"
    return Verdict(NAME, True, text, figures=figures)


def _stretches(events: Sequence[KeyEvent]) -> list[list[KeyEvent]]:
    """Return the events between gaps."""
    stretches: list[list[KeyEvent]] = [[]]
    for event in events:
        if event.kind == "gap":
            stretches.append([])
        else:
            stretches[-1].append(event)
    return stretches


class _Watcher:
    def __init__(self) -> None:
        self.broken: list[str] = []
        self.documents = 0
        self.ended = 0
        self._keys = Keys("judged")
        self._alive: dict[str, int] = {}
        self._dead: set[tuple[str, int]] = set()
        self._rules = Rules(lambda server, incarnation: self._alive.get(server) == incarnation)

    def follow(self, events: Sequence[KeyEvent]) -> None:
        """Take note of changes in order."""
        for _, together in itertools.groupby(events, key=lambda event: event.revision):
            self.take(list(together))

    def miss(self) -> None:
        """Changes were missed: who lives is not known until it is told again."""
        self._alive.clear()
        self._rules.missed()

    def take(self, events: Sequence[KeyEvent]) -> None:
        """Take note of what one transaction changed."""
        for event in events:
            self._session(event, self._keys.root + event.key)
        for event in events:
            self._check(event, self._keys.root + event.key)

    def _session(self, event: KeyEvent, key: str) -> None:
        if not key.startswith(self._keys.servers_prefix):
            return
        server = self._keys.parse_server(key)
        if event.kind == "delete":
            self.ended += self._alive.pop(server, None) is not None
            return
        if (server, event.create_revision) in self._dead:
            self._find(event, 8, f"{server} holds its key as {event.create_revision}, which had been buried")
        self._alive[server] = event.create_revision

    def _check(self, event: KeyEvent, key: str) -> None:
        gone = event.kind == "delete"
        if key.startswith(self._keys.tombstones_prefix) and not gone:
            grave = self._keys.parse_tombstone(key)
            self._dead.add((grave.name, grave.incarnation))
            if self._alive.get(grave.name) == grave.incarnation:
                self._find(event, 8, f"{grave.name} was buried while it held its key")
        elif key.startswith(self._keys.groups_prefix):
            self.documents += 1
            document = None if gone else decode(event.value, GroupDocument, event.key)
            for invariant, text in self._rules.group(event.key, document):
                self._find(event, invariant, text)
        elif key.startswith(self._keys.checkpoints_prefix):
            manifest = None if gone else decode(event.value, Manifest, event.key)
            for invariant, text in self._rules.manifest(event.key, manifest):
                self._find(event, invariant, text)

    def _find(self, event: KeyEvent, invariant: int, text: str) -> None:
        self.broken.append(f"invariant {invariant} at {event.at_s:.2f} s, revision {event.revision}: {text}")
