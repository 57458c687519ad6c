"""Who has fallen silent: judged from the beats of all servers as one of them sees them with each of its own.

Owns the arithmetic. Leaves reading beats and ending sessions to ``session.SessionHolder``.
Invariants: a server counts as silent only after its own session has run out: its ``ttl_s`` have passed since we first saw
its latest beat, which was sent before that. Time counts only while our own beats went through, each within half a TTL of
the one before: when etcd paused, or we did, everybody starts anew.
Failure behaviour: whatever is in doubt delays the verdict; who acts on it compares the beat's revision, so that a beat
which came meanwhile wins.
Times are seconds of ``Clock.boottime``. The rule is that of a lease (Gray and Cheriton, 1989) whose holder and whose
grantor measure durations only, each on a clock of its own; the holder's ends ``margin_s`` earlier.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf

import msgspec


class BeatRecord(msgspec.Struct, frozen=True):
    """Value of ``beats/<name>``."""

    ttl_s: float
    format: int = 1


def encode_beat(ttl_s: float) -> bytes:
    """Return the value of the beats of a session of ``ttl_s`` seconds."""
    return msgspec.msgpack.encode(BeatRecord(ttl_s))


def decode_beat(value: bytes) -> float | None:
    """Return the ``ttl_s`` of a beat; None if this release cannot read it, and so must not judge its sender."""
    try:
        return msgspec.msgpack.decode(value, type=BeatRecord).ttl_s
    except msgspec.MsgspecError:
        return None


@dataclass(frozen=True, slots=True)
class Beat:
    """The latest beat of a server: ``revision`` changes with each, ``ttl_s`` is its session's."""

    name: str
    revision: int
    ttl_s: float


@dataclass(frozen=True, slots=True)
class Heard:
    """A beat, and when we first saw it."""

    beat: Beat
    at: float

    @property
    def silent_at(self) -> float:
        """When its sender counts as silent unless it beats again."""
        return self.at + self.beat.ttl_s


@dataclass(frozen=True, slots=True)
class Peers:
    """What is known of the other servers' beats since ``looked_at``, without a gap before it."""

    looked_at: float = -inf
    heard: Mapping[str, Heard] = field(default_factory=dict)

    def silent(self) -> list[Beat]:
        """Return the latest beats of those that are silent."""
        return [each.beat for each in self.heard.values() if each.silent_at <= self.looked_at]

    def next_silence(self) -> float:
        """Return when the next of those that are not silent will be, if it does not beat again."""
        return min((each.silent_at for each in self.heard.values() if each.silent_at > self.looked_at), default=inf)


def look(peers: Peers, beats: Iterable[Beat], sent_at: float, now: float, gap_s_max: float) -> Peers:
    """Return what is known after reading ``beats`` together with a beat of our own.

    Args:
        beats: of all others. sent_at: when that beat of ours was sent. now: when it was answered.
        gap_s_max: how far ``sent_at`` may lie from the previous look, and ``now`` from it.
    """
    attentive = now - peers.looked_at <= gap_s_max and now - sent_at <= gap_s_max
    before: Mapping[str, Heard] = peers.heard if attentive else {}
    heard = {}
    for beat in beats:
        known = before.get(beat.name)
        heard[beat.name] = known if known is not None and known.beat == beat else Heard(beat, now)
    return Peers(now, heard)
