"""How the processes of a server connect to etcd, from their configuration.

Owns the translation of configuration into an open store. Leaves the store to ``coordination``.
Invariant: opening sends nothing, so etcd may start later.
Failure behaviour: ``Invalid`` for endpoints or files that cannot be used.
"""

from __future__ import annotations

from amino.aio.clock import Clock
from amino.config import EtcdConfig
from amino.coordination.etcd import EtcdStore, EtcdTls
from amino.telemetry.trace import Telemetry

_SILENT = Telemetry.disabled()

_SILENT = Telemetry.disabled()


async def open_store(
    config: EtcdConfig, *, request_timeout_s: float, clock: Clock, telemetry: Telemetry = _SILENT
) -> EtcdStore:
    """Open the store that ``config`` names."""
    tls = None
    if config.tls is not None:
        tls = EtcdTls(config.tls.ca, config.tls.cert or None, config.tls.key or None)
    return await EtcdStore.open(
        config.endpoints,
        tls=tls,
        user=config.user or None,
        password=config.password or None,
        request_timeout_s=request_timeout_s,
        clock=clock,
        telemetry=telemetry,
    )
