"""Workloads: a plain class each, the workers that call it and record what they saw, and the judges that fit.

Not here: breaking things, and what a judge checks.
"""
