"""The command line put together, and the one place where errors become words and exit codes.

Owns the table of commands. Leaves each command to its module.
Invariant: no traceback is shown unless ``AMINO_DEBUG`` is set.
Failure behaviour: see ``failures``.
"""

from __future__ import annotations

import contextlib
import os
import sys
from enum import StrEnum
from typing import Annotated, NoReturn

import typer

import amino
from amino.cli import deployment, failures, inspection, operations, output, processes, recovery, watching

app = typer.Typer(
    name="amino",
    help="Run plain Python objects on a cluster, where they survive the loss of any machine.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_RUN, _DEPLOY, _LOOK, _OPERATE, _OTHER = "Run", "Deploy", "Look", "Operate", "Other"

app.command(rich_help_panel=_RUN)(processes.up)
app.command(rich_help_panel=_RUN)(processes.server)
app.command(rich_help_panel=_RUN)(processes.demo)
app.command(rich_help_panel=_DEPLOY)(deployment.apply)
app.add_typer(deployment.app_commands, name="app", rich_help_panel=_DEPLOY)
app.command(rich_help_panel=_DEPLOY)(operations.delete)
app.add_typer(inspection.get_commands, name="get", rich_help_panel=_LOOK)
app.command(rich_help_panel=_LOOK)(inspection.describe)
app.command(rich_help_panel=_LOOK)(watching.top)
app.command(rich_help_panel=_LOOK)(watching.events)
app.command(rich_help_panel=_LOOK)(operations.locate)
app.command(rich_help_panel=_LOOK, context_settings={"ignore_unknown_options": True})(
    operations.call
)  # amino call c add -5
for _command in (
    operations.move,
    operations.scale,
    operations.cordon,
    operations.uncordon,
    operations.drain,
    operations.pause,
    operations.resume,
    operations.restore,
    operations.release,
    recovery.rebuild,
    recovery.settle,
):
    app.command(rich_help_panel=_OPERATE)(_command)


class Shell(StrEnum):
    """Shells with completion."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"
    POWERSHELL = "powershell"


@app.command(rich_help_panel=_OTHER)
def version() -> None:
    """Print the release."""
    sys.stdout.write(f"amino {amino.__version__}, Python {sys.version.split()[0]}\n")


@app.command(rich_help_panel=_OTHER)
def completion(shell: Annotated[Shell, typer.Argument(help="Your shell.")]) -> None:
    """Print the shell's completion script: source <(amino completion bash)."""
    os.environ["_AMINO_COMPLETE"] = f"source_{shell.value}"  # how completion is asked for, by shells too
    app(args=[], prog_name="amino")


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; ends the process with its exit code (see ``failures``)."""
    sys.exit(_run(arguments))


def _run(arguments: list[str] | None) -> int:
    try:
        app(args=arguments, prog_name="amino")  # ends by SystemExit: wrong usage is told and gets code 2 in there
    except SystemExit as end:
        sys.stdout.flush()
        return end.code if isinstance(end.code, int) else failures.OK
    except KeyboardInterrupt:
        output.say("interrupted")
        return failures.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except Exception as error:
        if os.environ.get("AMINO_DEBUG"):
            raise
        what, *remedy = failures.explain(error)
        output.say(f"error: {what}")
        for line in remedy:
            output.say(f"  {line}")
        return failures.exit_code(error)
    return failures.OK
