"""Benchmarks: ``python -m bench NAME --json FILE``, and ``python -m bench bars`` for those with bars.

Not here: chaos (``chaos``) and correctness (``tests``). Results and commands are in ``docs/benchmarks.md``.
"""
