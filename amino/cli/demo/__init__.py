"""``amino demo``: a small Twitter on a cluster that loses servers, with every acknowledgement read back at the end.

Not here: the application itself, which is the example ``minnietwitter``, and the processes, which are ``amino.testing``'s.
"""

from __future__ import annotations

import importlib
import typing

from amino.cli.demo.kinds import FailoverKind

if typing.TYPE_CHECKING:
    from amino.cli.demo.command import run

__all__ = ["FailoverKind", "run"]


def __getattr__(name: str) -> typing.Any:
    """Load the demo when it is run: every command imports the kinds of failover for its help."""
    if name == "run":
        return importlib.import_module("amino.cli.demo.command").run
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
