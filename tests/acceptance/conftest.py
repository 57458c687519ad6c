"""Fixtures of the acceptance tests: a cluster of their own per test, a client, an auditor, figures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import amino
from amino.testing import LocalCluster
from tests.acceptance.audit import Audit
from tests.acceptance.figures import Figures
from tests.etcd_fixtures import an_etcd

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def local(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A cluster for one test, with the options of the mark ``local`` or of the parameter."""
    options: dict[str, Any] = {"app_dirs": [ROOT], "session_ttl_s": 2, **getattr(request, "param", {})}
    with LocalCluster(etcd_binary=options.pop("etcd_binary", an_etcd()), **options) as running:
        yield running


@pytest.fixture
def client(local: LocalCluster) -> Iterator[amino.Cluster]:
    """A connection to it."""
    with local.connect() as connected:
        yield connected


@pytest.fixture
def audit(local: LocalCluster) -> Iterator[Audit]:
    """Its auditor."""
    with Audit(local) as auditor:
        yield auditor


@pytest.fixture
def figures(request: pytest.FixtureRequest) -> Figures:
    """Where figures are noted: under the module's ``ROW``."""
    return Figures(request.module.ROW)
