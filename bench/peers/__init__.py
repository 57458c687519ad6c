"""The systems that Amino is measured beside, one module each.

Each runs in processes of its own (``python -m bench.peers NAME``), is timed by the loops of ``bench.stats``, and is
left out, with the reason, where it is not installed. Not here: what their numbers are compared with (``bench.calls``).
"""
