"""A client's view of membership, kept fresh by subscriptions at two kernel servers.

Owns choosing whom to follow and following another when one ends. Leaves what membership means to ``stubs.addresses`` and
the loop to its owner.
Invariants: at most two subscriptions, never two at one server.
Failure behaviour: servers that do not answer are passed over; ``run`` goes on until it is cancelled.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import msgspec

from amino.contracts.services import Membership
from amino.errors import AminoError
from amino.rpc.system import system_head
from amino.wire.frames import FrameKind

if TYPE_CHECKING:
    from amino.rpc.port import Transport
    from amino.stubs.addresses import AddressBook

_RETRY_S = 0.1
_FOLLOWED_MAX = 2
"""Two, so that the loss of one is learnt from the other: a frozen server says nothing of its own."""
_ANOTHER_S = 1.0
_decode_membership = msgspec.msgpack.Decoder(Membership).decode


class Following:
    """Follows membership through any two servers."""

    def __init__(self, transport: Transport, addresses: AddressBook) -> None:
        self._transport = transport
        self._addresses = addresses
        self._followed: set[str] = set()

    def __repr__(self) -> str:
        return f"Following({', '.join(sorted(self._followed))})"

    async def run(self) -> None:
        """Follow until cancelled; on a loop."""
        await asyncio.gather(*(self._keep_one() for _ in range(_FOLLOWED_MAX)))

    async def _keep_one(self) -> None:
        while True:
            others = [address for address in self._addresses.candidates() if address not in self._followed]
            for address in others:
                if address in self._followed:
                    continue
                self._followed.add(address)
                try:
                    await self._follow_at(address)
                except AminoError:
                    continue
                finally:
                    self._followed.discard(address)
            await asyncio.sleep(_RETRY_S if others else _ANOTHER_S)

    async def _follow_at(self, address: str) -> None:
        ended = asyncio.Event()
        subscription = await self._transport.subscribe(
            address, FrameKind.SYSTEM, system_head("subscribe", "membership"), self._pushed, ended.set
        )
        try:
            if subscription.reply.status == 0:
                self._addresses.update(_decode_membership(subscription.reply.segments[0]))
                await ended.wait()
        finally:
            await subscription.aclose()

    def _pushed(self, _kind: int, message: bytes) -> None:
        with contextlib.suppress(msgspec.MsgspecError):  # of a newer release; the next look-up tells what matters
            self._addresses.update(_decode_membership(message))
