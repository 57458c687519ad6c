"""What a kernel server shows of itself from time to time."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

from amino.node.gauges import Gauges, Memory
from amino.telemetry import names
from tests.kernel.world import serving


class Thing:
    """Holds some bytes."""

    def __init__(self, size):
        self.content = b"x" * size


class Host:
    """Implements what gauges ask of ``kernel.host.Host``."""

    def __init__(self, *pairs):
        self.pairs = list(pairs)

    def __len__(self):
        return len(self.pairs)

    def objects(self):
        """Return the objects."""
        return [target for target, _ in self.pairs]

    def with_contexts(self):
        """Return objects and contexts."""
        return self.pairs


class Watched:
    """Keeps the readings of gauges."""

    def __init__(self):
        self.readings = {}

    def watch(self, name, read):
        """Keep it until the end."""
        self.readings[name] = read
        return lambda: self.readings.pop(name)

    def values(self, name):
        """Return the values by what tells them apart from others of the server."""
        shown = {}
        for labels, value in self.readings[name]():
            assert labels.get(names.SERVER) == "s1"
            assert set(labels) == set(names.METRICS[name].attributes)
            shown[next((each for key, each in labels.items() if key != names.SERVER), "")] = value
        return shown


def replica(name, size=10, *, lag=None, in_sync=0, wanted=0, checkpoint_at=0.0):
    target = serving(Thing(size), microservice=name)
    target.chain = SimpleNamespace(replication_lag=lambda: lag)
    document = SimpleNamespace(in_sync=("r",) * in_sync, wanted=wanted) if wanted else None
    return target, SimpleNamespace(primary_of=document, checkpoint_at=checkpoint_at)


def owner_of(host):
    return SimpleNamespace(
        name="s1",
        host=host,
        led=frozenset(range(20)),
        busy_threads=3,
        session=SimpleNamespace(remaining_s=lambda: 2.5),
        dispatcher=SimpleNamespace(in_flight=7),
        oms=SimpleNamespace(reconciler=SimpleNamespace(work=[1, 2]), events=[1]),
    )


def test_every_gauge_has_its_attributes_and_can_be_ended():
    """All gauges of a server are shown, with the attributes that the table says, and taken away again."""
    host = Host(
        replica("m1", lag=5, in_sync=2, wanted=3),
        replica("m2", lag=0, in_sync=3, wanted=3, checkpoint_at=1.0),
        replica("m3", size=100_000),
    )
    watched = Watched()
    gauges = Gauges(owner_of(host), watched)
    gauges.show()
    process_wide = {names.PROCESS_MEMORY}
    assert (
        watched.readings.keys()
        == {name for name, about in names.METRICS.items() if about.kind == "gauge"} - process_wide
    )
    assert watched.values(names.SESSION_VALIDITY) == {"": 2.5}
    assert watched.values(names.IN_FLIGHT) == {"": 7.0}
    assert watched.values(names.SLOTS_LED) == {"": 20.0}
    assert watched.values(names.MICROSERVICES) == {"": 3.0}
    assert 0.0 <= watched.values(names.MEMORY_AVAILABLE)[""] <= 1.0
    assert watched.values(names.QUEUE_DEPTH) == {"threads": 3.0, "reconciler": 2.0, "events": 1.0}
    assert watched.values(names.REPLICATION_LAG) == {"m1": 5.0, "m2": 0.0}
    assert watched.values(names.IN_SYNC) == {"m1": 2.0, "m2": 3.0}
    assert watched.values(names.WANTED) == {"m1": 3.0, "m2": 3.0}
    assert list(watched.values(names.CHECKPOINT_AGE)) == ["m2"]
    assert watched.values(names.ETCD_SIZE) == {}
    gauges.hide()
    gauges.hide()
    assert watched.readings == {}


def test_the_most_notable_are_shown(monkeypatch):
    """Of very many microservices the slowest, the smallest groups and the oldest checkpoints have a value, worst first."""
    monkeypatch.setattr("amino.node.gauges.SHOWN_MAX", 2)
    host = Host(*(replica(f"m{n}", lag=n, in_sync=n, wanted=9, checkpoint_at=1.0 + n) for n in range(1, 6)))
    watched = Watched()
    Gauges(owner_of(host), watched).show()
    assert list(watched.values(names.REPLICATION_LAG)) == ["m5", "m4"]
    assert list(watched.values(names.IN_SYNC)) == list(watched.values(names.WANTED)) == ["m1", "m2"]
    assert list(watched.values(names.CHECKPOINT_AGE)) == ["m1", "m2"]


def test_memory_is_estimated_a_few_objects_at_a_time():
    """Each look goes on where the last one stopped, forgets what has left, and shows the largest first."""
    host = Host(replica("small"), replica("large", 200_000), replica("middle", 50_000))
    memory = Memory(host, now=iter(range(1000)).__next__)  # each question takes a second, more than there is
    looks = [set(memory.look(0.5)) for _ in range(3)]
    assert [len(look) for look in looks] == [1, 2, 3]
    assert list(memory.look(0.5)) == ["large", "middle", "small"]
    assert memory.look(0.5)["large"] > 200_000
    del host.pairs[1]
    assert set(memory.look(0.5)) == {"small", "middle"}
    assert Memory(Host()).look(0.5) == {}


async def test_the_size_of_etcd_is_asked_for_where_there_is_one():
    """A store that knows the size of its database is asked at once; one that does not is left alone."""

    class Sized:
        async def size(self):
            """Return it."""
            return "etcd1:2379", 4096

    watched = Watched()
    gauges = Gauges(owner_of(Host()), watched)
    gauges.show()
    await gauges.look_at_etcd(object())
    asking = asyncio.ensure_future(gauges.look_at_etcd(Sized()))
    await asyncio.sleep(0)
    assert watched.values(names.ETCD_SIZE) == {"etcd1:2379": 4096.0}
    asking.cancel()
    await asyncio.wait([asking])
