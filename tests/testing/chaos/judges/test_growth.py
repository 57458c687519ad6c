"""The judge of leaks."""

from __future__ import annotations

from amino.testing.chaos.judges.growth import leaks
from amino.testing.chaos.record import Sample

MIB = 2**20


def run(**figures):
    """Return fifty samples; each figure is a function of the sample's number."""
    return [
        Sample(float(number), {name.replace("_", " "): float(of(number)) for name, of in figures.items()})
        for number in range(50)
    ]


def test_what_stays_or_swings_is_no_leak():
    """Flat figures, warm-up, and processes that start again small and grow to the same size are fine."""
    verdict = leaks(
        run(
            etcd_keys=lambda number: 100 + number % 7,
            s1_memory_bytes=lambda number: (90 if number > 4 else 20) * MIB + number % 10 * MIB,
            s1_descriptors=lambda number: 60 if number % 10 else 20,
        )
    )
    assert verdict.ok, verdict
    assert "etcd keys: grown" in verdict.figures


def test_leaks_are_caught_by_name():
    """Whatever grows for the whole run is named with its sizes."""
    for name, of in {
        "s1_memory_bytes": lambda number: (100 + 3 * number) * MIB,
        "etcd_keys": lambda number: 100 + 4 * number,
        "s2_descriptors": lambda number: 40 + 2 * number,
        "s2_objects": lambda number: number,
    }.items():
        verdict = leaks(run(**{name: of}))
        assert not verdict.ok
        assert name.replace("_", " ") in verdict.text


def test_a_history_that_fills_up_is_no_leak():
    """Events are kept up to a bound, which a long run reaches; beyond it they are a leak as anything else."""
    assert leaks(run(etcd_events=lambda number: min(1000, 40 * number))).ok
    assert "etcd events" in leaks(run(etcd_events=lambda number: 60 * number)).text


def test_too_few_samples_are_no_pass():
    """Nothing is proved by a moment, nor by samples that do not go on."""
    assert leaks(run(etcd_keys=lambda _: 1)[:5]).text.startswith("could not judge")
    only_first = [Sample(float(number), {"etcd keys": 1.0} if number < 10 else {}) for number in range(50)]
    assert leaks(only_first).text.startswith("could not judge")
