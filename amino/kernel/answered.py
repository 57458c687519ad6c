"""The table of answered requests: what makes a retried call run once.

Owns which requests of which clients have been answered, and with what. Leaves waiting for calls in progress to the
object, and promises about retries to deployment managers.
Invariants: a request below its stream's floor never runs (invariant 4); memory is bounded by count and bytes; the table
is part of the object's state and travels wherever that does.
Failure behaviour: where it cannot know whether a request ran, it raises ``OutcomeUnknown``; when full, ``Overloaded``.

A stream is (client, microservice of the root call); its sequence grows by one per call, and ``floor`` is the lowest one
its client has not settled, so everything below may be forgotten.
"""

from __future__ import annotations

import math
import threading
from typing import TYPE_CHECKING, NamedTuple

from amino import limits
from amino.errors import Invalid, OutcomeUnknown, Overloaded

if TYPE_CHECKING:
    from amino.contracts.calls import RequestId


_FORGET_EVERY_S = 1.0


class Answer(NamedTuple):
    """An encoded outcome: reply status, reply head, segments (bytes of their own)."""

    status: int
    head: bytes
    segments: tuple[bytes, ...]


def _size(answer: Answer) -> int:
    """Return how many bytes ``answer`` holds."""
    _, head, segments = answer
    return len(head) + sum(map(len, segments)) if segments else len(head)


class _Stream:
    __slots__ = ("answers", "contact", "floor")

    def __init__(self, floor: int, contact: float) -> None:
        self.floor = floor
        self.contact = contact
        self.answers: dict[int, dict[tuple[int, ...], tuple[int, Answer]]] = {}


class AnsweredTable:
    """Answers by request, bounded. Safe to use from several threads.

    Args:
        horizon_s: clients are forgotten so many seconds after their last contact; must exceed every deadline and retry
            time.
        entries_max: most answers kept. bytes_max: most bytes kept.
    """

    def __init__(
        self,
        horizon_s: float = limits.DEDUP_HORIZON_S,
        entries_max: int = limits.ANSWERED_PER_OBJECT_MAX,
        bytes_max: int = limits.ANSWER_BYTES_KEPT_MAX,
    ) -> None:
        self._horizon_s = horizon_s
        self._entries_max = entries_max
        self._bytes_max = bytes_max
        self._streams_max = entries_max
        self._forgot_at = -math.inf
        self._streams: dict[tuple[str, str], _Stream] = {}
        self._entries = 0
        self._bytes = 0
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"AnsweredTable({self._entries} answers of {len(self._streams)} streams, {self._bytes} bytes)"

    def __len__(self) -> int:
        return self._entries

    def admit(
        self, request: RequestId, floor: int, attempt: int, age_s: float, digest: int, now: float
    ) -> Answer | None:
        """Return the saved answer of ``request``, or None if it shall run now.

        Args:
            floor: lowest unsettled sequence as the client states it.
            attempt: how many earlier sends had an unknown outcome.
            age_s: seconds since the client first sent it.
            digest: of method and arguments; must match the answered one.
            now: monotonic seconds.

        Raises:
            OutcomeUnknown: it may have run, and its answer is forgotten.
            Invalid: the id was used for another call.
            Overloaded: the table is full of answers still wanted.
        """
        client, microservice, sequence, path = request
        with self._lock:
            stream = self._streams.get((client, microservice))
            if stream is None:
                if attempt > 0 and age_s >= self._horizon_s / 2:
                    raise OutcomeUnknown(
                        f"request {request} is a retry {age_s:.0f} s old of a client not on record; it may have run. "
                        f"Retry within {self._horizon_s / 2:.0f} s, or read the state and decide"
                    )
                if len(self._streams) >= self._streams_max:
                    self._forget(now)
                    if len(self._streams) >= self._streams_max:
                        raise Overloaded(
                            f"{len(self._streams)} clients have called within the last {self._horizon_s:.0f} s, the bound "
                            "for one microservice; retry later, or spread them over several",
                            reason="overloaded",
                        )
                stream = self._streams[request.stream] = _Stream(floor, now)
            stream.contact = now
            if floor > stream.floor:
                self._raise_floor(stream, floor)
            if sequence < stream.floor:
                raise OutcomeUnknown(
                    f"request {request} is below its client's floor {stream.floor}: it was settled or given up, and is "
                    "never run again"
                )
            paths = stream.answers.get(sequence)
            found = paths.get(path) if paths else None
            if found is not None:
                if found[0] != digest:
                    raise Invalid(
                        f"request {request} was answered for another method or other arguments; "
                        "a request id names one call for good"
                    )
                return found[1]
            if self._entries >= self._entries_max or self._bytes >= self._bytes_max:
                self._forget(now)
                if self._entries >= self._entries_max or self._bytes >= self._bytes_max:
                    raise Overloaded(
                        f"{self._entries} answers ({self._bytes} bytes) are kept for unsettled requests, the bound; "
                        "retry when clients have settled theirs",
                        reason="overloaded",
                    )
            return None

    def settle(self, request: RequestId, digest: int, answer: Answer) -> None:
        """Save the answer of a request that has run. A later floor or the horizon forgets it."""
        client, microservice, sequence, path = request
        with self._lock:
            stream = self._streams.get((client, microservice))
            if stream is None or sequence < stream.floor:
                return  # its client has settled or given it up meanwhile
            paths = stream.answers.get(sequence)
            if paths is None:
                paths = stream.answers[sequence] = {}
            if path not in paths:
                self._entries += 1
                self._bytes += _size(answer)
            paths[path] = (digest, answer)

    def _raise_floor(self, stream: _Stream, floor: int) -> None:
        answers, settled = stream.answers, stream.floor
        stream.floor = floor
        if floor - settled == 1:  # the usual case: a client that calls one after the other
            paths = answers.pop(settled, None)
            if paths is not None:
                self._drop(paths)
        elif floor - settled <= len(answers):
            for sequence in range(settled, floor):
                paths = answers.pop(sequence, None)
                if paths is not None:
                    self._drop(paths)
        else:
            for sequence in [sequence for sequence in answers if sequence < floor]:
                self._drop(answers.pop(sequence))

    def _drop(self, paths: dict[tuple[int, ...], tuple[int, Answer]]) -> None:
        self._entries -= len(paths)
        for _, answer in paths.values():
            self._bytes -= _size(answer)

    def _forget(self, now: float) -> None:
        if now - self._forgot_at < _FORGET_EVERY_S:
            return
        self._forgot_at = now
        for key, stream in list(self._streams.items()):
            if now - stream.contact > self._horizon_s:
                for paths in stream.answers.values():
                    self._drop(paths)
                del self._streams[key]

    def snapshot(self) -> list[tuple[tuple[str, str], int, list[tuple[int, tuple[int, ...], int, tuple[object, ...]]]]]:
        """Return the whole table as plain data."""
        with self._lock:
            return [
                (
                    key,
                    stream.floor,
                    [
                        (sequence, path, digest, tuple(answer))
                        for sequence, paths in stream.answers.items()
                        for path, (digest, answer) in paths.items()
                    ],
                )
                for key, stream in self._streams.items()
            ]

    def add(self, data: object, now: float) -> None:
        """Take over, from a table that ``snapshot`` returned, its floors and the answers that this one lacks."""
        for key, floor, entries in data:  # type: ignore[attr-defined]
            with self._lock:
                stream = self._streams.get(tuple(key))
                if stream is None:
                    stream = self._streams[tuple(key)] = _Stream(floor, now)
                elif floor > stream.floor:
                    self._raise_floor(stream, floor)
                for sequence, path, digest, answer in entries:
                    paths = stream.answers.setdefault(sequence, {}) if sequence >= stream.floor else None
                    if paths is not None and tuple(path) not in paths:
                        saved = Answer(*answer)
                        paths[tuple(path)] = (digest, saved)
                        self._entries += 1
                        self._bytes += _size(saved)

    def restore(self, data: object, now: float) -> None:
        """Replace the table by one that ``snapshot`` returned; contact times restart at ``now``."""
        with self._lock:
            self._streams = {}
            self._entries = self._bytes = 0
            for key, floor, entries in data:  # type: ignore[attr-defined]
                stream = self._streams[tuple(key)] = _Stream(floor, now)
                for sequence, path, digest, answer in entries:
                    saved = Answer(*answer)
                    stream.answers.setdefault(sequence, {})[tuple(path)] = (digest, saved)
                    self._entries += 1
                    self._bytes += _size(saved)
