"""What a method took from outside while it ran, recorded so that it can be run again elsewhere with the same result.

Owns ``Recorder`` and ``Replay``. Leaves running methods to the kernel, and deciding what is recorded to those who ask
the outside (nested calls, cluster operations, ``amino.now``, ``amino.random``).
Invariants: a value is found again by its kind and its number in the method's own order of asking; what was recorded is
encoded at once, so later changes by the method do not reach it.
Failure behaviour: a replay that asks for something that was not recorded raises ``Diverged``, and ``unfaithful`` says so
even if the method swallows that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from amino.errors import Invalid
from amino.wire import codec

T = TypeVar("T")
_VALUE, _RAISED = 0, 1


class Diverged(Invalid):
    """A replayed method asked for something else than when it was recorded: it is not deterministic."""


class Effects(ABC):
    """Base of both sides: numbers what a method asks for, by kind."""

    replaying = False

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._asked})"

    def next(self, kind: str) -> str:
        """Return the key of the next value of ``kind``; call it before anything is awaited."""
        number = self._asked[kind] = self._asked.get(kind, 0) + 1
        return f"{kind}{number}"

    @abstractmethod
    async def outcome(self, key: str, ask: Callable[[], Awaitable[T]], binding: Any) -> T:
        """Return what ``ask`` returns or raises; recorded, or taken from the record.

        Args:
            key: from ``next``.
            binding: the runtime that refs in a recorded value belong to.
        """

    @abstractmethod
    def value(self, key: str, take: Callable[[], T]) -> T:
        """Return ``take()``, a plain value; recorded, or taken from the record."""


class Recorder(Effects):
    """Records, while the method runs for the first time."""

    def __init__(self) -> None:
        super().__init__()
        self.recorded: dict[str, tuple[int, bytes, bytes]] = {}

    async def outcome(self, key: str, ask: Callable[[], Awaitable[T]], binding: Any) -> T:  # noqa: ARG002 - see Effects
        """Ask, and record the outcome."""
        try:
            found = await ask()
        except Exception as error:
            head, segments = codec.encode_exception(error, trusted=True)
            self.recorded[key] = (_RAISED, head, bytes(segments[0]) if segments else b"")
            raise
        self.recorded[key] = (_VALUE, codec.pack(found), b"")
        return found

    def value(self, key: str, take: Callable[[], T]) -> T:
        """Take, and record the value."""
        found = take()
        self.recorded[key] = (_VALUE, codec.pack(found), b"")
        return found


class Replay(Effects):
    """Answers from a record; nothing outside is asked.

    Args:
        recorded: what a ``Recorder`` holds.

    Attributes:
        unfaithful: why the replayed method cannot be the recorded one; empty while it may be.
    """

    replaying = True

    def __init__(self, recorded: dict[str, tuple[int, bytes, bytes]]) -> None:
        super().__init__()
        self.recorded = recorded
        self._used: set[str] = set()
        self.unfaithful = ""

    def check_complete(self) -> None:
        """Note if something was recorded and never asked for; call it when the method has ended."""
        missed = sorted(self.recorded.keys() - self._used)
        if missed and not self.unfaithful:
            self.unfaithful = f"it did not ask for {', '.join(missed)}, as it did when it was recorded"

    async def outcome(self, key: str, ask: Callable[[], Awaitable[T]], binding: Any) -> T:  # noqa: ARG002 - see Effects
        """Return or raise what was recorded."""
        kind, content, pickled = self._take(key)
        if kind == _RAISED:
            raise codec.decode_exception(content, [pickled] if pickled else [], trusted=True, binding=binding)
        return codec.unpack(content, binding=binding)  # type: ignore[no-any-return]

    def value(self, key: str, take: Callable[[], T]) -> T:  # noqa: ARG002 - see Effects
        """Return what was recorded."""
        return codec.unpack(self._take(key)[1])  # type: ignore[no-any-return]

    def _take(self, key: str) -> tuple[int, bytes, bytes]:
        found = self.recorded.get(key)
        if found is None:
            self.unfaithful = self.unfaithful or f"it asked for {key}, which was not recorded"
            raise Diverged(f"a replayed method asked for {key}, which was not recorded: it is not deterministic")
        self._used.add(key)
        return found
