"""What the tests of traces on real servers call."""

from __future__ import annotations

from typing import Any

from opentelemetry import trace

import amino


class Log:
    """Is called by others."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, line: str) -> int:
        """Keep a line; returns how many there are."""
        self.lines.append(line)
        return len(self.lines)


class Shelf:
    """Keyed, calls another microservice, and traces a part of itself through OpenTelemetry."""

    def __init__(self, log: Any = None) -> None:
        self.log = log
        self.things: dict[str, int] = {}

    @amino.key
    async def put(self, key: str, count: int) -> int:
        """Put things on the shelf."""
        with trace.get_tracer("shop").start_as_current_span("shelve") as span:
            span.set_attribute("shop.count", count)
            self.things[key] = self.things.get(key, 0) + count
            if self.log is not None:
                await amino.aio(self.log.note)(key)
        return self.things[key]
