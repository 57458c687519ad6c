"""Who counts as silent: never before its session has run out, and only by who was attentive all the while."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from amino.coordination.silence import Beat, Peers, decode_beat, encode_beat, look

GAP_S = 1.5


def looks(*seen: tuple[float, list[Beat]]) -> Peers:
    peers = Peers()
    for now, beats in seen:
        peers = look(peers, beats, now - 0.01, now, GAP_S)
    return peers


def test_a_peer_is_silent_after_its_own_ttl():
    """Counted from when its latest beat was first seen."""
    beats = [Beat("slow", 5, 3.0), Beat("quick", 6, 2.0)]
    times = [10.0, 11.0, 12.0, 12.9]
    peers = looks(*((now, beats) for now in times))
    assert [each.name for each in peers.silent()] == ["quick"]
    assert peers.next_silence() == 13.0
    peers = look(peers, beats, 13.0, 13.1, GAP_S)
    assert [each.name for each in peers.silent()] == ["slow", "quick"]
    assert peers.next_silence() == inf


def test_a_new_beat_starts_the_count_anew():
    """Its revision changes with each beat, also when nothing else does."""
    peers = looks(*((10.0 + number, [Beat("peer", number, 2.0)]) for number in range(20)))
    assert peers.silent() == []


def test_a_gap_in_our_own_beats_starts_all_counts_anew():
    """Who paused, or whose etcd did, knows nothing of others meanwhile."""
    beats = [Beat("peer", 5, 2.0)]
    assert looks((10.0, beats), (11.0, beats), (12.6, beats), (13.0, beats)).silent() == []
    late_answer = look(looks((10.0, beats), (11.0, beats)), beats, 10.9, 12.5, GAP_S)
    assert late_answer.silent() == []


def test_a_beat_of_a_later_release_is_not_judged():
    """What cannot be read is nobody's silence."""
    assert decode_beat(encode_beat(2.5)) == 2.5
    assert decode_beat(b"something else") is None


@given(st.lists(st.tuples(st.floats(0.01, 3.0), st.booleans()), max_size=40), st.integers(2, 10))
def test_nobody_is_silent_before_its_session_has_run_out(course, ttl_s):
    """Whatever the course of beats and looks: a verdict comes ttl after the beat was sent, or later."""
    now, revision, sent_at, peers = 0.0, 1, 0.0, Peers()
    for pause_s, beats in course:
        now += pause_s
        if beats:
            revision, sent_at = revision + 1, now
        peers = look(peers, [Beat("peer", revision, ttl_s)], now, now, GAP_S)
        for each in peers.silent():
            assert each.revision == revision
            assert now - sent_at >= ttl_s
