"""Telling subscribers, and this server's own runtime, of every change of membership.

Owns the subscriptions. Leaves what membership is to the OMS.
Invariant: a server that is not in its own list tells nobody.
Failure behaviour: a subscriber that cannot be told is forgotten; it subscribes anew.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from amino.errors import NotExecuted
from amino.wire.frames import FrameKind

if TYPE_CHECKING:
    from amino.node.kernel_server import KernelServer
    from amino.rpc.port import Link

_LEADERS_TOLD_S = 0.1


class MemberPushes:
    """Tells subscribers, and this server's own runtime, of every change of membership."""

    def __init__(self, owner: KernelServer) -> None:
        self._owner = owner
        self._links: dict[Link, None] = {}
        self._encode = msgspec.msgpack.Encoder().encode
        self._due: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._owner.oms.directory.on_members(self._changed)
        self._owner.oms.directory.slots_cache.listen(lambda *_: self._soon())
        self._changed()

    def _soon(self) -> None:
        """Tell of new slot leaders, many at once: they are only hints."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_LEADERS_TOLD_S, self._changed)

    def close(self) -> None:
        if self._due is not None:
            self._due.cancel()

    def _is_listed(self) -> bool:
        """Whether this server is in its own list: if not, the list is wrong or its session is over, and nobody should be told."""
        listed = self._owner.oms.directory.lives(self._owner.name, self._owner.incarnation)
        if not listed:
            self._owner.oms.directory.servers_cache.relist_soon()
        return listed

    def subscribe(self, link: Link) -> bytes:
        if not self._is_listed():
            raise NotExecuted(f"{self._owner.name} does not know who lives; ask another", reason="not-ready")
        self._links[link] = None
        link.on_close(lambda: self._links.pop(link, None))
        return self._encode(self._owner.oms.membership())

    def _changed(self) -> None:
        self.close()
        self._due = None
        if not self._is_listed():
            return
        membership = self._owner.oms.membership()
        self._owner._addresses.update(membership)  # noqa: SLF001 - a part of its owner
        message = self._encode(membership)
        for link in list(self._links):
            if not link.push(FrameKind.PUSH, message):
                self._links.pop(link, None)
