"""Where the example ``minnietwitter`` is: in the checkout, or packed into the wheel.

Owns finding its folder, which is given to the servers as ``--app-dir`` would be, and importing it here.
Invariant: servers and clients import it by the same name from the same folder.
Failure behaviour: ``Invalid`` when this installation lacks it.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from amino.errors import Invalid

_PLACES = (Path(__file__).parent / "apps", Path(__file__).parents[3] / "examples")


def app_dir() -> Path:
    """Return the folder to import ``minnietwitter`` from.

    Raises:
        Invalid: it is not installed.
    """
    for place in _PLACES:
        if (place / "minnietwitter" / "twitter.py").is_file():
            return place
    raise Invalid("this installation has no minnietwitter example, which the demo runs; install a complete release")


def load() -> Any:
    """Import ``minnietwitter.twitter`` and return the module."""
    folder = str(app_dir())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module("minnietwitter.twitter")
