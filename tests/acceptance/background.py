"""One call in a thread of its own while the test breaks something, and the length of what it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any


def let_last(seconds: float) -> None:
    """Let a fault last so long: its length, or the moment it comes at, is what is tested; nothing is waited for."""
    time.sleep(max(0.0, seconds))


class Background:
    """Runs ``call``; ``outcome`` waits for its result, or returns the error it raised.

    Args:
        call: what to run.
    """

    def __init__(self, call: Callable[[], Any]) -> None:
        self._result: Any = None
        self._thread = threading.Thread(target=self._run, args=(call,), name="background call", daemon=True)
        self._thread.start()

    def _run(self, call: Callable[[], Any]) -> None:
        try:
            self._result = call()
        except Exception as error:  # noqa: BLE001 - the test judges it
            self._result = error

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    def outcome(self, timeout_s: float) -> Any:
        """Return what it returned or raised; fails when it is not over in time."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"a call did not end within {timeout_s} s"
        return self._result
