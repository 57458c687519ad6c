"""The class that clients in other languages create and call: every kind of outcome and value."""

from __future__ import annotations

import datetime as dt
from typing import Any

import amino.marks as marks
from amino.errors import NotFound


class Callee:
    """Counts, echoes, raises."""

    def __init__(self, start: int = 0, *, label: str = "") -> None:
        self.value = start
        self.label = label
        self.kept: Any = None

    def add(self, n: int = 1) -> int:
        self.value += n
        return self.value

    @marks.readonly
    def get(self) -> int:
        return self.value

    @marks.readonly
    def name_tag(self) -> str:
        return self.label

    def keep(self, value: Any) -> None:
        self.kept = value

    @marks.readonly
    def kept_value(self) -> Any:
        return self.kept

    @marks.readonly
    def echo(self, *args: Any, **kwargs: Any) -> Any:
        return {"args": list(args), "kwargs": kwargs} if kwargs else (args[0] if len(args) == 1 else list(args))

    @marks.readonly
    def moment(self) -> dt.datetime:
        return dt.datetime(2026, 2, 3, 4, 5, 6, 789000, tzinfo=dt.UTC)

    def add_to(self, other: Any, n: int) -> int:
        """Call another microservice, of which the caller sent a ref."""
        return other.add(n)

    def fail(self, message: str) -> None:
        raise LookupError(message)

    def fail_as_amino(self) -> None:
        raise NotFound("the method itself did not find something")

    @marks.readonly
    def unsendable(self) -> Any:
        return {"inner": [1, {2, 3}]}
