"""The live picture: the whole at first, then what changes, and nothing that piles up."""

import asyncio

from amino.dashboard import board as module
from amino.dashboard.http import CONNECTIONS_MAX
from tests.dashboard.conftest import Looker


async def test_the_whole_comes_first(asker, cluster):
    """A watcher gets servers and all rows, and is told when they are all there."""
    cluster.fill(250)
    looker = await Looker.open(asker)
    hello = await looker.until("hello")
    assert hello == {"server": "s1", "actions": True, "total": 250}
    await looker.until("whole")
    assert set(looker.rows) == set(cluster.ids())
    assert [one["name"] for one in looker.members["servers"]] == ["s1", "s2", "s3"]
    await looker.aclose()


async def test_rows_tell_groups_and_roles(asker, cluster):
    """A sharded, replicated microservice's row has its shards, each with its replicas and who is primary."""
    cluster.fill(5)
    looker = await Looker.open(asker)
    await looker.until("whole")
    row = looker.rows[cluster.ids()[0]]
    assert (row["cls"], row["state"], row["dms"]) == (
        "shop.stock:Stock",
        "active",
        ["AtLeastOnceRPC", "DHT", "ConsensusRSM"],
    )
    assert [group["path"] for group in row["groups"]] == ["/", "/0", "/1"]
    assert [one["role"] for one in row["groups"][1]["replicas"]] == ["primary", "in-sync", "in-sync"]
    assert looker.rows[cluster.ids()[2]]["groups"][0]["replicas"][0]["role"] == "only"
    await looker.aclose()


async def test_a_move_is_seen_in_both_its_steps(asker, cluster):
    """While a move is under way its row names both places; after it the new one only."""
    cluster.fill(5)
    ms_id = cluster.ids()[2]
    looker = await Looker.open(asker)
    await looker.until("whole")
    target = next(name for name in cluster.live if name != cluster.groups(ms_id)["/"].replicas[0].server)
    cluster.begin_move(ms_id, target)
    [row] = await looker.until("rows")
    assert row["state"] == "moving"
    assert row["groups"][0]["leaving"] == "r1"
    assert [one["role"] for one in row["groups"][0]["replicas"]] == ["only", "arriving"]
    cluster.end_move(ms_id)
    [row] = await looker.until("rows")
    assert (row["state"], row["groups"][0]["epoch"]) == ("active", 2)
    assert [one["server"] for one in row["groups"][0]["replicas"]] == [target]
    while not looker.events:
        await looker.next()
    assert [event["kind"] for event in looker.events] == ["moved"]
    await looker.aclose()


async def test_a_lost_server_and_what_is_deleted(asker, cluster):
    """Members without the lost server, rows of what was recovered and ids of what is gone arrive."""
    cluster.fill(20)
    looker = await Looker.open(asker)
    await looker.until("whole")
    touched = set(cluster.fail_over("s2"))
    doomed = cluster.ids()[-1]
    cluster.put(doomed, "/", None)
    while len(looker.members["servers"]) != 2 or doomed in looker.rows:
        await looker.next()
    left = {
        one["server"] for row in looker.rows.values() for group in row["groups"] for one in group.get("replicas", ())
    }
    assert left == {"s1", "s3"}
    assert len(touched) > 1
    await looker.aclose()


async def test_changes_without_end_hold_up_nothing_else(asker, cluster):
    """While rows change faster than they can be told, as in a failover of thousands, servers and events are told too."""
    cluster.fill(20)
    looker = await Looker.open(asker)
    await looker.until("whole")

    async def change():
        epoch = 1
        while True:
            epoch += 1
            for ms_id in cluster.ids()[2::5]:
                cluster.edit(ms_id, epoch=epoch)
            await asyncio.sleep(0)

    changing = asyncio.ensure_future(change())
    await looker.until("rows")
    cluster.lose("s2")
    while len(looker.members["servers"]) != 2 or "server-lost" not in [event["kind"] for event in looker.events]:
        await looker.next()
    changing.cancel()
    await asyncio.gather(changing, return_exceptions=True)
    await looker.aclose()


async def test_a_slow_watcher_gets_the_newest_only(asker, cluster):
    """Many changes of one microservice while nobody reads cost one row, not a queue of rows."""
    cluster.fill(3)
    ms_id = cluster.ids()[2]
    looker = await Looker.open(asker)
    await looker.until("whole")
    for epoch in range(2, 1002):
        cluster.edit(ms_id, epoch=epoch)
    [row] = await looker.until("rows")
    assert row["groups"][0]["epoch"] == 1001
    await looker.aclose()


async def test_etcd_away_for_a_while(asker, cluster, monkeypatch):
    """Rows whose records cannot be read come as soon as they can."""
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    cluster.fill(3)
    cluster.away = True
    looker = await Looker.open(asker)
    await looker.until("whole")
    assert not looker.rows
    cluster.away = False
    while len(looker.rows) < 3:
        await looker.next()
    await looker.aclose()


async def test_a_change_while_a_record_is_read_is_told(asker, cluster, monkeypatch):
    """What was read of a group before the wait is not kept for what it is after it, as of one that is being made."""
    cluster.fill(3)
    ms_id = cluster.ids()[2]
    really, changes = cluster.records, [2]

    async def records(generations):
        found = await really(generations)
        for epoch in changes:
            cluster.edit(ms_id, epoch=epoch)
        changes.clear()
        return found

    monkeypatch.setattr(cluster, "records", records)
    looker = await Looker.open(asker)
    while ms_id not in looker.rows or looker.rows[ms_id]["groups"][0]["epoch"] != 2:
        await looker.next()
    await looker.aclose()


async def test_nothing_is_kept_for_nobody(dashboard, asker, cluster):
    """When the last watcher has gone, the picture is forgotten and nothing is asked any more."""
    cluster.fill(30)
    looker = await Looker.open(asker)
    await looker.until("figures")
    board = dashboard._board
    assert "30 rows" in repr(board)
    await looker.aclose()
    for number in range(1000):  # each change is an attempt to write, by which the end of the connection is noticed
        cluster.edit(cluster.ids()[2], epoch=number + 2)
        if repr(board) == "Board(0 watchers, 0 rows)":
            break
        await asyncio.sleep(0.05)
    assert repr(board) == "Board(0 watchers, 0 rows)"
    asked = cluster.calls
    cluster.edit(cluster.ids()[2], epoch=9000)
    await asyncio.sleep(0)
    assert cluster.calls == asked


async def test_watchers_are_bounded(asker, monkeypatch):
    """One watcher too many is told so; the others go on."""
    assert module.WATCHERS_MAX < CONNECTIONS_MAX
    monkeypatch.setattr(module, "WATCHERS_MAX", 2)
    lookers = [await Looker.open(asker) for _ in range(2)]
    for looker in lookers:
        await looker.until("whole")
    assert (await asker.ask("GET", "/api/stream")).status == 503
    for looker in lookers:
        await looker.aclose()
