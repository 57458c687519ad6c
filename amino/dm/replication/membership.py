"""The in-sync set as its primary edits it: whose acknowledgements are needed, when to propose another set.

Owns the edit under way and those whose outcome is unknown. Leaves the choice of a set to ``insync``, writing to the adapter.
Invariants: acknowledgements are needed from every set that the document may hold now or later; a joiner is proposed
only when it has everything that is or may be committed, and no earlier primary reads any more; one edit is asked for at a time.
Failure behaviour: an edit whose outcome is unknown is repeated; what cannot be mended here is reported, once a second.
"""

from __future__ import annotations

from collections.abc import Mapping

from amino.dm.replication.effects import Edit, Effect, Report
from amino.dm.replication.insync import proposed
from amino.dm.replication.progress import Progress
from amino.dm.replication.state import ReplicaState
from amino.dm.replication.view import View

REPORT_EVERY_S = 1.0


class Membership:
    """The in-sync set of one epoch.

    Args:
        state: of the primary.
        view: the document that made it primary.
    """

    def __init__(self, state: ReplicaState, view: View) -> None:
        self._state = state
        self._view = view
        self._unsettled: set[str] = set()  # of edits that may have landed or may still land
        self._last: tuple[str, ...] = ()
        self._editing = False
        self._edit_at = 0.0
        self._blocked_since: float | None = None
        self._report_at = 0.0
        self.blocked = ""

    @property
    def needed(self) -> set[str]:
        """Ids whose acknowledgement a commit and a read need: of the document and of every unsettled edit."""
        if self._unsettled and not self._state.rules.union:
            return set(self._last)
        return {*self._view.in_sync, *self._unsettled}

    def document(self, view: View) -> None:
        """Note a newer document: edits compared an older revision, so each has either landed in it or never will."""
        self._view = view
        self._unsettled.clear()

    def settled(self, now: float) -> None:
        """Note that the edit under way has ended; a newer document, if there is one, was noted before."""
        self._editing = False
        self._edit_at = now + self._state.options.append_timeout_s / 5

    def unknown(self, now: float) -> None:
        """Note that nobody knows the outcome of the edit under way: it may have landed, and it may still land."""
        self.settled(now)
        if not self._state.rules.unknown_may_land:
            self._unsettled.clear()

    def silent(self, one: Progress, now: float) -> bool:
        """Return whether a replica owes an answer for too long, as an append, a heartbeat or its whole server."""
        options = self._state.options
        limit = options.append_timeout_s / 2
        return (
            (one.member.server, one.member.incarnation) in self._state.lost
            or (one.waiting_since is not None and now - one.waiting_since > limit)
            or now - max(one.covered, one.began) > max(limit, options.read_lease_s)
        )

    def tick(self, progress: Mapping[str, Progress], must_have: int, now: float) -> list[Effect]:
        """Propose another set, or report that none would help.

        Args:
            progress: of all listed replicas but this one.
            must_have: index up to which entries are, or may be, committed.
        """
        state, in_sync = self._state, self._view.in_sync
        answering = {replica for replica, one in progress.items() if not self.silent(one, now)}
        have = must_have if state.rules.caught_up_first else 0
        ready = {replica for replica in answering if replica not in in_sync and progress[replica].match >= have}
        if now < state.free_at():
            ready = set()  # they may have promised nothing to an earlier primary that still reads, and would be heirs
        answering &= set(in_sync)
        answering.add(state.me.id)
        wanted = proposed(in_sync, answering, ready, state.options.min_in_sync)
        effects = self._report(answering, now) if wanted is None else []
        if wanted is not None:
            self.blocked, self._blocked_since = "", None
        if self._editing or now < self._edit_at or (wanted is None and not self._unsettled):
            return effects
        self._last = wanted or in_sync
        self._unsettled.update(self._last)
        self._editing = True
        return [*effects, Edit(self._last, self._view.epoch, self._view.revision)]

    def _report(self, answering: set[str], now: float) -> list[Effect]:
        options, in_sync = self._state.options, self._view.in_sync
        missing = [replica for replica in in_sync if replica not in answering]
        if missing:
            kind, reason = "stuck", f"no answer from {', '.join(missing)}, and no other in-sync set would do"
        elif len(in_sync) < options.min_in_sync:
            kind, reason = "short", f"in-sync set {', '.join(in_sync)} is below min_in_sync={options.min_in_sync}"
        else:
            self.blocked, self._blocked_since = "", None
            return []
        self.blocked = reason
        if self._blocked_since is None:
            self._blocked_since = now
            self._report_at = now + options.append_timeout_s
        if now < self._report_at:
            return []
        self._report_at = now + REPORT_EVERY_S
        return [Report(kind, reason, tuple(replica for replica in in_sync if replica in answering))]
