"""A program that kills itself with SIGKILL right before a step of its first transaction between two wallets.

``python -m tests.dm.transactions.initiator ADDRESS STEP NOTE WALLET WALLET``
"""

from __future__ import annotations

import os
import signal
import sys
import threading

import amino
from tests.dm.transactions.movers import Steps
from tests.dm.transactions.wallet import Wallet


def die_before(steps: Steps, step: str) -> None:
    """Kill this process once its transaction is there."""
    steps.hold_before(step, 60.0)
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Run; returns only if the step was not reached."""
    address, step, note, *wallets = sys.argv[1:]
    with amino.connect(address) as cluster:
        one, two = (cluster.get(each, Wallet) for each in wallets)
        steps = Steps()
        steps.watch(cluster)
        threading.Thread(target=die_before, args=(steps, step), daemon=True).start()
        while True:
            try:
                with cluster.transaction():
                    one.add(-1, note)
                    two.add(1, note)
            except amino.TransactionAborted:  # others were faster
                continue
            return 0


if __name__ == "__main__":
    sys.exit(main())
