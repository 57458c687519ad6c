"""What the project promises under faults and bad input, proved on real etcd and real processes.

One module per row of the first table; counts are small here and full with ``python -m tests.acceptance --full``, which also
judges the times and writes ``docs/reports/acceptance.md``. The tests of the other tables are where what they test is: ``suites``.
"""
