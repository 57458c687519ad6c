"""What the gRPC library reads from the environment, set before it is loaded.

Owns the defaults. Leaves calling this first to whoever starts a process.
Invariant: what the operator has set stays. Failure behaviour: none; set too late, the library keeps its own defaults.
"""

from __future__ import annotations

from collections.abc import MutableMapping

DEFAULTS = {
    # Its fork handlers only matter to children that go on using gRPC, which ours never do; with uvloop each start of
    # a subprocess makes them complain.
    "GRPC_ENABLE_FORK_SUPPORT": "0",
    # Otherwise every connection that a peer closes is a line on stderr, beside the log.
    "GRPC_VERBOSITY": "ERROR",
}


def prepare_environment(environment: MutableMapping[str, str]) -> None:
    """Set what is not set yet; call with ``os.environ`` before anything imports ``grpc``."""
    for name, value in DEFAULTS.items():
        environment.setdefault(name, value)
