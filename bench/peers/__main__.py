"""One peer in processes of its own: ``python -m bench.peers NAME [serve | measure SECONDS]``; results as JSON.

Owns the command lines of the measuring and the serving process. Leaves measuring to ``port``.
Invariant: the serving process ends when its standard input closes, so none outlives the one that started it.
Failure behaviour: a traceback and a non-zero exit.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from dataclasses import asdict

from bench.peers.port import measure
from bench.peers.run import load


def _announce(address: str) -> None:
    print(address, flush=True)


def _end_with_parent() -> None:
    sys.stdin.read()
    os._exit(0)


def main() -> None:
    name, action, *rest = sys.argv[1:]
    peer = load(name)
    if action == "serve":
        threading.Thread(target=_end_with_parent, daemon=True).start()
        peer.serve(_announce)
    else:
        measured = measure(peer, float(rest[0]), payloads="--null-only" not in rest)
        print("MEASURED " + json.dumps(asdict(measured)), flush=True)


main()
