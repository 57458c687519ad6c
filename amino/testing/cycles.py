"""Cycles in directed graphs whose edges have kinds.

Owns strongly connected components and shortest paths. Leaves what edges mean to ``serializability``.
Invariants: pure; the same graph, built in the same order, gives the same answers.
Failure behaviour: none.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Hashable, Iterator
from typing import Generic, TypeVar

Node = TypeVar("Node", bound=Hashable)


class Graph(Generic[Node]):
    """A directed graph; each edge has one or more kinds, a bit each.

    Attributes:
        edges: from each node, to each node: the kinds of the edge. Every node is a key.
    """

    def __init__(self) -> None:
        self.edges: dict[Node, dict[Node, int]] = {}

    def node(self, one: Node) -> None:
        """Add a node."""
        self.edges.setdefault(one, {})

    def edge(self, one: Node, other: Node, kind: int) -> None:
        """Add ``kind`` to the edge from ``one`` to ``other``; an edge to itself is none."""
        if one != other:
            self.node(other)
            targets = self.edges.setdefault(one, {})
            targets[other] = targets.get(other, 0) | kind

    def after(self, one: Node, kinds: int, within: Collection[Node]) -> Iterator[Node]:
        """Return where edges of ``kinds`` lead from ``one``, of the nodes ``within``."""
        return (other for other, kind in self.edges[one].items() if kind & kinds and other in within)

    def components(self, kinds: int, within: Collection[Node] | None = None) -> list[list[Node]]:
        """Return the strongly connected components of more than one node, over edges of ``kinds`` only.

        Tarjan, *Depth-first search and linear graph algorithms*, SIAM J. Comput. 1 (1972), without recursion: time in
        proportion to nodes and edges.
        """
        chosen: Collection[Node] = self.edges if within is None else within
        number: dict[Node, int] = {}
        low: dict[Node, int] = {}
        stack: list[Node] = []
        on_stack: set[Node] = set()
        found: list[list[Node]] = []

        def enter(node: Node) -> tuple[Node, Iterator[Node]]:
            number[node] = low[node] = len(number)
            stack.append(node)
            on_stack.add(node)
            return node, self.after(node, kinds, chosen)

        for root in chosen:
            if root in number:
                continue
            work = [enter(root)]
            while work:
                node, rest = work[-1]
                other = next(rest, None)
                if other is not None:
                    if other not in number:
                        work.append(enter(other))
                    elif other in on_stack:
                        low[node] = min(low[node], number[other])
                    continue
                work.pop()
                if work:
                    parent = work[-1][0]
                    low[parent] = min(low[parent], low[node])
                if low[node] == number[node]:
                    component = [stack.pop()]
                    while component[-1] != node:
                        component.append(stack.pop())
                    on_stack.difference_update(component)
                    if len(component) > 1:
                        found.append(component[::-1])
        return found

    def path(self, one: Node, other: Node, kinds: int, within: Collection[Node]) -> list[Node] | None:
        """Return a shortest path over edges of ``kinds``, both ends included, or None."""
        came_from: dict[Node, Node] = {}
        waiting = deque([one])
        while waiting:
            node = waiting.popleft()
            for following in self.after(node, kinds, within):
                if following == other:
                    path = [other, node]
                    while path[-1] != one:
                        path.append(came_from[path[-1]])
                    return path[::-1]
                if following not in came_from and following != one:
                    came_from[following] = node
                    waiting.append(following)
        return None

    def cycle(self, kinds: int, within: Collection[Node]) -> list[Node] | None:
        """Return a shortest cycle over edges of ``kinds`` as its nodes, the first one once, or None."""
        best: list[Node] | None = None
        for component in self.components(kinds, within):
            members = set(component)
            for node in component:
                path = self.path(node, node, kinds, members)
                if path is not None and (best is None or len(path) < len(best) + 1):
                    best = path[:-1]
                if best is not None and len(best) == 2:
                    return best
        return best
