"""Golden traces: what a machine did, kept as text that reads as documentation of the protocol.

``AMINO_UPDATE_GOLDEN=1`` writes them anew; look at the difference before you commit it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"


def compare(name: str, lines: Iterable[str]) -> None:
    """Fail unless the trace equals the one kept as ``name``."""
    text = "\n".join(lines) + "\n"
    path = FOLDER / f"{name}.txt"
    if os.environ.get("AMINO_UPDATE_GOLDEN"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
