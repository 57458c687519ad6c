"""Chaos for Amino itself: scenarios that break real clusters, record what clients saw, and say whether it may be so.

Owns which scenarios there are, running them and showing how it goes. Leaves clusters, faults, workloads and judges to
``amino.testing.chaos``, which users have too.
Invariant: the exit code is the verdict.
Failure behaviour: a run that could not be judged has failed.
"""
