"""The actions for the Chaos Toolkit, run by its own library on the example experiment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chaoslib.experiment import ensure_experiment_is_valid, run_experiment

from amino.testing import LocalCluster
from tests.etcd_fixtures import an_etcd

pytestmark = [pytest.mark.real, pytest.mark.timeout(170)]
EXPERIMENT = Path(__file__).resolve().parents[2] / "examples" / "chaos" / "experiment.json"


@pytest.mark.filterwarnings("ignore")  # of the toolkit itself
def test_the_example_experiment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The example experiment is valid, and a cluster under it keeps its steady state."""
    experiment: dict[str, Any] = json.loads(EXPERIMENT.read_text(encoding="utf-8"))
    ensure_experiment_is_valid(experiment)
    with LocalCluster(servers=3, etcd_binary=an_etcd(), session_ttl_s=2) as local:
        monkeypatch.setenv("AMINO_ETCD_ENDPOINTS", local.etcd_endpoints[0])
        before = local.server("s1").incarnation
        journal = run_experiment(experiment)
        assert journal["status"] == "completed", journal["run"]
        assert not journal["deviated"]
        assert [one["status"] for one in journal["run"]] == ["succeeded", "succeeded"]
        assert local.server("s1").wait_serving(after=before) > before
