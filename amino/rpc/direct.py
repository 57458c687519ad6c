"""A second way into a link's socket, for threads that are not its event loop's.

Owns sending a small frame at once from a worker thread: waking the loop, to have it send, costs more than the frame. Leaves
everything else to the transport.
Invariants: bytes of a frame stay together and frames stay in order, because nothing is sent here while the transport, or the
rest of an earlier frame, has bytes waiting; the socket is a duplicate, so closing the transport never leaves a foreign one here.
Failure behaviour: what cannot be sent now is refused, for the loop to send; a broken connection is the transport's to notice.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Sequence

    from amino.wire.frames import Buffer

_AT_ONCE = getattr(socket, "MSG_DONTWAIT", 0)


class DirectSocket:
    """Shares a transport's connection. ``send`` is for any thread, the rest for the loop's.

    Raises:
        OSError: no descriptor is left. NotImplementedError: this kind of connection cannot be shared.
    """

    __slots__ = ("_lock", "_loop", "_opened", "_rest", "_transport", "sent_bytes", "sent_frames")

    def __init__(self, loop: asyncio.AbstractEventLoop, transport: asyncio.Transport) -> None:
        original: Any = transport.get_extra_info("socket")
        if original is None or transport.get_extra_info("ssl_object") is not None or not _AT_ONCE:
            raise NotImplementedError("only plain sockets of POSIX systems can be shared")
        self._loop = loop
        self._transport = transport
        self._lock = threading.Lock()
        self._rest: memoryview | None = None
        self.sent_frames = 0
        self.sent_bytes = 0
        self._opened: socket.socket | None = socket.socket(
            original.family, socket.SOCK_STREAM, fileno=os.dup(original.fileno())
        )

    def __repr__(self) -> str:
        return f"DirectSocket({'closed' if self._opened is None else 'open'}, {self.sent_frames} frames sent)"

    def send(self, data: Buffer) -> bool:
        """Send one frame if that is possible at once; False if it must go through the transport. Never waits."""
        with self._lock:
            opened = self._opened
            if opened is None or self._rest is not None or self._transport.get_write_buffer_size():
                return False
            try:
                sent = opened.send(data, _AT_ONCE)
            except OSError:
                return False
            self.sent_frames += 1
            self.sent_bytes += len(data)
            if sent == len(data):
                return True
            self._rest = memoryview(data)[sent:]
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it the connection
            self._loop.call_soon_threadsafe(self.write, ())
        return True

    def write(self, parts: Sequence[Buffer]) -> None:
        """Write whole frames through the transport, after what is left of one that was sent here."""
        with self._lock:
            if self._opened is None:
                return
            if self._rest is not None:
                self._transport.write(self._rest)
                self._rest = None
            for part in parts:  # not writelines: in Python 3.12 and 3.13 it does not notice a full send buffer
                self._transport.write(part)

    def close(self) -> None:
        """Let go of the connection. Idempotent."""
        with self._lock:
            opened, self._opened = self._opened, None
        if opened is not None:
            opened.close()
