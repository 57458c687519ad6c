"""The commands: ``amino up``, ``amino server``, ``amino apply``, ``amino get`` and the others. The only place that prints.

Not here: anything a program could not do through ``amino.connect``; commands are thin.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line; ends the process with its exit code."""
    from amino.cli.application import run

    run()
