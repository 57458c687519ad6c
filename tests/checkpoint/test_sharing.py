"""A server whose checkpoint store is a copy of the others' works without it."""

from __future__ import annotations

import shutil

import pytest

from amino.contracts.services import EventsRequest
from amino.testing import LocalCluster
from tests.waiting import until

pytestmark = pytest.mark.real
PATIENCE_S = 30.0


def test_a_copy_of_the_store_is_noticed_at_joining(tmp_path):
    """The copy has the identity but not the marker that a live server left in the true store."""
    with LocalCluster(servers=2, store=f"file://{tmp_path}/store") as cluster, cluster.connect() as client:
        shutil.copytree(tmp_path / "store", tmp_path / "copy", ignore=shutil.ignore_patterns("members"))
        cluster.add_server("s3", store=f"file://{tmp_path}/copy")
        stores = _stores(client, "s3")
        assert stores["s1"] == stores["s2"] != ""
        assert stores["s3"] == ""
        cluster.add_server("s4", store=f"file://{tmp_path}/store")
        stores = _stores(client, "s4")
        assert stores["s4"] == stores["s1"]
        until(lambda: _copies(client), PATIENCE_S, "nobody said that it is a copy")


def _copies(client):
    """Return the events that tell of a copied store."""
    events = client.registry.events(EventsRequest()).events
    return [event for event in events if event.kind == "store-not-shared" and "it is a copy" in event.text]


def _stores(client, wanted):
    """Return each server's store once the server we happen to ask has heard of ``wanted``, which serves already."""

    def heard():
        stores = {each.record.name: each.record.store_id for each in client.servers()}
        return stores if wanted in stores else None

    return until(heard, PATIENCE_S, f"no {wanted}")
