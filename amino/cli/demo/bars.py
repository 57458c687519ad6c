"""Numbers as a row of bars.

Owns drawing them with eighths of a block. Leaves meaning to its users.
Invariant: one character for each number; zero is a blank, and nothing else is.
Failure behaviour: none.
"""

from __future__ import annotations

from collections.abc import Sequence

_BLOCKS = " ▁▂▃▄▅▆▇█"
_ASCII = " .:-=+*#@"


def bars(values: Sequence[int], *, ascii_only: bool = False) -> str:
    """Return a bar for each value, the largest as high as can be."""
    blocks = _ASCII if ascii_only else _BLOCKS
    top = max(values, default=0) or 1
    return "".join(
        blocks[0] if value <= 0 else blocks[max(1, round(value / top * (len(blocks) - 1)))] for value in values
    )
