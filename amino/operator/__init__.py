"""The operator of Kubernetes: microservices and applications as resources of ``amino.run/v1``, and servers as many as they need.

Needs the extra ``operator``. Not here: what applying means (``manifests``), and the manifests of Kubernetes (``deploy/kubernetes``).
"""

from __future__ import annotations


def main() -> None:
    """Run the operator until SIGTERM; ends the process with its exit code."""
    from amino.operator.running import run

    run()
