"""Todo lists, and the manager that creates them."""

from __future__ import annotations

from dataclasses import dataclass

import amino
from amino.dm import AtLeastOnceRPC, PeriodicCheckpoint, SerializableRPC


@dataclass
class Item:
    number: int
    text: str
    done: bool = False


class TodoList:
    """The list of one user."""

    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.list: list[Item] = []

    def add(self, text: str) -> Item:
        item = Item(len(self.list) + 1, text)
        self.list.append(item)
        return item

    def finish(self, number: int) -> Item:
        if not 0 < number <= len(self.list):
            raise KeyError(f"{self.owner} has no item {number}")
        self.list[number - 1].done = True
        return self.list[number - 1]

    @amino.readonly
    def items(self) -> list[Item]:
        return list(self.list)

    @amino.readonly
    def where(self) -> str:
        """The server on which this runs now."""
        return amino.current().server


class TodoManager:
    """The entry: creates a list for each user and knows them all."""

    def __init__(self) -> None:
        self.lists: dict[str, TodoList] = {}  # refs: the lists themselves may be on any server

    def of(self, owner: str) -> TodoList:
        """Return the list of ``owner``, a new one at first."""
        if owner not in self.lists:
            # Each acknowledged change survives a crash; calls on one list run one at a time.
            dms = [AtLeastOnceRPC(), PeriodicCheckpoint(every=1), SerializableRPC()]
            spec = amino.spec(TodoList, name=f"todo.{owner}", labels={"owner": owner}, dms=dms)
            self.lists[owner] = amino.current().cluster.get_or_create(spec, owner)
        return self.lists[owner]

    @amino.readonly
    def owners(self) -> list[str]:
        return sorted(self.lists)

    @amino.readonly
    def open_items(self) -> int:
        """How much there is to do, over all lists: the manager calls each of them."""
        return sum(not item.done for todo in self.lists.values() for item in todo.items())
