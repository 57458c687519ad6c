"""Components, paths and cycles of graphs, against brute force."""

from __future__ import annotations

import itertools
import random

from amino.testing.cycles import Graph


def graph_of(*edges):
    graph = Graph()
    for one, other, kind in edges:
        graph.node(one)
        graph.edge(one, other, kind)
    return graph


def test_components_are_those_that_reach_each_other():
    """Kinds that are not asked for do not count, and neither do nodes outside of the chosen ones."""
    graph = graph_of((1, 2, 1), (2, 3, 1), (3, 1, 2), (3, 4, 1), (4, 5, 1), (5, 4, 1))
    assert [set(each) for each in graph.components(1)] == [{4, 5}]
    assert sorted(map(sorted, graph.components(3))) == [[1, 2, 3], [4, 5]]
    assert graph.components(3, {1, 2, 4}) == []


def test_an_edge_to_itself_is_none():
    """Nobody depends on itself."""
    graph = graph_of((1, 1, 1), (1, 2, 1))
    assert graph.components(1) == []
    assert graph.edges == {1: {2: 1}, 2: {}}


def test_the_shortest_cycle_and_path_are_found():
    """A detour is not taken."""
    graph = graph_of((1, 2, 1), (2, 3, 1), (3, 4, 1), (4, 1, 1), (2, 4, 1))
    assert graph.path(1, 4, 1, graph.edges) == [1, 2, 4]
    assert graph.path(4, 2, 2, graph.edges) is None
    cycle = graph.cycle(1, graph.edges)
    assert cycle is not None
    assert sorted(cycle) == [1, 2, 4]
    assert graph.cycle(2, graph.edges) is None


def test_components_agree_with_brute_force():
    """In random graphs two nodes are in one component exactly if each reaches the other."""
    chosen = random.Random(1)
    for _ in range(200):
        nodes = range(chosen.randint(1, 9))
        graph = Graph()
        for one in nodes:
            graph.node(one)
        for one, other in itertools.product(nodes, nodes):
            if chosen.random() < 0.2:
                graph.edge(one, other, 1)
        where = {node: number for number, each in enumerate(graph.components(1)) for node in each}
        for one, other in itertools.permutations(nodes, 2):
            both = all(graph.path(a, b, 1, graph.edges) is not None for a, b in ((one, other), (other, one)))
            assert both == (one in where and where.get(one) == where.get(other))
