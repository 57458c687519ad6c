# ruff: noqa: D102 - the three clients do what Client says
"""Repeat the main part of the comparison in ``0002-etcd-client.md`` on etcd clients that can be imported here.

For each client: does it import with the installed protobuf; get, put and lease; and what becomes of a lease and of a watch
when the member it is connected to is killed or frozen. ``python docs/decisions/etcd_client_check.py [--etcd PATH]``.
Besides aetcd and etcd3 as they come, ``amino`` is our adapter over aetcd. Prints one line per finding.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from amino.coordination.etcd import EtcdStore
from amino.coordination.store import Put
from amino.errors import AminoError
from amino.node.embedded_etcd import EmbeddedEtcd

WRITES = 60
PAUSE_S = 0.05
STRIKE_AT = 20
CALL_S = 4.0


class Client:
    """What is compared; all calls may raise whatever the client raises."""

    async def open(self, endpoints: list[str]) -> None:
        """Connect to the first endpoint, knowing the others if it can."""

    async def put(self, key: str) -> None:
        """Write a key."""

    async def get(self, key: str) -> bytes | None:
        """Read a key."""

    async def grant(self) -> Any:
        """Create a lease of 3 s."""

    async def renew(self, lease: Any) -> bool:
        """Renew it once; whether it was there."""

    async def watch(self, seen: list[str]) -> None:
        """Add the keys of events below /w/ to ``seen``, until cancelled or broken."""

    async def close(self) -> None:
        """Disconnect."""


class Amino(Client):
    """Our adapter."""

    async def open(self, endpoints: list[str]) -> None:
        self.store = await EtcdStore.open(endpoints)

    async def put(self, key: str) -> None:
        await self.store.txn([], [Put(key, b"1")])

    async def get(self, key: str) -> bytes | None:
        record = await self.store.get(key)
        return record.value if record is not None else None

    async def grant(self) -> int:
        return await self.store.grant(3)

    async def renew(self, lease: int) -> bool:
        return await self.store.keep_alive(lease) > 0

    async def watch(self, seen: list[str]) -> None:
        async for batch in self.store.watch("/w/", 1):
            seen.extend(event.record.key for event in batch.events)

    async def close(self) -> None:
        await self.store.aclose()


class Aetcd(Client):
    """aetcd as it comes."""

    async def open(self, endpoints: list[str]) -> None:
        import aetcd

        host, port = endpoints[0].split(":")
        self.client = aetcd.Client(host, int(port), timeout=2)
        await self.client.connect()

    async def put(self, key: str) -> None:
        await self.client.put(key.encode(), b"1")

    async def get(self, key: str) -> bytes | None:
        found = await self.client.get(key.encode())
        return found.value if found is not None else None

    async def grant(self) -> Any:
        return await self.client.lease(3)

    async def renew(self, lease: Any) -> bool:
        return (await lease.refresh()).TTL > 0

    async def watch(self, seen: list[str]) -> None:
        async for event in await self.client.watch_prefix(b"/w/"):
            seen.append(event.kv.key.decode())  # noqa: PERF401 - it must show what came before a break

    async def close(self) -> None:
        await self.client.close()


class Etcd3(Client):
    """etcd3, which blocks: its calls run in threads."""

    async def open(self, endpoints: list[str]) -> None:
        import etcd3

        host, port = endpoints[0].split(":")
        self.client = await asyncio.to_thread(etcd3.client, host, int(port), timeout=2)

    async def put(self, key: str) -> None:
        await asyncio.to_thread(self.client.put, key, b"1")

    async def get(self, key: str) -> bytes | None:
        return (await asyncio.to_thread(self.client.get, key))[0]

    async def grant(self) -> Any:
        return await asyncio.to_thread(self.client.lease, 3)

    async def renew(self, lease: Any) -> bool:
        return (await asyncio.to_thread(lease.refresh))[0].TTL > 0

    async def watch(self, seen: list[str]) -> None:
        events, cancel = await asyncio.to_thread(self.client.watch_prefix, "/w/")
        reader = threading.Thread(target=lambda: seen.extend(one.key.decode() for one in events), daemon=True)
        reader.start()
        try:
            while reader.is_alive():  # noqa: ASYNC110 - a thread tells a loop nothing by itself
                await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(cancel)

    async def close(self) -> None:
        await asyncio.to_thread(self.client.close)


CLIENTS: dict[str, tuple[str, Callable[[], Client]]] = {
    "amino": ("aetcd", Amino),
    "aetcd": ("aetcd", Aetcd),
    "etcd3": ("etcd3", Etcd3),
}


async def _loses_a_member(make: Callable[[], Client], binary: str | None, how: str) -> str:
    etcd = await EmbeddedEtcd.start(members=3, binary=binary)
    client, seen = make(), []
    tasks: list[asyncio.Task[Any]] = []
    try:
        await client.open(etcd.endpoints)
        lease = await client.grant()
        tasks.append(asyncio.ensure_future(client.watch(seen)))
        await asyncio.sleep(0.3)
        written, failed, renewed, longest_s = [], 0, True, 0.0
        for number in range(WRITES):
            if number == STRIKE_AT:
                await _strike(etcd, how)
            begun = time.monotonic()
            try:
                async with asyncio.timeout(CALL_S):
                    await client.put(f"/w/{number:04d}")
                    written.append(f"/w/{number:04d}")
                    renewed = await client.renew(lease)
            except Exception:  # noqa: BLE001 - whatever a client raises, it is a failed call
                failed += 1
                if failed > 5:
                    break
            longest_s = max(longest_s, time.monotonic() - begun)
            await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(1.0)
        missed = len(set(written) - set(seen))
        watch = "dead" if tasks[0].done() else "alive"
        lease_state = "kept" if renewed and failed <= 5 else "lost"
        return (
            f"{len(written)} of {WRITES} writes, {failed} failed, longest {longest_s:.1f} s; lease {lease_state}; "
            f"watch {watch}, {missed} of its events missed, {len(seen) - len(set(seen))} doubled"
        )
    finally:
        for task in tasks:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await task
        with contextlib.suppress(Exception):
            async with asyncio.timeout(CALL_S):
                await client.close()
        await etcd.aclose(at_once=True)


async def _strike(etcd: EmbeddedEtcd, how: str) -> None:
    if how == "killed":
        await etcd.kill(0)
    else:
        etcd.freeze(0)


async def _basics(make: Callable[[], Client], binary: str | None) -> str:
    etcd = await EmbeddedEtcd.start(binary=binary)
    client = make()
    try:
        await client.open(etcd.endpoints)
        begun = time.monotonic()
        for number in range(200):
            await client.put(f"/b/{number}")
        rate = 200 / (time.monotonic() - begun)
        value, lease = await client.get("/b/7"), await client.grant()
        return f"get {'ok' if value == b'1' else 'wrong'}, put {rate:.0f}/s, lease {await client.renew(lease)}"
    finally:
        with contextlib.suppress(Exception):
            await client.close()
        await etcd.aclose(at_once=True)


async def _check(name: str, binary: str | None) -> None:
    package, make = CLIENTS[name]
    try:
        __import__(package)
    except Exception as error:  # noqa: BLE001 - the finding is which error it is
        print(
            f"{name:6} import    fails with protobuf {version('protobuf')}: {type(error).__name__}: {str(error)[:90]}"
        )
        return
    print(f"{name:6} import    works with protobuf {version('protobuf')} ({package} {_version(package)})")
    print(f"{name:6} basics    {await _basics(make, binary)}")
    for how in ("killed", "frozen"):
        try:
            print(f"{name:6} {how:9} {await _loses_a_member(make, binary, how)}")
        except (AminoError, OSError, RuntimeError) as error:
            print(f"{name:6} {how:9} {type(error).__name__}: {error}")


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "?"


async def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--etcd", help="etcd program; default as the development cluster finds it")
    parser.add_argument("clients", nargs="*", default=list(CLIENTS), help=", ".join(CLIENTS))
    options = parser.parse_args()
    for name in options.clients:
        await _check(name, options.etcd)


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
