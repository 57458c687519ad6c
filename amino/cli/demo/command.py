"""What ``amino demo`` runs: the scenario with the view that fits, and its result in the form asked for.

Owns the choice of the view, the signals and the exit code. Leaves the options' syntax to ``cli.processes``.
Invariants: with ``as_json`` standard output holds exactly one JSON document; when it returns, nothing it started is left.
Failure behaviour: Ctrl-C and SIGTERM end everything, then raise ``KeyboardInterrupt``; further ones wait for that.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from rich.console import Console

from amino.cli.demo import closing
from amino.cli.demo.board import Board, View
from amino.cli.demo.kinds import FailoverKind
from amino.cli.demo.live import LiveView
from amino.cli.demo.plain import PlainView
from amino.cli.demo.scenario import Options, Scenario

_PLAIN_WIDTH = 110


def run(
    *,
    as_json: bool = False,
    servers: int = 3,
    seconds: float = 30.0,
    clients: int = 4,
    etcd_binary: str | Path | None = None,
    seed: int = 1,
    kills: Sequence[FailoverKind] = (),
) -> int:
    """Run the demo and print its result; returns the exit code: 0 if all is well, else 1.

    Args:
        kills: the failovers; none: the kernel process, then supervisor and kernel process together.

    Raises:
        AminoError: it could not start. KeyboardInterrupt: it was interrupted; everything has ended.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=_PLAIN_WIDTH)
    options = Options(
        servers=servers,
        seconds=seconds,
        clients=clients,
        etcd_binary=Path(etcd_binary) if etcd_binary is not None else None,
        seed=seed,
        kills=tuple(kills) or Options().kills,
    )

    def show(board: Board) -> View:
        if console.is_terminal and not as_json:
            return LiveView(board, console)
        return PlainView(board, sys.stderr if as_json else sys.stdout)

    told = f"starting etcd and {servers} kernel servers"
    with _interruptible():
        if not as_json:
            console.print(told)
        result = Scenario(options, show).run()
    if as_json:
        sys.stdout.write(json.dumps(result.document(), indent=2) + "\n")
    else:
        console.print()
        closing.show(result, console)
    return 0 if result.ok else 1


@contextmanager
def _interruptible() -> Iterator[None]:
    """Turn the first SIGINT or SIGTERM into ``KeyboardInterrupt``, and ignore further ones while everything ends."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
