"""Judges: a recorded history or a run's record in, a verdict out.

Not here: recording. A judge ends in bounded time; what it could not judge it says, as a failure.
"""
