"""What Prometheus has of us, by the generator of the page of metrics: for the tests of whatever asks Prometheus."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from amino.telemetry import names

ROOT = Path(__file__).parents[2]


def _load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


generator = _load(ROOT / "tools" / "generate_metrics_doc.py")


def series():
    """Return the names of all series that Prometheus has of us, with the labels of each."""
    found = {}
    for name, about in names.METRICS.items():
        base = generator.prometheus_name(name, about.kind, about.unit)
        labels = {key.replace(".", "_") for key in about.attributes}
        for suffix in ("_bucket", "_sum", "_count") if about.kind == "histogram" else ("",):
            found[base + suffix] = labels
    return found
