"""Chaos: histories of real clusters under faults, workloads that record them, judges that read them, faults and clusters to break.

Not here: which scenarios Amino runs on itself, and the report of a run (``chaos/`` in the repository). See ``docs/chaos.md``.
"""
