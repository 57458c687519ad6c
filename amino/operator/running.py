"""The operator as a process: put together from its configuration, run until SIGTERM.

Owns which part gets which other part, and the settings of kopf. Leaves the work to ``handlers`` and ``scaling``.
Invariants: nothing of kopf's state is global; the marks it leaves on resources are named ``amino.run``.
Failure behaviour: a wrong configuration ends the process with code 1 and one line; a cluster or an API server that is away is waited for.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import kopf

import amino
from amino.aio.clock import RealClock
from amino.aio.tasks import TaskOwner
from amino.errors import AminoError
from amino.operator.config import ALL_NAMESPACES, OperatorConfig, from_environment
from amino.operator.handlers import GROUP, RETRY_S, register
from amino.operator.kubernetes import KubernetesApi
from amino.operator.microservices import ClusterMicroservices, Microservices
from amino.operator.scaling import Scaler, scale_path
from amino.rpc.tls import TlsConfig
from amino.stubs.cluster import Cluster
from amino.telemetry import logs
from amino.telemetry.trace import Telemetry

CONNECT_S = 10.0


def run() -> None:
    """Run the operator as the environment says; ends the process."""
    logs.configure(Telemetry.disabled())
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        config = from_environment(os.environ)
        microservices = ClusterMicroservices(lambda: connect(config), fresh_s=config.poll_s / 2)
        asyncio.run(operate(config, microservices))
    except AminoError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    sys.exit(0)


def connect(config: OperatorConfig) -> Cluster:
    """Connect to the cluster of Amino; raises as ``amino.connect``."""
    client = config.client
    tls = None if client.tls is None else TlsConfig(client.tls.ca, client.tls.cert, client.tls.key)
    return amino.connect(
        *client.addresses, cluster=client.cluster, tls=tls, timeout_s=CONNECT_S, insecure=config.insecure
    )


def settings() -> kopf.OperatorSettings:
    """Return how kopf is to work for us."""
    chosen = kopf.OperatorSettings()
    chosen.persistence.finalizer = f"{GROUP}/operator"
    chosen.persistence.progress_storage = kopf.AnnotationsProgressStorage(prefix=f"operator.{GROUP}", v1=False)
    chosen.persistence.diffbase_storage = kopf.AnnotationsDiffBaseStorage(
        prefix=f"operator.{GROUP}", key="last-applied", v1=False
    )
    chosen.posting.level = logging.WARNING  # events of a resource: what went wrong
    chosen.peering.standalone = True
    chosen.watching.server_timeout = 300
    # how long a resource stays that is deleted while its state is looked at; kopf's own is a minute
    chosen.background.cancellation_polling = 1.0
    return chosen


async def operate(
    config: OperatorConfig,
    microservices: Microservices,
    *,
    chosen: kopf.OperatorSettings | None = None,
    login: Any = None,
    kubernetes: KubernetesApi | None = None,
    retry_s: float = RETRY_S,
    **more: Any,
) -> None:
    """Operate until told to stop; closes ``microservices`` at the end.

    Args:
        chosen: settings of kopf.
        login: how kopf reaches Kubernetes; default: the pod's service account, else the user's kubeconfig.
        retry_s: how long after a failure the next try is made.
        kubernetes: for the number of servers; default: the pod's.
        more: for ``kopf.operator``, for example ``stop_flag`` and ``ready_flag``.
    """
    registry = kopf.OperatorRegistry()
    if login is None:
        kopf.on.login(registry=registry, id="account", errors=kopf.ErrorsMode.IGNORED)(kopf.login_with_service_account)
        kopf.on.login(registry=registry, id="kubeconfig", errors=kopf.ErrorsMode.IGNORED)(kopf.login_with_kubeconfig)
    else:
        kopf.on.login(registry=registry, id="given")(login)
    register(registry, microservices, poll_s=config.poll_s, retry_s=retry_s)
    everywhere = ALL_NAMESPACES in config.namespaces
    tasks = TaskOwner("operator")
    try:
        if config.statefulset:
            path = scale_path(config.home, config.statefulset)
            api = kubernetes if kubernetes is not None else KubernetesApi.of_pod(os.environ)
            tasks.spawn(Scaler(microservices, api, path, config.bounds, RealClock()).run(), "scaling")
        await kopf.operator(
            registry=registry,
            settings=chosen if chosen is not None else settings(),
            clusterwide=everywhere,
            namespaces=() if everywhere else config.namespaces,
            liveness_endpoint=config.liveness or None,
            **more,
        )
    finally:
        await tasks.aclose()
        await asyncio.to_thread(microservices.close)
