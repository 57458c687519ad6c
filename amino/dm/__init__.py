"""Deployment managers: the component model, chain, context and registry, and the managers themselves by family.

Not here: anything that a component could reach without its context: sockets, clocks, threads and etcd belong to the
layers below. Families never import each other.
"""
