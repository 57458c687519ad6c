"""Two-phase commit, pure: what a coordinator does next, and what a cohort holds.

Owns the order of steps and what each answer leads to. Leaves sending to ``distributed``, private copies and locks to
``cohort``, and the one decision that counts to the registry (``oms.decisions``).
Invariants: the decision's key exists before the first prepare; commit is wished only after every writer is prepared and
then every reader is unchanged; a writer is told only what the registry says is decided; the key of a commit goes only
after every writer has made it durable. A cohort that is prepared gives up nothing by itself.
Failure behaviour: an answer that is not known before the wish to commit leads to abort; the wish's own lost answer, or
that of a database that decides, leaves the outcome to recovery.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Begin:
    """Create the decision's key."""


@dataclass(frozen=True, slots=True)
class Prepare:
    """Have a writer validate, lock and keep its operations durably."""

    cohort: str


@dataclass(frozen=True, slots=True)
class Validate:
    """Have a reader say whether it is what was read."""

    cohort: str


@dataclass(frozen=True, slots=True)
class CommitResource:
    """Commit in the database, which decides."""


@dataclass(frozen=True, slots=True)
class Decide:
    """Wish an outcome of the registry, which answers with what is decided."""

    commit: bool


@dataclass(frozen=True, slots=True)
class Tell:
    """Tell a writer the outcome."""

    cohort: str
    commit: bool


@dataclass(frozen=True, slots=True)
class Drop:
    """Tell a cohort that may not be prepared to forget."""

    cohort: str


@dataclass(frozen=True, slots=True)
class End:
    """Remove the key: everybody knows."""


Effect = Begin | Prepare | Validate | CommitResource | Decide | Tell | Drop | End
YES, NO, UNKNOWN = "yes", "no", "unknown"


class Coordinator:
    """One transaction's coordinator: carry out what ``due()`` says, report each with ``done``, until it is empty.

    Args:
        writers, readers: cohorts that were called, those that may have changed and those that were only read; in any order.
        resource: whether a database decides.

    Attributes:
        outcome: ``committed``, ``aborted``, ``in doubt``; empty while it is open.
        why: what an abort was for: (reason, text).
    """

    def __init__(self, writers: tuple[str, ...], readers: tuple[str, ...] = (), *, resource: bool = False) -> None:
        self._writers = tuple(sorted(writers))
        self._readers = tuple(sorted(readers))
        self._resource = resource
        self._asked: list[str] = []
        self._untold = False
        self.outcome = ""
        self.why = ("", "")
        if writers:
            self._todo: deque[Effect] = deque([Begin()])
        else:
            self._todo = deque(Validate(each) for each in self._readers)
            self._todo_if_read_only()

    def __repr__(self) -> str:
        return f"Coordinator({self.outcome or 'open'}, {len(self._todo)} steps known)"

    def due(self) -> list[Effect]:
        """Return what to do now, empty when there is nothing left; of several, which cohorts are told, none waits for another."""
        told = list(itertools.takewhile(lambda each: isinstance(each, Tell | Drop), self._todo))
        return told or list(itertools.islice(self._todo, 1))

    def done(self, answer: str, reason: str = "", text: str = "") -> None:
        """Report the answer to the first of ``due()``: ``yes``, ``no`` or ``unknown``; to a ``Decide``: yes if commit is decided."""
        effect = self._todo.popleft()
        match effect:
            case Begin():
                self._begun(answer, text)
            case Prepare(cohort):
                self._asked.append(cohort)
                if answer != YES:
                    self._abort(reason, text)
            case Validate():
                if answer != YES:
                    self._abort(reason, text)
                self._todo_if_read_only()
            case CommitResource():
                self._resource_said(answer, reason, text)
            case Decide(commit):
                self._decided(answer, commit=commit)
            case Tell(_, commit):
                self._told(answer, commit=commit)
            case Drop() | End():
                pass

    def _begun(self, answer: str, text: str) -> None:
        if answer != YES:  # the key may be there, or land yet
            self._abort("lost", text)
            return
        self._todo.extend(Prepare(each) for each in self._writers)
        self._todo.extend(Validate(each) for each in self._readers)
        if self._resource:
            self._todo.append(CommitResource())
        self._todo.append(Decide(commit=True))

    def _todo_if_read_only(self) -> None:
        if not self._writers and not self._todo and not self.outcome:
            self.outcome = "committed"

    def _abort(self, reason: str, text: str) -> None:
        if not self._writers:
            self._finish_unprepared(reason, text)
            return
        self.why = (reason, text)
        self._todo = deque([Decide(commit=False)])

    def _finish_unprepared(self, reason: str, text: str) -> None:
        self.outcome, self.why = "aborted", (reason, text)
        self._todo = deque(Drop(each) for each in (*self._writers, *self._readers))

    def _resource_said(self, answer: str, reason: str, text: str) -> None:
        if answer == NO:
            self._abort(reason, text)
        elif answer == UNKNOWN:
            self._todo.clear()
            self.outcome = "in doubt"

    def _decided(self, answer: str, *, commit: bool) -> None:
        if answer == UNKNOWN:
            self._todo.clear()
            self.outcome = "in doubt" if commit else "aborted"
            return
        committed = answer == YES
        self.outcome = "committed" if committed else "aborted"
        if commit and not committed:
            self.why = ("expired", "it took so long that a cohort had it aborted")
        asked = self._asked
        self._todo = deque(Tell(each, committed) for each in asked)
        if not committed:
            self._todo.extend(Drop(each) for each in (*self._writers, *self._readers) if each not in asked)

    def _told(self, answer: str, *, commit: bool) -> None:
        if answer != YES:
            self._untold = True  # it learns by itself, tells the others again, and removes the key
        if commit and not self._todo and not self._untold:
            self._todo.append(End())


@dataclass(slots=True)
class Prepared:
    """What a cohort has promised; part of its state in snapshots.

    Args:
        transaction: its id. revision: of the decision's key.
        cohorts: everybody who is asked to prepare.
        resource: the database that decides, if one does.
        operations: what it will do on commit, encoded.
    """

    transaction: str
    revision: int
    cohorts: list[str]
    resource: str
    operations: bytes

    def to_state(self) -> list[object]:
        """Return it as plain data."""
        return [self.transaction, self.revision, list(self.cohorts), self.resource, self.operations]


@dataclass(slots=True)
class Cohort:
    """What a cohort holds: at most one promise."""

    prepared: Prepared | None = None
    _noticed: dict[str, float] = field(default_factory=dict)

    def holds(self, transaction: str) -> bool:
        """Whether it has promised ``transaction``."""
        return self.prepared is not None and self.prepared.transaction == transaction

    def prepare(self, promise: Prepared) -> bool:
        """Promise, unless something else is promised; returns whether it is."""
        if self.prepared is None:
            self.prepared = promise
        return self.prepared.transaction == promise.transaction

    def settle(self, transaction: str) -> Prepared | None:
        """An outcome has come: return the promise it is about, None if there is none (any more)."""
        return self.prepared if self.holds(transaction) else None

    def settled(self, transaction: str) -> None:
        """The outcome has been carried out."""
        if self.holds(transaction):
            self.prepared = None
        self._noticed.pop(transaction, None)

    def overdue(self, now: float, timeout_s: float) -> Prepared | None:
        """Return the promise whose outcome has not come for ``timeout_s`` seconds since it was first looked at."""
        promise = self.prepared
        if promise is None:
            self._noticed.clear()
            return None
        since = self._noticed.setdefault(promise.transaction, now)
        return promise if now - since >= timeout_s else None
