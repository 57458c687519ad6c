"""An etcd that was emptied behind the same addresses is another one: nothing it says is believed, and that is told."""

from __future__ import annotations

import pytest

from amino.aio.clock import RealClock
from amino.coordination.etcd import EtcdStore
from amino.coordination.store import Put
from amino.errors import CoordinationUnavailable
from amino.node.embedded_etcd import EmbeddedEtcd

pytestmark = pytest.mark.real


@pytest.mark.keeps("etcd runs as another process after it")
async def test_an_emptied_etcd_is_told_from_ours(etcd_one: EmbeddedEtcd) -> None:
    """All its answers are refused; a store that is opened anew takes it for what it is."""
    store = await EtcdStore.open(etcd_one.endpoints, request_timeout_s=1.0, clock=RealClock())
    for number in range(20):
        await store.txn([], [Put("/key", b"%d" % number)])
    assert store.foreign(0.0) == ""
    await etcd_one.lose()
    with pytest.raises(CoordinationUnavailable):
        await store.get("/key")
    assert "behind" in store.foreign(0.0)
    assert store.foreign(3600.0) == ""
    fresh = await EtcdStore.open(etcd_one.endpoints, clock=RealClock())
    assert await fresh.get("/key") is None
    assert fresh.foreign(0.0) == ""
    for number in range(40):  # one that has come as far as ours was cannot be told from it any more
        await fresh.txn([], [Put("/key", b"%d" % number)])
    record = await store.get("/key")
    assert record is not None
    assert store.foreign(0.0) == ""
    await fresh.aclose()
    await store.aclose()
