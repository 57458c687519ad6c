"""A class that every manager can have, and what is asked of it under each stack.

Owns the service and the probes: values, order, transactions, placement, what is left after servers died. Leaves killing to
the tests.
Invariant: a probe asks only for what the stack's managers declare.
Failure behaviour: a broken guarantee is an assertion that names the stack.
"""

from __future__ import annotations

import threading
from typing import Any

import amino
from amino.dm import ExplicitCheckpoint, ExplicitMigration, TwoPhaseCommit
from amino.dm.base import Trait
from amino.errors import NotExecuted, OutcomeUnknown, StateLost
from tests.dm.combinations.stacks import Stack, keeps, provides, title
from tests.dm.replication.real_world import until

PATIENCE_S = 40.0
KEYS = ("amber", "beryl", "coral")
RACERS = 4


class Board:
    """Counts per key."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}

    @amino.key
    def add(self, key: str) -> int:
        """Count one on and return the count."""
        self.counts[key] = self.counts.get(key, 0) + 1
        return self.counts[key]

    @amino.key
    def add_slowly(self, key: str) -> int:
        """As ``add``, and lose counts unless calls run one at a time."""
        count = self.counts.get(key, 0)
        threading.Event().wait(0.003)  # others come in here
        self.counts[key] = count + 1
        return self.counts[key]

    @amino.key
    @amino.readonly
    def get(self, key: str) -> int:
        """Return a count."""
        return self.counts.get(key, 0)


class Subject:
    """One microservice under one stack, and what it has acknowledged."""

    def __init__(self, client: amino.Cluster, stack: Stack) -> None:
        self.client = client
        self.stack = stack
        self.name = title(stack).lower().replace("+", "-")
        self.board: Any = client.new(amino.spec(Board, name=self.name, dms=stack))
        self.expected: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"Subject({title(self.stack)}: {self.expected})"

    def hosts(self) -> set[str]:
        """Return the servers of its primaries and only replicas."""
        groups = [group for group in self.client.describe(self.board).groups.values() if group.replicas]
        return {
            next((one for one in group.replicas if one.id == group.primary), group.replicas[0]).server
            for group in groups
        }

    # --- before anything breaks -------------------------------------------------------------------------------------

    def use(self) -> None:
        """Check values, and each guarantee that its managers declare."""
        for key in KEYS * 2:
            self._add(key)
        self._read()
        if provides(self.stack, Trait.ORDER):
            self._race()
        if provides(self.stack, Trait.TRANSACTIONS):
            self._transact()
        self._look_at_places()
        if any(isinstance(one, ExplicitMigration) for one in self.stack) and not self._grouped():
            self._migrate()
        if any(isinstance(one, ExplicitCheckpoint) for one in self.stack):
            self._each_shard_checkpointed()
        self._read()

    def _add(self, key: str) -> None:
        answer = self._patiently(lambda: self.board.add(key))
        self.expected[key] = self.expected.get(key, 0) + 1
        assert answer == self.expected[key], f"{self}: add({key!r}) answered {answer}"

    def _read(self) -> None:
        found = {key: self._patiently(lambda key=key: self._read_one(key)) for key in self.expected}
        assert found == self.expected, f"{self}: found {found}"

    def _read_one(self, key: str) -> int:
        """Read; where replicas may answer a while late, until they do not."""
        if not any(type(one).__name__ == "LoadBalancedMasterSlave" for one in self.stack):
            return int(self.board.get(key))
        wanted = self.expected[key]
        return int(until(lambda: self.board.get(key) == wanted and wanted, 5.0, lambda: f"{self}: {key} is stale"))

    def _race(self) -> None:
        problems: list[BaseException] = []

        def run() -> None:
            try:
                self._patiently(lambda: self.board.add_slowly("raced"))
            except BaseException as error:  # noqa: BLE001 - told below
                problems.append(error)

        racers = [threading.Thread(target=run) for _ in range(RACERS)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join(PATIENCE_S)
        assert not problems, f"{self}: {problems}"
        self.expected["raced"] = self.expected.get("raced", 0) + RACERS

    def _transact(self) -> None:
        manager = next(type(one) for one in self.stack if Trait.TRANSACTIONS in one.provides)

        def begin() -> Any:
            if manager is TwoPhaseCommit:
                return self.client.transaction()
            return amino.control(self.board, manager).transaction()

        def both() -> None:
            with begin():
                self.board.add("together")
                self.board.add("together")

        self._patiently(both)
        self.expected["together"] = self.expected.get("together", 0) + 2
        try:
            with begin():
                self.board.add("together")
                raise KeyError("roll back")
        except KeyError:
            pass

    def _look_at_places(self) -> None:
        """Check that every group has its members, alike copies on distinct servers."""
        levels = [level for place, one in enumerate(self.stack) if (level := one.level(place)) is not None]
        replicated = next(
            (level.min_in_sync if level.devices else level.members for level in levels if level.kind == "replicated"), 0
        )  # without devices, as few servers as will do stand in
        shards = next((level.members for level in levels if level.kind == "shards"), 0)

        def placed() -> bool:
            groups = {
                path: group for path, group in self.client.describe(self.board).groups.items() if group.kind != "shards"
            }
            whole = [
                len(group.in_sync) == len({one.server for one in group.replicas}) == replicated
                for group in groups.values()
                if replicated
            ]
            return len(groups) == max(shards, 1) and all(whole)

        until(placed, PATIENCE_S, lambda: f"{self}: {self.client.describe(self.board).groups}")

    def _grouped(self) -> bool:
        return any(one.level(0) is not None for one in self.stack)

    def _migrate(self) -> None:
        """Move it to a server where it is not, and check that it is there."""
        names = {server.record.name for server in self.client.servers()}
        target = min(names - self.hosts())
        self._patiently(lambda: amino.control(self.board, ExplicitMigration).migrate_to(target))
        assert self.hosts() == {target}, f"{self}: not at {target}"

    def _each_shard_checkpointed(self) -> None:
        amino.control(self.board, ExplicitCheckpoint).checkpoint()

    # --- after its server died --------------------------------------------------------------------------------------

    def survives(self) -> None:
        """Check that it is what its managers promise: all that was acknowledged, once, or ``StateLost``; never less."""
        kept = keeps(self.stack) or any(isinstance(one, ExplicitCheckpoint) for one in self.stack)
        if kept:
            self._read()
            for key in KEYS:
                self._add(key)
            if any(isinstance(one, ExplicitCheckpoint) for one in self.stack):
                self._each_shard_checkpointed()
            self._look_at_places()  # as many copies as before, or the next loss would be one too many
            return
        for key in KEYS:
            assert self._value_or_loss(key) in (StateLost, self.expected[key]), f"{self}: a fresh object answered"

    def _value_or_loss(self, key: str) -> Any:
        try:
            return self._patiently(lambda: self.board.get(key))
        except StateLost:
            return StateLost

    def _patiently(self, call: Any) -> Any:
        """Call until it is answered: a stack without retries tells its caller what to do."""

        refused: list[Exception] = []

        def answered() -> Any:
            try:
                return [call()]
            except StateLost as error:
                return [error]
            except (NotExecuted, OutcomeUnknown) as error:
                if isinstance(error, OutcomeUnknown) and not any(map(_retries, self.stack)):
                    raise AssertionError(f"{self}: unknown while nothing was broken: {error}") from error
                refused[:] = [error]
                return None

        answer = until(answered, PATIENCE_S, lambda: f"{self} does not answer: {refused}")[0]
        if isinstance(answer, StateLost):
            raise answer
        return answer


def _retries(manager: Any) -> bool:
    return Trait.RETRIES in manager.provides
