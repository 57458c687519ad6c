"""Drives the machine of one replica: carries its messages, edits the document, keeps its time, releases who waits.

Owns the machine, what it asks for, and callers that wait for a commit. Leaves every decision to ``machine``, running methods
to ``replica``, and the object's state to ``replaying``.
Invariants: the machine is touched on the server's loop only (questions that change nothing may come from threads);
effects are carried out in the order given.
Failure behaviour: lost messages and refused edits are repeated by the machine; without a valid session nothing is sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from amino.aio.signal import Signal
from amino.contracts.documents import ReplicaDocument
from amino.dm.replication import effects as fx
from amino.dm.replication.machine import TICK_S, Machine, Role
from amino.dm.replication.messages import Member, Message, SnapshotHeader, decode, encode
from amino.dm.replication.view import View
from amino.errors import AminoError, CoordinationUnavailable, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any, Protocol

    from amino.contracts.context import ServerContext
    from amino.contracts.documents import GroupDocument
    from amino.dm.replication.messages import Entry
    from amino.dm.replication.view import Options

    class State(Protocol):
        """Who carries out what concerns the object's state."""

        def apply(self, entries: tuple[Entry, ...]) -> None:
            """See ``effects.Apply``."""
            ...

        def install(self, header: SnapshotHeader) -> None:
            """See ``effects.Install``."""
            ...

        def take_snapshot(self, to: Member) -> None:
            """See ``effects.TakeSnapshot``."""
            ...

        def send_snapshot(self, to: Member, header: SnapshotHeader) -> None:
            """See ``effects.SendSnapshot``."""
            ...

        def listed(self, members: tuple[Member, ...]) -> None:
            """Drop snapshots kept for others than ``members``."""
            ...


MESSAGE = "message"
_IDLE_TICK_S = 0.25

Committed = Signal[BaseException | None]
"""Set with None when an entry is committed, else with what its caller is told."""


class Driver:
    """Drives the machine of one replica.

    Args:
        options: of the group.
        context: of the component.

    Attributes:
        broken: why this replica may not answer whatever the machine says; empty while it may.
        unlogged: whether the state holds the effect of a call that is not in the log yet.
    """

    def __init__(self, options: Options, context: ServerContext) -> None:
        self._options = options
        self._context = context
        self.me = Member(context.replica, context.server, context.incarnation)
        self.machine = Machine(self.me, options, state_at=None if context.joining else 0)
        self.state: State
        self.stopped = False
        self.now = context.clock.boottime
        self._may_act = context.session_valid
        self._waiting: deque[tuple[int, Committed]] = deque()
        self._changed: Signal[bool] | None = None
        self._changing = threading.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._busy = False
        self._report_under_way = False
        self.broken = ""
        self.unlogged = False

    def __repr__(self) -> str:
        return f"Driver({self.machine!r})"

    # --- life -------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to take part."""
        self._tick()
        self.document_changed()

    def stop(self) -> None:
        """Take part no more: callers end as unknown, and others need not wait for what they promised to this primary."""
        self.do(self.machine.stop())
        self.stopped = True
        if self._timer is not None:
            self._timer.cancel()
        self._context.beat(None)
        self.end_waiting(None, "its replica left the server")
        self._tell_change()

    def document_changed(self) -> None:
        """Obey the group's document as this server knows it."""
        document, revision = self._context.group
        view = view_of(document, revision)
        self.state.listed(view.replicas)
        self.do(self.machine.document(view, self.now()))
        self._context.answer_at(document.epoch)
        self._context.beat(document.epoch if document.primary == self.me.id else None)

    async def server_lost(self, server: str, incarnation: int) -> None:
        """Find out whether it is proven dead, and tell the machine."""
        try:
            proven = await self._context.proven_dead(server, incarnation)
        except AminoError:
            proven = False
        self.do(self.machine.server_lost(server, incarnation, self.now(), proven=proven))
        self.do(self.machine.tick(self.now()))

    def _tick(self) -> None:
        if self.stopped:
            return
        try:
            self._do_what_is_due()
        finally:  # whatever went wrong: without ticks a replica is dead
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(TICK_S if self._busy else _IDLE_TICK_S, self._tick)

    def _do_what_is_due(self) -> None:
        machine = self.machine
        self.do(machine.tick(self.now()))
        self._busy = bool(self._waiting) or machine.hurried
        document = self._context.group[0]
        held = machine.blocked or self.broken
        if document.report.startswith(f"{machine.epoch} ") and machine.role is Role.PRIMARY and not held:
            self.report("")

    def _hurry(self) -> None:
        """Tick soon: somebody waits."""
        if not self._busy and self._timer is not None and not self.stopped:
            self._busy = True
            self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_later(TICK_S, self._tick)

    # --- waiting ----------------------------------------------------------------------------------------------------

    def watch(self) -> Signal[bool]:
        """Return what is set when something changes next; take it before looking. From any thread."""
        with self._changing:
            if self._changed is None:
                self._changed = Signal()
            return self._changed

    def _tell_change(self) -> None:
        if self._changed is not None:
            with self._changing:
                changed, self._changed = self._changed, None
            changed.set(True)

    @property
    def serving(self) -> bool:
        """Whether calls may begin here: this is the primary, and what its state holds is in the log. From any thread."""
        return self.machine.role is Role.PRIMARY and not self.unlogged and not self.broken

    def may_write(self) -> str | None:
        """Return why no mutating call may begin here, or None if one may. From any thread."""
        if self.broken:
            return self.broken
        if self.unlogged:
            return "a new epoch has begun, and its primary is not known yet"
        return self.machine.may_write()

    def append(self, payload: bytes, digest: int, committed: Committed) -> bool:
        """Put what was executed into the log (on the loop); returns whether this primary could.

        Args:
            payload: empty for what is in the log already: a retry of something done.
            committed: is set when it is committed, or cannot be known to be.
        """
        machine = self.machine
        if payload:
            index, effects = machine.executed(payload, digest, self.now())
            if index is None:
                return False
            self._waiting.append((index, committed))
            self.do(effects)
        elif machine.commit_index < machine.log_end:
            self._waiting.append((machine.log_end, committed))
        else:
            committed.set(None)
        if self._waiting:
            self._hurry()
        return True

    @property
    def deposed(self) -> bool:
        """Whether this replica will not serve as primary before another has."""
        view = self.machine.view
        return (
            self.stopped
            or self.machine.role in (Role.DEPOSED, Role.DISCARDED)
            or view is None
            or view.primary != self.me.id
        )

    @property
    def discarded(self) -> bool:
        """Whether the group goes on without this replica."""
        return self.machine.role is Role.DISCARDED

    def end_waiting(self, index: int | None, why: str) -> None:
        """End calls that wait for entries up to ``index`` (None: all) as unknown."""
        while self._waiting and (index is None or self._waiting[0][0] <= index):
            self._waiting.popleft()[1].set(
                OutcomeUnknown(f"a call of {self._context.microservice} ran, and {why}; it may be done or undone")
            )

    # --- what the machine asks --------------------------------------------------------------------------------------

    def do(self, effects: Iterable[fx.Effect]) -> None:
        """Carry out effects, in order (on the loop), and let those who wait look again."""
        for effect in effects:
            if type(effect) is fx.Send:  # most are
                self._post(effect.to, encode(effect.message))
            else:
                self._carry_out(effect)
        self._tell_change()

    def _carry_out(self, effect: fx.Effect) -> None:
        match effect:
            case fx.Committed(index):
                while self._waiting and self._waiting[0][0] <= index:
                    self._waiting.popleft()[1].set(None)
            case fx.TimedOut(index):
                self.end_waiting(index, "it was not acknowledged by every in-sync replica in time")
            case fx.Apply(entries):
                self.state.apply(entries)
            case fx.Deposed():
                self.state.listed(())
                self.end_waiting(None, "another replica is primary now")
            case fx.Discard(reason):
                self._context.event("replica-discarded", reason=reason)
                self.end_waiting(None, "its replica was removed from the group")
            case fx.Edit(in_sync, _, revision):
                self._context.spawn(self._edit(in_sync, revision), "edit")
            case fx.Report(kind, reason, reaches):
                self.report(f"{kind}: {reason}; reaches {', '.join(reaches) or 'none'}")
            case fx.TakeSnapshot(to):
                self.state.take_snapshot(to)
            case fx.SendSnapshot(to, header):
                self.state.send_snapshot(to, header)
            case fx.Install(header):
                self.state.install(header)
            case fx.Diverged(index, expected, got):
                self._context.event("replica-diverged", index=index, expected=expected, got=got)
            case fx.Serving(epoch):
                self._context.event("primary", epoch=epoch)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _post(self, to: Member, content: bytes) -> None:
        """Send, if the session is valid; the machine sends again what is not answered."""
        context, timeout_s = self._context, self._options.append_timeout_s
        if self.stopped or not self._may_act():
            return
        try:
            if context.post(address_of(to), MESSAGE, content, timeout_s, self._answered):
                return
        except AminoError:
            return  # too much is in flight
        context.spawn(self._send(to, content), "send")

    async def _send(self, to: Member, content: bytes) -> None:
        """As ``_post``, over a link that must be opened first, or has no room now."""
        with contextlib.suppress(AminoError, TimeoutError):
            self._answered(await self._context.notify(address_of(to), MESSAGE, content, self._options.append_timeout_s))

    def _answered(self, answer: bytes) -> None:
        if answer and not self.stopped:
            self.do(self.machine.message(decode(answer), self.now()))

    def take(self, content: bytes) -> bytes:
        """Take a message of another replica; returns the answer to its sender, empty if there is none."""
        message = decode(content)
        sender = message.sender
        answer: Message | None = None
        rest: list[fx.Effect] = []
        for effect in self.machine.message(message, self.now()):
            if answer is None and isinstance(effect, fx.Send) and effect.to == sender:
                answer = effect.message
            else:
                rest.append(effect)
        self.do(rest)
        return encode(answer) if answer is not None else b""

    # --- the document -----------------------------------------------------------------------------------------------

    async def _edit(self, in_sync: tuple[str, ...], revision: int) -> None:
        document, at = self._context.group
        if at != revision:
            self.do(self.machine.edit_settled(view_of(document, at), self.now()))
            return
        goal = _replaced(document, in_sync=in_sync, report="")
        try:
            _, found, at = await self._context.edit_group(goal, revision)
        except CoordinationUnavailable:
            self.do(self.machine.edit_unknown(self.now()))
            return
        except AminoError as error:  # certainly not written
            self._context.event("in-sync-set-not-written", error=error)
            self.do(self.machine.edit_settled(None, self.now()))
            return
        self.do(self.machine.edit_settled(view_of(found, at) if found is not None else None, self.now()))

    def report(self, text: str) -> None:
        """Tell the slot leader ``text``, through the document; nothing takes an earlier report back."""
        if not self._report_under_way:
            self._report_under_way = True
            self._context.spawn(self._report(text), "report")

    async def _report(self, text: str) -> None:
        try:
            document, revision = self._context.group
            report = f"{document.epoch} {text}" if text else ""
            if document.report != report:
                await self._context.edit_group(_replaced(document, report=report), revision)
        except AminoError:
            return  # it is repeated while it holds
        finally:
            self._report_under_way = False


def address_of(member: Member) -> ReplicaDocument:
    """Return where messages to a replica go."""
    return ReplicaDocument(member.id, member.server, member.incarnation)


def view_of(document: GroupDocument, revision: int) -> View:
    """Return the part of the document that the machine obeys."""
    members = tuple(
        Member(one.id, one.server, one.incarnation)
        for one in document.replicas
        if one.confirmed or one.source == "resume"  # it has been confirmed, and goes on after a change given up
    )
    listed = {member.id for member in members}
    primary = document.primary if document.primary in listed else ""
    in_sync = tuple(one for one in document.in_sync if one in listed) if primary else ()
    return View(document.epoch, revision, members, primary, in_sync)


def _replaced(document: GroupDocument, **fields: Any) -> GroupDocument:
    return msgspec.structs.replace(document, version=document.version + 1, **fields)
