"""Estimates of how much memory an object takes."""

from __future__ import annotations

import sys

from amino.kernel.sizing import estimated_bytes
from tests.kernel.world import serving


class Holder:
    """Holds what it is given."""

    def __init__(self, content=None):
        self.content = content


def test_what_an_object_holds_is_counted_once():
    """All it refers to, however deep, and nothing twice, cycles included."""
    blob = b"x" * 100_000
    assert estimated_bytes(Holder()) < 2_000
    assert 100_000 < estimated_bytes(Holder([blob, {"again": blob}])) < 103_000
    cycle = Holder()
    cycle.content = [cycle, blob]
    assert 100_000 < estimated_bytes(cycle) < 103_000


def test_what_belongs_to_nobody_is_not_counted():
    """Classes, modules, functions and Amino's own objects lead everywhere; they are passed by."""
    own = serving(Holder(b"x" * 1_000_000))
    assert estimated_bytes(Holder([sys, Holder, serving, own, own.leave, Holder().__init__])) < 3_000


def test_the_walk_is_bounded_and_the_rest_is_estimated():
    """Of a large container some is looked at; the estimate is near what the whole takes."""
    many = Holder([bytes([index % 250]) * 1000 + str(index).encode() for index in range(20_000)])
    whole = estimated_bytes(many, looked_at_max=1_000_000)
    assert whole > 20_000_000
    assert 0.8 * whole < estimated_bytes(many, looked_at_max=1_000) < 1.2 * whole
