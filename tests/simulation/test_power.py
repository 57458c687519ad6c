"""What a loss of power leaves of an operation log in a simulation."""

import random

import pytest

from amino.checkpoint import log_format
from amino.checkpoint.format import NotIntact
from amino.testing.simulation.checkpoints import SimulatedCheckpoints

SEED = log_format.seed_of("log")


def left(seed):
    """Return a log's bytes after a loss of power while its second frame was written, and those of the first."""
    store = SimulatedCheckpoints(lambda: 0.0)
    segment = store.open_segment("log")
    first = log_format.frame(SEED, 1, [b"synced"])
    segment.append(first)
    store.extend("log", log_format.frame(SEED, 2, [b"under way"]))
    store.lose_power(random.Random(seed))
    found = store.read_segment("log")
    assert found is not None
    return found[0], first


def test_what_was_synced_stays_and_nothing_else_is_read():
    """Whatever is left of a frame under way: all of it, or nothing; that it may be zeros behind a part is among it."""
    kinds = set()
    for seed in range(200):
        data, first = left(seed)
        assert data.startswith(first)
        records = log_format.read(SEED, data).records
        assert records in ([b"synced"], [b"synced", b"under way"])
        tail = data[len(first) :]
        kinds.add("zeros behind" if tail.startswith(log_format.MAGIC) and tail.endswith(b"\0") else "other")
    assert kinds == {"zeros behind", "other"}


def test_zeros_before_what_was_synced_are_damage():
    """They are not taken for a write that was cut off."""
    first, second = (log_format.frame(SEED, number, [b"x"]) for number in (1, 2))
    with pytest.raises(NotIntact):
        log_format.read(SEED, bytes(len(first)) + second)
