"""How results are shown: tables on a terminal, plain columns in a pipe, JSON or YAML where asked for.

Owns the forms. Leaves what is shown to the commands.
Invariants: results go to standard output and everything else to standard error; nothing is cut off in a pipe.
Failure behaviour: a value that JSON cannot hold is shown as its ``repr``.
"""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import msgspec
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

R = TypeVar("R")


class Form(StrEnum):
    """Forms of output."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"


class ValueForm(StrEnum):
    """Forms of a single value."""

    TEXT = "text"
    JSON = "json"
    YAML = "yaml"


@dataclass(frozen=True, slots=True)
class Column(Generic[R]):
    """A column of a table; ``wide`` ones are shown with ``-o wide`` only."""

    title: str
    of: Callable[[R], Any]
    wide: bool = False


def stdout() -> Console:
    """Return the console of results."""
    return Console(highlight=False, soft_wrap=True)


def stderr() -> Console:
    """Return the console of messages."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Tell the user something beside the result."""
    stderr().print(message, markup=False)


def show_rows(rows: Sequence[R], columns: Sequence[Column[R]], form: Form, plain: Callable[[R], Any]) -> None:
    """Show ``rows`` in ``form``.

    Args:
        plain: makes of a row the dictionary that JSON and YAML show.
    """
    if form in {Form.JSON, Form.YAML}:
        show_data([plain(row) for row in rows], form)
        return
    shown = [column for column in columns if form is Form.WIDE or not column.wide]
    cells = [[_cell(column.of(row)) for column in shown] for row in rows]
    titles = [column.title for column in shown]
    console = stdout()
    if not console.is_terminal:
        _show_plain(console, [titles, *cells])
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in titles:
        table.add_column(title, overflow="fold")
    for line in cells:
        table.add_row(*(Text(cell) for cell in line))
    Console(highlight=False).print(table)


def _show_plain(console: Console, lines: list[list[str]]) -> None:
    widths = [max(len(line[index]) for line in lines) for index in range(len(lines[0]))]
    for line in lines:
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        console.print(text.rstrip(), markup=False)


def show_data(data: Any, form: Form | ValueForm) -> None:
    """Show plain data as JSON or YAML."""
    if form.value == "yaml":
        sys.stdout.write(yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    else:
        sys.stdout.write(json.dumps(data, indent=2, ensure_ascii=False, default=repr) + "\n")


def show_value(value: Any, form: ValueForm) -> None:
    """Show what a method returned."""
    plain = to_plain(value)
    if form is ValueForm.TEXT:
        sys.stdout.write((plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)) + "\n")
    else:
        show_data(plain, form)


def show_fields(fields: Iterable[tuple[str, Any]]) -> None:
    """Show one thing as titles and values, a line each; empty values are left out."""
    shown = [(title, value) for title, value in fields if value not in ("", (), [], {}, None)]
    width = max((len(title) for title, _ in shown), default=0)
    console = stdout()
    for title, value in shown:
        lines = [_cell(each) for each in value] if isinstance(value, (list, tuple)) else [_cell(value)]
        for index, line in enumerate(lines):
            console.print(f"{title if index == 0 else '':<{width}}  {line}", markup=False)


def to_plain(value: Any) -> Any:
    """Return ``value`` as data that JSON and YAML can hold; what cannot be held becomes its ``repr``."""
    try:
        return msgspec.to_builtins(value, enc_hook=repr, str_keys=True)
    except (TypeError, ValueError):
        return repr(value)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={each}" for key, each in sorted(value.items()))
    if isinstance(value, (list, tuple)):
        return ",".join(str(each) for each in value)
    return str(value)


def age(since: float, now: float | None = None) -> str:
    """Return how long ago ``since`` (seconds since 1970) was, in the largest fitting unit."""
    if not since:
        return ""
    seconds = max(0, int((time.time() if now is None else now) - since))
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"


def at_time(moment: float) -> str:
    """Return a moment as local date and time."""
    return dt.datetime.fromtimestamp(moment).astimezone().isoformat(sep=" ", timespec="milliseconds") if moment else ""


def size(count: int) -> str:
    """Return a number of bytes in the largest fitting binary unit."""
    amount = float(count)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"


@contextmanager
def progress(message: str) -> Iterator[None]:
    """Show that something long is under way, on a terminal; in a pipe say it once."""
    console = stderr()
    if console.is_terminal:
        with console.status(message):
            yield
    else:
        say(f"{message} ...")
        yield


@contextmanager
def counting(message: str) -> Iterator[Callable[[str, int, int], None]]:
    """As ``progress``; what it yields is told what is being done now, and how many of how many are done."""
    console = stderr()
    if not console.is_terminal:
        say(f"{message} ...")
        yield lambda _what, _done, _of: None
        return
    with console.status(message) as status:
        yield lambda what, done, of: status.update(f"{what}: {done} of {of}")
