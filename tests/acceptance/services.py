"""Classes that the acceptance tests run on the cluster."""

from __future__ import annotations

import asyncio
import ctypes
import os
from typing import Any

import amino


class Counter:
    """Counts; small."""

    def __init__(self, start: int = 0) -> None:
        self.value = start

    def add(self, n: int = 1) -> int:
        """Add and return the value."""
        self.value += n
        return self.value

    async def slow_add(self, seconds: float) -> int:
        """Add, and answer later."""
        self.value += 1
        await asyncio.sleep(seconds)
        return self.value

    @amino.readonly
    def get(self) -> int:
        """Return the value."""
        return self.value

    def hold_interpreter(self, seconds: float) -> float:
        """Keep the interpreter lock, as a long pickle or regular expression does."""
        ctypes.PyDLL(None).usleep(int(seconds * 1_000_000))
        return seconds

    def _private(self) -> str:
        return "nobody gets this"


class Big:
    """Counts, with 1 MiB of state."""

    def __init__(self) -> None:
        self.data = os.urandom(1 << 20)
        self.value = 0

    def add(self) -> int:
        """Add one and return the value."""
        self.value += 1
        return self.value


class Poison:
    """Kills the process that runs it."""

    def __init__(self) -> None:
        self.value = 0

    def fine(self) -> int:
        """Do no harm."""
        self.value += 1
        return self.value

    def boom(self) -> None:
        """End the process, as a crash in a C extension does."""
        os._exit(9)


class BadRestore:
    """Kills the process that restores it, as long as a file says so."""

    def __init__(self, switch: str) -> None:
        self.switch = switch
        self.value = 0

    def add(self) -> int:
        """Add one and return the value."""
        self.value += 1
        return self.value

    def __setstate__(self, state: dict[str, Any]) -> None:
        if os.path.exists(state["switch"]):
            os._exit(7)
        self.__dict__.update(state)


class Raises:
    """Cannot be made."""

    def __init__(self, why: str) -> None:
        raise ValueError(why)


class Unpicklable:
    """Has state that cannot be written down."""

    def __init__(self) -> None:
        self.value = 0

    def take(self, value: Any) -> int:
        """Keep a value."""
        return len(str(value))

    def give(self) -> Any:
        """Return what cannot be sent."""
        return (each for each in range(3))


class Blob:
    """Keeps as many bytes as it is told."""

    def __init__(self) -> None:
        self.data = b""

    def fill(self, size: int) -> int:
        """Keep ``size`` bytes that do not compress."""
        self.data = os.urandom(size)
        return size

    @amino.readonly
    def size(self) -> int:
        """Return how many bytes are kept."""
        return len(self.data)


class Caller:
    """Calls others, also such as call it back."""

    def __init__(self, other: Any = None) -> None:
        self.other = other
        self.calls = 0

    def know(self, other: Any) -> None:
        """Keep a ref."""
        self.other = other

    def ask(self, depth: int) -> int:
        """Call the other, which calls back, ``depth`` times."""
        self.calls += 1
        return 0 if depth == 0 else 1 + int(self.other.ask(depth - 1))

    @amino.readonly
    def peek(self, depth: int) -> int:
        """As ``ask``, changing nothing."""
        return 0 if depth == 0 else 1 + int(self.other.peek(depth - 1))

    def ask_then_peek(self) -> int:
        """Change, and have the other call back a method that does not."""
        self.calls += 1
        return int(self.other.peek(1))

    def add_to_other(self, n: int) -> int:
        """Call the other's ``add``."""
        self.calls += 1
        return int(self.other.add(n))

    def mine(self) -> Any:
        """Return a ref to itself."""
        return amino.current().ref

    def where(self) -> dict[str, Any]:
        """Return what ``amino.current`` knows."""
        here = amino.current()
        return {
            "server": here.server,
            "region": here.region,
            "microservice": here.microservice,
            "request": here.request_id,
            "remaining_s": here.remaining_s,
        }

    def make_child(self, name: str) -> Any:
        """Create a microservice."""
        self.calls += 1
        self.other = amino.current().cluster.new(amino.spec(Counter, name=name, on_loss="recreate"), 10)
        return self.other

    def make_child_and_die_once(self, name: str, marker: str) -> Any:
        """Create a microservice; the first process that does so dies before it answers."""
        child = amino.current().cluster.new(amino.spec(Counter, name=name, on_loss="recreate"), 10)
        if not os.path.exists(marker):
            with open(marker, "w") as file:
                file.write("died")
            os._exit(3)
        return child
