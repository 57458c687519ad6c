"""The public test kit: local and simulated clusters, a fault-injecting transport, a pytest plugin, conformance kits.

Not here: tests of Amino itself (``tests/``). Fakes here are products, held to the same suites as the real parts.
"""
