"""What every coordination store must do: one suite for all adapters, ours and those of third parties.

Owns the cases. Leaves making stores, loops and time to the caller, who runs each case on a fresh environment.
Invariants: a case touches only keys under its own prefix, and waits only through the running loop.
Failure behaviour: a broken promise is an ``AssertionError`` that names it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar

from amino.coordination.store import (
    OPERATIONS_MAX,
    Compacted,
    Compare,
    Delete,
    Event,
    EventKind,
    Field,
    Get,
    Operation,
    Put,
    Record,
    Store,
    absent,
    created_at,
    not_created_at,
    unchanged,
)
from amino.errors import Conflict, CoordinationUnavailable, Invalid

E = TypeVar("E", bound=BaseException)
WAIT_S = 15.0


@dataclass(frozen=True, slots=True)
class Environment:
    """What a case works on.

    Args:
        store: the store under test.
        open_other: opens another client of the same data; the case closes it.
        prefix: where the case's keys go; ends with ``/``.
    """

    store: Store
    open_other: Callable[[], Awaitable[Store]]
    prefix: str

    def key(self, name: str) -> str:
        """Return a key of this case."""
        return self.prefix + name

    async def put(self, name: str, value: bytes, lease: int = 0) -> int:
        """Write a key unguarded; return the revision."""
        return (await self.store.txn([], [Put(self.key(name), value, lease)])).revision


Case = Callable[[Environment], Awaitable[None]]


async def reads_what_was_written(env: Environment) -> None:
    """A record carries its value and revisions; an absent key is None."""
    assert await env.store.get(env.key("a")) is None
    revision = await env.put("a", b"\x00\xff")
    assert await env.store.get(env.key("a")) == Record(env.key("a"), b"\x00\xff", revision, revision, 0)
    later = await env.put("a", b"")
    assert later == revision + 1
    assert await env.store.get(env.key("a")) == Record(env.key("a"), b"", revision, later, 0)


async def lists_in_order_at_one_revision(env: Environment) -> None:
    """A list holds exactly the keys of the prefix, sorted, with the store's revision; it pages internally."""
    names = [f"list/{number:04d}" for number in range(1200)]
    for first in range(0, len(names), 100):
        await env.store.txn([], [Put(env.key(name), name.encode()) for name in names[first : first + 100]])
    last = await env.put("listing", b"beside the prefix")
    records, revision = await env.store.list(env.key("list/"))
    assert [record.key for record in records] == [env.key(name) for name in names]
    assert [record.value for record in records] == [name.encode() for name in names]
    assert revision >= last
    assert await env.store.list(env.key("none/")) == ([], revision)


async def keys_need_not_be_ascii(env: Environment) -> None:
    """Keys survive the way to the store and back."""
    await env.put("ünï/ключ", b"1")
    records, _ = await env.store.list(env.key("ü"))
    assert [record.key for record in records] == [env.key("ünï/ключ")]


async def compares_decide(env: Environment) -> None:
    """Each compare holds exactly when it says so, for present and absent keys."""
    created = await env.put("a", b"1")
    changed = await env.put("a", b"2")
    here, gone = env.key("a"), env.key("gone")
    expectations: list[tuple[Compare, bool]] = [
        (absent(gone), True),
        (absent(here), False),
        (created_at(here, created), True),
        (created_at(here, changed), False),
        (created_at(gone, created), False),
        (unchanged(here, changed), True),
        (unchanged(here, created), False),
        (unchanged(gone, 0), True),
        (not_created_at(here, created), False),
        (not_created_at(here, changed), True),
        (not_created_at(gone, created), True),
        (Compare(here, Field.VALUE, b"2"), True),
        (Compare(here, Field.VALUE, b"1"), False),
        (Compare(gone, Field.VALUE, b""), False),
    ]
    for compare, holds in expectations:
        result = await env.store.txn([compare], [Get(here)], [Get(gone), Get(here)])
        assert result.succeeded is holds, f"{compare} should be {holds}"
        assert len(result.reads) == (1 if holds else 2)


async def a_recreated_key_is_another_creation(env: Environment) -> None:
    """After deletion and creation, guards of the former creation fail."""
    first = await env.put("a", b"1")
    await env.store.txn([], [Delete(env.key("a"))])
    await env.put("a", b"1")
    assert not (await env.store.txn([created_at(env.key("a"), first)], [])).succeeded
    assert (await env.store.txn([not_created_at(env.key("a"), first)], [])).succeeded


async def a_transaction_is_all_or_nothing(env: Environment) -> None:
    """All operations of the branch are done at one revision, reads seeing the writes before them."""
    await env.put("old/1", b"1")
    await env.put("old/2", b"2")
    result = await env.store.txn(
        [absent(env.key("new"))],
        [Put(env.key("new"), b"n"), Delete(env.key("old/"), prefix=True), Get(env.prefix, prefix=True)],
    )
    assert result.succeeded
    assert [record.key for record in result.reads[0]] == [env.key("new")]
    assert result.reads[0][0].mod_revision == result.revision
    failed = await env.store.txn([absent(env.key("new"))], [Put(env.key("other"), b"")], [Get(env.key("new"))])
    assert not failed.succeeded
    assert failed.reads == (result.reads[0],)
    assert await env.store.get(env.key("other")) is None
    assert failed.revision == result.revision, "a transaction that writes nothing makes no revision"


async def deleting_nothing_changes_nothing(env: Environment) -> None:
    """Deleting what does not exist is no error and makes no revision."""
    revision = await env.put("a", b"1")
    result = await env.store.txn([], [Delete(env.key("x")), Delete(env.key("y/"), prefix=True)])
    assert (result.succeeded, result.revision) == (True, revision)


async def only_one_of_many_wins(env: Environment) -> None:
    """Concurrent claims of one key: exactly one succeeds."""
    claims = [env.store.txn([absent(env.key("a"))], [Put(env.key("a"), str(n).encode())]) for n in range(20)]
    results = await asyncio.gather(*claims)
    winners = [number for number, result in enumerate(results) if result.succeeded]
    assert len(winners) == 1
    record = await env.store.get(env.key("a"))
    assert record is not None
    assert record.value == str(winners[0]).encode()


async def refuses_what_breaks_the_rules(env: Environment) -> None:
    """Too many operations, double writes, short leases and impossible watches are Invalid, with nothing done."""
    one_too_many = [Put(env.key(str(n)), b"") for n in range(OPERATIONS_MAX + 1)]
    twice = [Put(env.key("a"), b"1"), Put(env.key("a"), b"2")]
    written_and_deleted: list[Operation] = [Put(env.key("a"), b"1"), Delete(env.prefix, prefix=True)]
    refused: list[Sequence[Operation]] = [one_too_many, twice, written_and_deleted]
    for operations in refused:
        for branches in ((operations, ()), ((), operations)):
            await _raises(Invalid, env.store.txn([], *branches))
    await _raises(Invalid, env.store.txn([absent(env.key("a"))] * (OPERATIONS_MAX + 1), []))
    await _raises(Invalid, env.store.txn([Compare(env.key("a"), Field.VALUE, 1)], []))
    await _raises(Invalid, env.store.grant(1))
    try:
        env.store.watch(env.prefix, 0)
    except Invalid:
        pass
    else:
        raise AssertionError("a watch from revision 0 must be refused")
    assert await env.store.list(env.prefix) == ([], (await env.store.list(env.prefix))[1])
    await env.store.txn([], one_too_many[:-1])


async def a_lease_takes_its_keys_along(env: Environment) -> None:
    """Revoking deletes the lease's keys; keepalive of what does not exist says 0; revoking twice is no error."""
    lease = await env.store.grant(5)
    await env.put("leased", b"1", lease)
    kept = await env.put("kept", b"1")
    record = await env.store.get(env.key("leased"))
    assert record is not None
    assert record.lease == lease
    assert await env.store.keep_alive(lease) in (4, 5)
    await env.store.revoke(lease)
    await env.store.revoke(lease)
    assert await env.store.get(env.key("leased")) is None
    assert await env.store.keep_alive(lease) == 0
    assert await env.store.get(env.key("kept")) == Record(env.key("kept"), b"1", kept, kept, 0)


async def a_key_leaves_its_lease_when_rewritten(env: Environment) -> None:
    """Writing a key without its lease detaches it."""
    lease = await env.store.grant(5)
    await env.put("a", b"1", lease)
    await env.put("a", b"2")
    await env.store.revoke(lease)
    record = await env.store.get(env.key("a"))
    assert record is not None
    assert (record.value, record.lease) == (b"2", 0)


async def a_gone_lease_is_a_conflict(env: Environment) -> None:
    """Writing under a lease that does not exist does nothing at all."""
    lease = await env.store.grant(2)
    await env.store.revoke(lease)
    await _raises(Conflict, env.store.txn([], [Put(env.key("a"), b"1"), Put(env.key("b"), b"1", lease)]))
    assert await env.store.get(env.key("a")) is None


async def a_lease_ends_by_itself(env: Environment) -> None:
    """Without keepalives a lease ends after its time, not before, and watches are told."""
    loop = asyncio.get_running_loop()
    lease = await env.store.grant(2)
    granted = loop.time()
    revision = await env.put("a", b"1", lease)
    events = await _collect(env.store, env.prefix, revision + 1, 1)
    assert loop.time() - granted >= 1.9
    assert [(event.kind, event.record.key) for event in events] == [(EventKind.DELETE, env.key("a"))]


async def a_watch_tells_all_in_order(env: Environment) -> None:
    """History and what comes later arrive once each, in order, deletions with their revision and no value."""
    first = await env.put("a", b"1")
    await env.put("b", b"2")
    task = asyncio.ensure_future(_collect(env.store, env.prefix, first, 5))
    await asyncio.sleep(0)
    await env.put("a", b"3")
    deleted = await env.store.txn([], [Delete(env.key("b")), Put(env.key("c"), b"4")])
    events = await task
    assert [(event.kind, event.record.key, event.record.value) for event in events] == [
        (EventKind.PUT, env.key("a"), b"1"),
        (EventKind.PUT, env.key("b"), b"2"),
        (EventKind.PUT, env.key("a"), b"3"),
        (EventKind.DELETE, env.key("b"), b""),
        (EventKind.PUT, env.key("c"), b"4"),
    ]
    assert [event.record.mod_revision for event in events[3:]] == [deleted.revision] * 2
    assert events[2].record.create_revision == first


async def a_watch_tells_only_its_prefix(env: Environment) -> None:
    """Changes beside the prefix are not delivered."""
    revision = await env.put("x/1", b"")
    await env.put("xy", b"")
    await env.put("w", b"")
    await env.put("x/2", b"")
    events = await _collect(env.store, env.key("x/"), revision, 2)
    assert [event.record.key for event in events] == [env.key("x/1"), env.key("x/2")]


async def a_quiet_watch_shows_life(env: Environment) -> None:
    """Progress batches come every few seconds, and their revision never exceeds what was delivered or exists."""
    revision = await env.put("a", b"")
    async with aclosing(_as_generator(env.store.watch(env.prefix, revision + 1))) as batches:
        async with asyncio.timeout(WAIT_S):
            batch = await anext(batches)
        assert batch.events == ()
        assert batch.revision >= revision
        last = await env.put("a", b"2")
        while not batch.events:
            async with asyncio.timeout(WAIT_S):
                batch = await anext(batches)
        assert [event.record.mod_revision for event in batch.events] == [last]
        assert batch.revision >= last


async def many_watches_at_once(env: Environment) -> None:
    """Watches do not disturb each other, and other clients see the same."""
    other = await env.open_other()
    try:
        revision = await env.put("a", b"")
        tasks = [
            asyncio.ensure_future(_collect(store, env.prefix, revision + 1, 50))
            for store in (env.store, other)
            for _ in range(5)
        ]
        for number in range(50):
            await env.put("a", str(number).encode())
        for task in tasks:
            events = await task
            assert [event.record.value for event in events] == [str(number).encode() for number in range(50)]
    finally:
        await other.aclose()


async def a_compacted_start_is_said(env: Environment) -> None:
    """A watch from a revision that is compacted away raises Compacted with the revision to list from."""
    first = await env.put("a", b"1")
    for number in range(5):
        last = await env.put("a", str(number).encode())
    compact: Any = getattr(env.store, "compact", None)
    if compact is None:
        return
    await compact(last)
    compacted = await _raises(Compacted, _collect(env.store, env.prefix, first, 1))
    assert first < compacted.revision <= last


async def cancelling_leaves_the_store_usable(env: Environment) -> None:
    """A cancelled call or watch abandons the wait and nothing else."""
    revision = await env.put("a", b"")
    tasks = [
        asyncio.ensure_future(env.store.get(env.key("a"))),
        asyncio.ensure_future(_collect(env.store, env.prefix, revision + 1, 1)),
    ]
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    assert all(task.cancelled() for task in tasks)
    assert (await env.store.get(env.key("a"))) is not None


async def a_closed_store_says_so(env: Environment) -> None:
    """After aclose, which can be repeated, calls fail instead of hanging."""
    other = await env.open_other()
    await other.get(env.key("a"))
    await other.aclose()
    await other.aclose()
    await _raises(CoordinationUnavailable, other.get(env.key("a")))


STORE_CASES: tuple[Case, ...] = (
    reads_what_was_written,
    lists_in_order_at_one_revision,
    keys_need_not_be_ascii,
    compares_decide,
    a_recreated_key_is_another_creation,
    a_transaction_is_all_or_nothing,
    deleting_nothing_changes_nothing,
    only_one_of_many_wins,
    refuses_what_breaks_the_rules,
    a_lease_takes_its_keys_along,
    a_key_leaves_its_lease_when_rewritten,
    a_gone_lease_is_a_conflict,
    a_lease_ends_by_itself,
    a_watch_tells_all_in_order,
    a_watch_tells_only_its_prefix,
    a_quiet_watch_shows_life,
    many_watches_at_once,
    a_compacted_start_is_said,
    cancelling_leaves_the_store_usable,
    a_closed_store_says_so,
)


async def _collect(store: Store, prefix: str, start_revision: int, count: int) -> list[Event]:
    events: list[Event] = []
    async with asyncio.timeout(WAIT_S), aclosing(_as_generator(store.watch(prefix, start_revision))) as batches:
        while len(events) < count:
            batch = await anext(batches)
            events.extend(batch.events)
    return events


def _as_generator(iterator: Any) -> Any:
    """Return the iterator as what it is in both adapters: something with ``aclose``."""
    return iterator


async def _raises(kind: type[E], awaitable: Awaitable[object]) -> E:
    try:
        await awaitable
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} expected")
