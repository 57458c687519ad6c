"""A call that has run, as a log keeps it: enough to run it again on another copy of the object with the same effect.

Owns the shape and encoding of ``Operation``. Leaves making and replaying one to the kernel, and logs to deployment managers.
Invariant: replayed on an equal object it changes it equally, gives an equal outcome, and leaves an equal answered request.
Failure behaviour: bytes that are no operation raise ``Invalid``.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from amino.errors import Invalid


class Operation(msgspec.Struct, array_like=True, frozen=True):
    """One mutating call, with what it took from outside.

    Args:
        method: the method, or ``:Manager:topic`` of a message to a component.
        codec, segments: its arguments as they were received.
        client, root, sequence, nested: its request id. floor: of its client.
        request_digest: checksum of method and arguments.
        recorded: what ``effects.Recorder`` holds.
        digest: of its outcome; see ``wire.digest``.
    """

    method: str
    codec: int
    segments: tuple[bytes, ...]
    client: str
    root: str
    sequence: int
    nested: tuple[int, ...]
    floor: int
    request_digest: int
    recorded: dict[str, tuple[int, bytes, bytes]] = {}
    digest: int = 0


class Replayed(NamedTuple):
    """What a replay found.

    Args:
        digest: of the outcome it had this time.
        unfaithful: why it was not the same operation; empty if it was.
    """

    digest: int
    unfaithful: str


encode_operation = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Operation).decode


def decode_operation(data: bytes | memoryview) -> Operation:
    """Return the operation that ``encode_operation`` encoded. Raises ``Invalid`` if it is none."""
    try:
        return _decode(data)
    except msgspec.MsgspecError as error:
        raise Invalid(f"a logged operation is malformed ({error}); the log is damaged or of another release") from error
