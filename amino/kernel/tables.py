"""What Amino itself keeps in an object's state, beside the user's instance: fencing tokens, timers, events.

Owns these tables, made when first used, and their form in snapshots. Leaves what changes them to methods that run.
Invariants: they change only inside changing methods, from what a replay knows too, so that every copy of the object has equal
ones; they travel wherever the object's state does; each is bounded.
Failure behaviour: a table that is full refuses with ``Invalid`` that names the bound; nothing of the call's is undone.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

from amino import limits
from amino.errors import Invalid, StaleToken
from amino.kernel.outbox import Outbox
from amino.kernel.timers import Timer, TimerTable

if TYPE_CHECKING:
    from collections.abc import Callable

    from amino.contracts.own import Firing


class Tables:
    """The tables of one object. Safe to use from several threads.

    Args:
        arm: called with each timer whose next occurrence is new.
    """

    __slots__ = ("_arm", "former", "lock", "outbox", "timers", "tokens")

    def __init__(self, arm: Callable[[Timer], None]) -> None:
        self._arm = arm
        self.lock = threading.Lock()
        self.tokens: dict[str, int] = {}
        self.timers: TimerTable | None = None
        self.outbox: Outbox | None = None
        self.former: dict[str, Outbox] = {}  # of shards that have left, by name

    def __repr__(self) -> str:
        return f"Tables({len(self.tokens)} tokens, {self.timers}, {self.outbox})"

    def check_token(self, name: str, token: int, *, readonly: bool) -> None:
        """Refuse a token older than the newest seen under ``name``, and remember a newer one.

        Args:
            readonly: the method may not change the object: only look.

        Raises:
            StaleToken: a later holder of the lock was here. Invalid: too many names.
        """
        with self.lock:
            newest = self.tokens.get(name, 0)
            if token < newest:
                raise StaleToken(
                    f"token {token} of lock {name!r} is older than {newest}, which was here before: the lock was lost "
                    "meanwhile; take it again and read the state before writing",
                    lock=name,
                    token=token,
                    newest=newest,
                )
            if readonly or token == newest:
                return
            if name not in self.tokens and len(self.tokens) >= limits.TOKENS_PER_OBJECT_MAX:
                raise Invalid(
                    f"this microservice remembers tokens of {len(self.tokens)} locks, the bound; use fewer lock names"
                )
            self.tokens[name] = token

    # --- timers ----------------------------------------------------------------------------------------------------

    def set_timer(self, name: str, method: str, arguments: bytes, **times: Any) -> str:
        """Add or replace a timer (see ``TimerTable.set``); returns its name."""
        with self.lock:
            if self.timers is None:
                self.timers = TimerTable()
            timer = self.timers.set(name, method, arguments, **times)
        self._arm(timer)
        return timer.name

    def adopt_timer(self, timer: Timer) -> None:
        """Take over a timer of another shard (see ``TimerTable.adopt``)."""
        with self.lock:
            if self.timers is None:
                self.timers = TimerTable()
            adopted = self.timers.adopt(timer)
        if adopted is not None:
            self._arm(adopted)

    def cancel_timer(self, name: str) -> bool:
        """Remove a timer; returns whether there was one."""
        with self.lock:
            return self.timers is not None and self.timers.cancel(name)

    def pending(self, name: str, timer_id: str, number: int) -> Timer | None:
        """Return the timer if that occurrence is its next."""
        with self.lock:
            return self.timers.pending(name, timer_id, number) if self.timers is not None else None

    def advance(self, timer: Timer, now_s: float) -> Firing | None:
        """Go past what is due of ``timer``; returns what to run."""
        with self.lock:
            assert self.timers is not None
            firing, later = self.timers.advance(timer, now_s)
        if later is not None:
            self._arm(later)
        return firing

    def all_timers(self) -> list[Timer]:
        """Return every timer."""
        with self.lock:
            return list(self.timers.timers.values()) if self.timers is not None else []

    def arm_new(self, before: Tables | None) -> None:
        """Have occurrences fire that were not there in the tables that these replace."""
        for timer in self.all_timers():
            if before is None or before.pending(timer.name, timer.id, timer.number) is None:
                self._arm(timer)

    # --- events ----------------------------------------------------------------------------------------------------

    def emit(self, topic: str, payload: bytes, *, branch: Callable[[], int], kept_max: int, bytes_max: int) -> None:
        """Add an event. ``branch``: the epoch, asked for when the first event of all is emitted."""
        with self.lock:
            if self.outbox is None:
                self.outbox = Outbox(branch())
            self.outbox.emit(topic, payload, kept_max=kept_max, bytes_max=bytes_max)

    def begin_branch(self, epoch: int) -> None:
        """The state is a checkpoint's: what was emitted after it was taken is another history."""
        with self.lock:
            if self.outbox is not None:
                self.outbox.begin_branch(epoch)

    def release(self, number: int) -> None:
        """Let readers have the events up to ``number``."""
        with self.lock:
            assert self.outbox is not None
            self.outbox.released = max(self.outbox.released, number)

    def release_as(self, before: Tables | None) -> None:
        """Let readers have only what they could have from the tables that these replace."""
        if self.outbox is not None:
            released = before.outbox.released if before is not None and before.outbox is not None else 0
            self.outbox.released = min(released, self.outbox.last)

    def release_all(self) -> None:
        """Let readers have every event: no call is running, and this is the state that serves."""
        with self.lock:
            if self.outbox is not None:
                self.outbox.released = self.outbox.settled = self.outbox.last

    def bequeathed(self, name: str) -> dict[str, Any]:
        """Return the events of this shard, ``name``, and of those it has inherited, for the shard that goes on with them."""
        with self.lock:
            kept = {each: outbox.snapshot() for each, outbox in self.former.items()}
            if self.outbox is not None:
                kept[name] = self.outbox.snapshot()
            return kept

    def inherit(self, events: dict[str, Any]) -> None:
        """Keep the events of shards that leave; beyond a bound those of the first that left are dropped. Idempotent."""
        with self.lock:
            for name in sorted(events, key=int):
                self.former[name] = Outbox.restored(events[name])
            size = sum(each.size for each in self.former.values())
            for name in sorted(self.former, key=int):
                if size <= limits.EVENT_BYTES_INHERITED_MAX:
                    break
                size -= self.former[name].size
                self.former[name].drop_all()

    def see_tokens(self, tokens: dict[str, int]) -> None:
        """Let no token pass that is older than those that another shard has seen."""
        with self.lock:
            for name, token in tokens.items():
                self.tokens[name] = max(token, self.tokens.get(name, 0))

    def keep_tokens(self, before: Tables) -> None:
        """Have no older token pass than before the state went back."""
        self.see_tokens(before.tokens)

    def keep_events(self, before: Tables) -> None:
        """Have the events of before the state went back on request: they were told, and their numbers are taken."""
        if before.outbox is not None:
            self.outbox = before.outbox
        self.former = before.former

    # --- snapshots -------------------------------------------------------------------------------------------------

    def snapshot(self) -> dict[str, Any]:
        """Return the tables as plain data."""
        with self.lock:
            kept: dict[str, Any] = {}
            if self.tokens:
                kept["tokens"] = dict(self.tokens)
            if self.timers is not None:
                kept["timers"] = self.timers.snapshot()
            if self.outbox is not None:
                kept["outbox"] = self.outbox.snapshot()
            if self.former:
                kept["former"] = {name: outbox.snapshot() for name, outbox in self.former.items()}
            return kept

    @classmethod
    def restored(cls, data: dict[str, Any] | None, arm: Callable[[Timer], None]) -> Tables | None:
        """Return the tables that ``snapshot`` returned; None if there were none."""
        if not data:
            return None
        tables = cls(arm)
        tables.tokens = dict(data.get("tokens", {}))
        if "timers" in data:
            tables.timers = TimerTable.restored(data["timers"])
        if "outbox" in data:
            tables.outbox = Outbox.restored(data["outbox"])
        tables.former = {name: Outbox.restored(events) for name, events in data.get("former", {}).items()}
        return tables
