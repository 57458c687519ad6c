"""How far the log of a replica goes, as its server tells a slot leader that has to choose a successor.

Owns the topic of the question and the form of the answer. Leaves asking to the OMS and answering to managers that replicate.
Invariant: of two logs of one group the greater ``LogEnd`` has everything acknowledged that the other has.
Failure behaviour: an answer that is none raises ``Invalid``.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from amino.errors import Invalid

LOG_END = "log-end"


class LogEnd(NamedTuple):
    """Epoch and index (``entry``) of a log's last entry."""

    epoch: int
    entry: int


NOWHERE = LogEnd(-1, -1)
"""What is assumed of who does not answer."""

encode = msgspec.msgpack.Encoder().encode
_decoder = msgspec.msgpack.Decoder(LogEnd)


def decode(answer: bytes) -> LogEnd:
    """Return the answer that ``encode`` made.

    Raises:
        Invalid: it is none.
    """
    try:
        return _decoder.decode(answer)
    except msgspec.MsgspecError as error:
        raise Invalid(f"not the end of a log: {error}") from error
