"""A microservice with timers, and one that emits, for the tests on real servers."""

from __future__ import annotations

import amino


class Ticking:
    """Notes when its timers fired."""

    def __init__(self) -> None:
        self.fired: dict[str, list[tuple[int, int, float, float]]] = {}

    def begin(self, count: int, every_s: float, missed: str, spread_s: float = 0.0) -> list[str]:
        return [
            amino.timer(
                self._tick,
                after_s=every_s + spread_s * number / count,
                every_s=every_s,
                name=f"{missed}-{number}",
                args=(f"{missed}-{number}",),
                missed=missed,  # type: ignore[arg-type]
            )
            for number in range(count)
        ]

    def end(self) -> int:
        return sum(amino.cancel_timer(each.name) for each in amino.timers())

    def once(self, after_s: float) -> str:
        return amino.timer("_tick", after_s=after_s, name="once", args=("once",), missed="coalesce")

    def _tick(self, name: str) -> None:
        firing = amino.current().timer
        assert firing is not None
        self.fired.setdefault(name, []).append((firing.number, firing.missed, amino.now() - firing.due, firing.due))

    @amino.readonly
    def report(self) -> dict[str, list[tuple[int, int, float, float]]]:
        return self.fired


class Speaker:
    """Emits a number with each call."""

    def __init__(self) -> None:
        self.number = 0

    def say(self) -> int:
        self.number += 1
        amino.emit("said", self.number)
        return self.number

    @amino.readonly
    def count(self) -> int:
        return self.number


class Ledger:
    """Does everything that a transaction has to undo."""

    def __init__(self) -> None:
        self.entries: list[str] = []

    def enter(self, text: str) -> int:
        self.entries.append(text)
        amino.emit("entered", text)
        amino.timer(self.confirm, after_s=0.3, name=text, args=(text,))
        return len(self.entries)

    def confirm(self, text: str) -> None:
        self.entries.append(f"{text} confirmed")

    @amino.readonly
    def all(self) -> list[str]:
        return self.entries

    @amino.readonly
    def waiting(self) -> list[str]:
        return [each.name for each in amino.timers()]
