"""The pytest plugin: fixture ``cluster``, a ``LocalCluster`` shared by the tests of a module.

Owns the fixture. Leaves everything else to ``local_cluster``, imported only when the fixture is used.
Invariant: a test session that does not use it pays nothing for the plugin.
Failure behaviour: without an etcd the tests that need a cluster are skipped, with the remedy as the reason.

A module chooses its cluster by ``amino_cluster = {"servers": 1, "session_ttl_s": 2}``: arguments of ``LocalCluster``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from amino.testing.local_cluster import LocalCluster


@pytest.fixture(scope="module")
def cluster(request: pytest.FixtureRequest) -> Iterator[LocalCluster]:
    """A running ``LocalCluster``, one per module; servers a test killed for good are started again for the next module."""
    from amino.errors import Invalid
    from amino.testing.local_cluster import LocalCluster

    options: dict[str, Any] = getattr(request.module, "amino_cluster", {})
    local = LocalCluster(**options)
    try:
        local.start()
    except Invalid as error:
        if "etcd" not in error.message:
            raise
        pytest.skip(f"no cluster: {error}")
    try:
        yield local
    finally:
        local.stop()
