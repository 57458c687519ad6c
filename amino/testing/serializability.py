"""A judge of serializability: recorded transactions in, anomalies by their names out.

Owns the judgement on histories of *list-append* transactions: each operation appends a value, that nobody else appends, to the
list under a key, or reads the whole list. Leaves recording to tests, simulations and the chaos tool.

The algorithm is that of Elle (Kingsbury and Alvaro, *Elle: Inferring Isolation Anomalies from Experimental Observations*, VLDB
2020) with the anomalies of Adya (*Weak Consistency: A Generalized Theory and Optimistic Implementations for Distributed
Transactions*, MIT 1999). The order of the versions of a key is recovered from reads: a list read holds the history of its key.
Transactions depend on each other: *ww*, one appended right after what the other appended; *wr*, one read what the other
appended last; *rw*, one read a list to which the other appended next; and, for strict serializability, *real time*, one ended
before the other began. A history without cycles of these, whose reads are all explained, is serializable as far as it was
observed; each cycle, found by Tarjan's strongly connected components, proves that it is not.

Invariants: pure; no false alarm: whatever is reported, no order of the transactions explains. A transaction whose outcome is
unknown counts once somebody saw an effect of it, as one that may have happened at any time after its beginning.
Failure behaviour: a history that breaks the rules of recording (a value appended twice) is ``ValueError``.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from amino.testing.cycles import Graph

Key = Hashable
Value = Hashable
Id = Hashable
Versions = tuple[Value, ...]


class Outcome(enum.StrEnum):
    """How a transaction ended: it certainly committed, it certainly did not, or nobody knows."""

    OK = "ok"
    FAILED = "failed"
    UNKNOWN = "unknown"


class Anomaly(enum.StrEnum):
    """What a history can show that no serial execution does."""

    DUPLICATE = "duplicate write"
    UNWRITTEN = "read of what nobody wrote"
    INTERNAL = "internal inconsistency"
    INCOMPATIBLE = "incompatible order"
    G1A = "G1a aborted read"
    G1B = "G1b intermediate read"
    LOST_UPDATE = "lost update"
    G0 = "G0 dirty write"
    G1C = "G1c circular information flow"
    G_SINGLE = "G-single read skew"
    G2_ITEM = "G2-item write skew"
    G0_REAL_TIME = "G0-real-time"
    G1C_REAL_TIME = "G1c-real-time"
    G_SINGLE_REAL_TIME = "G-single-real-time"
    G2_ITEM_REAL_TIME = "G2-item-real-time"


@dataclass(frozen=True, slots=True)
class Append:
    """One value was put at the end of the list under ``key``; no other operation of the history appends it there."""

    key: Key
    value: Value


@dataclass(frozen=True, slots=True)
class Read:
    """The list under ``key`` was ``values``; empty if there was none."""

    key: Key
    values: Versions


@dataclass(slots=True)
class Transaction:
    """One transaction as its client saw it; filled in while it runs.

    Args:
        id: tells it from the others of the history.
        began, ended: when it was begun and when its outcome was known, in seconds by one clock for the whole history; they
            matter for strict serializability only.
        outcome: see ``Outcome``. Reads are judged of those that committed only.
        operations: in the order in which the client made them; the reads are those that were answered.
    """

    id: Id
    began: float = 0.0
    ended: float = math.inf
    outcome: Outcome = Outcome.UNKNOWN
    operations: list[Append | Read] = field(default_factory=list)

    def append(self, key: Key, value: Value) -> None:
        """Note that ``value`` is about to be appended."""
        self.operations.append(Append(key, value))

    def read(self, key: Key, values: Iterable[Value]) -> None:
        """Note what was read."""
        self.operations.append(Read(key, tuple(values)))

    def end(self, outcome: Outcome, at: float = math.inf) -> None:
        """Note the outcome, and when it was known."""
        self.outcome, self.ended = outcome, at


@dataclass(frozen=True, slots=True)
class Finding:
    """One anomaly: its name, the transactions that show it, and why it is one."""

    anomaly: Anomaly
    transactions: tuple[Id, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.anomaly}: {self.text}"


_WW, _WR, _RW, _REAL_TIME = 1, 2, 4, 8
_KINDS = {_WW: "ww", _WR: "wr", _RW: "rw", _REAL_TIME: "rt"}
_LEVELS = (
    (Anomaly.G0, _WW, False),
    (Anomaly.G1C, _WW | _WR, False),
    (Anomaly.G_SINGLE, _WW | _WR, True),
    (Anomaly.G2_ITEM, _WW | _WR | _RW, False),
    (Anomaly.G0_REAL_TIME, _WW | _REAL_TIME, False),
    (Anomaly.G1C_REAL_TIME, _WW | _WR | _REAL_TIME, False),
    (Anomaly.G_SINGLE_REAL_TIME, _WW | _WR | _REAL_TIME, True),
    (Anomaly.G2_ITEM_REAL_TIME, _WW | _WR | _RW | _REAL_TIME, False),
)
"""Cycles, strongest first: the edges they are made of, and whether exactly one *rw* edge is among them."""


def judge(history: Iterable[Transaction], *, strict: bool = False) -> list[Finding]:
    """Return the anomalies of ``history``, none if it is serializable as far as it was observed.

    Of transactions that form cycles with each other, the strongest anomaly is told once. Time in proportion to the lengths of
    all lists that were read; broken histories take longer.

    Args:
        history: all transactions that may have changed what was read, in any order.
        strict: whether the order must also agree with real time (strict serializability): what was acknowledged before
            another transaction began comes before it.

    Raises:
        ValueError: an id is used twice, a value is appended twice to one key, or a transaction ended before it began.
    """
    return _Judge(history).judge(strict=strict)


class _Judge:
    def __init__(self, history: Iterable[Transaction]) -> None:
        self._findings: list[Finding] = []
        self._all: dict[Id, Transaction] = {}
        self._writer: dict[tuple[Key, Value], Transaction] = {}
        self._last: dict[tuple[Id, Key], Value] = {}
        for one in history:
            if one.id in self._all:
                raise ValueError(f"transaction {one.id!r} is in the history twice")
            if one.ended < one.began:
                raise ValueError(f"transaction {one.id!r} ended at {one.ended}, before it began at {one.began}")
            self._all[one.id] = one
            for operation in one.operations:
                if isinstance(operation, Append):
                    place = (operation.key, operation.value)
                    if place in self._writer:
                        raise ValueError(f"{operation.value!r} is appended to {operation.key!r} twice")
                    self._writer[place] = one
                    self._last[one.id, operation.key] = operation.value
        self._committed = self._happened()
        self._external: dict[tuple[Id, Key], Versions] = {}
        self._graph: Graph[Id] = Graph()

    def judge(self, *, strict: bool) -> list[Finding]:
        for one in self._committed:
            self._graph.node(one.id)
            self._explain(one)
        self._depend(self._orders())
        lost = self._lost_updates()
        if strict:
            self._real_time()
        self._cycles(lost)
        return self._findings

    def _find(self, anomaly: Anomaly, transactions: Iterable[Id], text: str) -> None:
        self._findings.append(Finding(anomaly, tuple(transactions), text))

    # --- what happened, and what was read -----------------------------------------------------------------------------

    def _happened(self) -> list[Transaction]:
        """Return the transactions that committed: those that say so, and the unknown ones that one of these saw."""
        committed = {one.id: one for one in self._all.values() if one.outcome is Outcome.OK}
        waiting = list(committed.values())
        seen: set[tuple[Key, Value]] = set()
        while waiting:
            for key, values in _reads(waiting.pop()):
                for value in reversed(values):
                    if (key, value) in seen:
                        break  # what stands before it was seen with it, or will be told as an incompatible order
                    seen.add((key, value))
                    writer = self._writer.get((key, value))
                    if writer is not None and writer.outcome is Outcome.UNKNOWN and writer.id not in committed:
                        committed[writer.id] = writer
                        waiting.append(writer)
        return [one for one in self._all.values() if one.id in committed]

    def _explain(self, one: Transaction) -> None:
        """Check each read of ``one`` by itself, and note what it read of others."""
        own: dict[Key, list[Value]] = defaultdict(list)
        for operation in one.operations:
            key = operation.key
            if isinstance(operation, Append):
                own[key].append(operation.value)
                continue
            mine = tuple(own[key])
            values = operation.values
            external = values[: len(values) - len(mine)]
            if values[len(external) :] != mine:
                self._find(
                    Anomaly.INTERNAL,
                    [one.id],
                    f"{one.id!r} read {key!r} as {_tail(values)} after it had appended {_tail(mine)}",
                )
                continue
            before = self._external.setdefault((one.id, key), external)
            if before != external:
                self._find(
                    Anomaly.INTERNAL,
                    [one.id],
                    f"{one.id!r} read {key!r} as {_tail(before)} and then as {_tail(external)}",
                )
                continue
            self._explain_values(one, key, external)

    def _explain_values(self, one: Transaction, key: Key, values: Versions) -> None:
        if len(set(values)) != len(values):
            twice = next(value for value in values if values.count(value) > 1)
            self._find(Anomaly.DUPLICATE, [one.id], f"{one.id!r} read {twice!r} twice in {key!r}: {_tail(values)}")
        for value in values:
            writer = self._writer.get((key, value))
            if writer is None:
                self._find(Anomaly.UNWRITTEN, [one.id], f"{one.id!r} read {value!r} in {key!r}, which nobody appended")
            elif writer.outcome is Outcome.FAILED:
                self._find(
                    Anomaly.G1A,
                    [writer.id, one.id],
                    f"{one.id!r} read {value!r} in {key!r}, of {writer.id!r}, which failed",
                )
            elif writer is one:
                self._find(
                    Anomaly.INTERNAL, [one.id], f"{one.id!r} read {value!r} in {key!r} before it appended it itself"
                )
        if values:
            writer = self._writer.get((key, values[-1]))
            if writer is not None and writer is not one and self._last[writer.id, key] != values[-1]:
                self._find(
                    Anomaly.G1B,
                    [writer.id, one.id],
                    f"{one.id!r} read {key!r} up to {values[-1]!r}, where {writer.id!r} was not done yet",
                )

    # --- the order of versions ----------------------------------------------------------------------------------------

    def _orders(self) -> dict[Key, tuple[Versions, bool]]:
        """Return the longest list read of each key, and whether all other reads are beginnings of it."""
        reads: dict[Key, list[tuple[Id, Versions]]] = defaultdict(list)
        for one in self._committed:
            for key, values in _reads(one):
                reads[key].append((one.id, values))
        orders: dict[Key, tuple[Versions, bool]] = {}
        for key, seen in reads.items():
            longest_by, longest = max(seen, key=lambda each: len(each[1]))
            other = next((each for each in seen if each[1] != longest[: len(each[1])]), None)
            if other is not None:
                self._find(
                    Anomaly.INCOMPATIBLE,
                    [other[0], longest_by],
                    f"{other[0]!r} read {key!r} as {_tail(other[1])}, {longest_by!r} as {_tail(longest)}",
                )
            orders[key] = longest, other is None and len(set(longest)) == len(longest)
        return orders

    def _depend(self, orders: dict[Key, tuple[Versions, bool]]) -> None:
        """Add the edges *ww*, *wr* and *rw*."""
        unseen = self._unseen(orders)
        for key, (order, certain) in orders.items():
            if certain:
                known = [one for value in order if (one := self._committer(key, value)) is not None]
                for one, other in itertools.pairwise(known):
                    self._graph.edge(one.id, other.id, _WW)
                for one in known[-1:]:
                    for other in unseen[key]:
                        self._graph.edge(one.id, other.id, _WW)
        for (reader, key), values in self._external.items():
            writer = self._committer(key, values[-1]) if values else None
            if writer is not None:
                self._graph.edge(writer.id, reader, _WR)
            order, certain = orders[key]
            if certain and len(values) < len(order):
                writer = self._committer(key, order[len(values)])
                if writer is not None:
                    self._graph.edge(reader, writer.id, _RW)
            elif certain:
                for writer in unseen[key]:
                    self._graph.edge(reader, writer.id, _RW)

    def _committer(self, key: Key, value: Value) -> Transaction | None:
        one = self._writer.get((key, value))
        return None if one is None or one.outcome is Outcome.FAILED else one

    def _unseen(self, orders: dict[Key, tuple[Versions, bool]]) -> dict[Key, list[Transaction]]:
        """Return, by key, those whose appends come after all that was ever read, in an order that nobody knows."""
        unseen: dict[Key, list[Transaction]] = defaultdict(list)
        seen = {(key, value) for key, (order, _) in orders.items() for value in order}
        for one in self._committed:
            for operation in one.operations:
                if isinstance(operation, Append) and (operation.key, operation.value) not in seen:
                    unseen[operation.key].append(one)
        return unseen

    def _lost_updates(self) -> list[frozenset[Id]]:
        """Find transactions that changed one key on top of the same version of it."""
        on_top: dict[tuple[Key, Versions], list[Id]] = defaultdict(list)
        for (reader, key), values in self._external.items():
            if (reader, key) in self._last:
                on_top[key, values].append(reader)
        groups = []
        for (key, values), group in on_top.items():
            if len(group) > 1:
                groups.append(frozenset(group))
                who = ", ".join(repr(one) for one in group)
                self._find(Anomaly.LOST_UPDATE, group, f"{who} read {key!r} as {_tail(values)}, and all appended to it")
        return groups

    def _real_time(self) -> None:
        """Add edges from those that ended to those that began after, but for those that follow from others."""
        events: list[tuple[float, int, Transaction]] = []
        for one in self._committed:
            events.append((one.began, 0, one))
            if one.outcome is Outcome.OK and one.ended < math.inf:
                events.append((one.ended, 1, one))
        before: dict[Id, list[Id]] = {}
        ended: dict[Id, None] = {}
        for _, end, one in sorted(events, key=lambda each: each[:2]):
            if not end:
                before[one.id] = list(ended)
                for earlier in ended:
                    self._graph.edge(earlier, one.id, _REAL_TIME)
            else:
                for earlier in before[one.id]:
                    ended.pop(earlier, None)
                ended[one.id] = None

    # --- cycles ---------------------------------------------------------------------------------------------------------

    def _cycles(self, lost: list[frozenset[Id]]) -> None:
        for component in self._graph.components(_WW | _WR | _RW | _REAL_TIME):
            members = dict.fromkeys(component)
            for anomaly, kinds, one_rw in _LEVELS:
                cycle = self._with_one_rw(kinds, members) if one_rw else self._graph.cycle(kinds, members)
                if cycle is not None:
                    if not any(group.issuperset(cycle) for group in lost):
                        self._find(anomaly, cycle, self._told(cycle))
                    break

    def _with_one_rw(self, kinds: int, members: dict[Id, None]) -> list[Id] | None:
        """Return a shortest cycle of one *rw* edge and edges of ``kinds``, or None."""
        best: list[Id] | None = None
        for reader in members:
            for writer in self._graph.after(reader, _RW, members):
                path = self._graph.path(writer, reader, kinds, members)
                if path is not None and (best is None or len(path) < len(best)):
                    best = [path[-1], *path[:-1]]
            if best is not None and len(best) == 2:
                break
        return best

    def _told(self, cycle: Sequence[Id]) -> str:
        parts = [repr(cycle[0])]
        for one, other in zip(cycle, [*cycle[1:], cycle[0]], strict=True):
            kinds = self._graph.edges[one][other]
            parts.append(f"-{'+'.join(name for kind, name in _KINDS.items() if kinds & kind)}-> {other!r}")
        return " ".join(parts)


def _reads(one: Transaction) -> Iterator[tuple[Key, Versions]]:
    return ((each.key, each.values) for each in one.operations if isinstance(each, Read))


def _tail(values: Versions, shown: int = 5) -> str:
    """Return the end of a list, as text."""
    dots = ["..."] if len(values) > shown else []
    return f"[{', '.join([*dots, *(repr(value) for value in values[-shown:])])}]"
