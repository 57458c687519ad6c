"""What the operator is told, by environment variables.

Owns their names and checks. Leaves acting on them to ``running``.
Invariant: a configuration that exists is valid.
Failure behaviour: ``Invalid`` names the variable, its value and the rule.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from amino.config import ClientConfig, TlsFiles
from amino.errors import Invalid
from amino.operator.scaling_machine import Bounds

NAMESPACE_FILE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
ALL_NAMESPACES = "*"


class OperatorConfig(msgspec.Struct, frozen=True):
    """One operator: of one cluster of Amino, for resources of some namespaces.

    Args:
        client: how to reach the cluster. insecure: plain beyond loopback.
        namespaces: whose resources it acts on; ``*`` for all. A microservice's name is unique in the cluster of Amino, so with
            several namespaces two resources may mean the same one.
        poll_s: how often states flow back.
        liveness: URL that Kubernetes probes, empty for none.
        statefulset: of the servers, in ``home``, whose number follows demand within ``bounds``; empty: it does not.
        home: the operator's own namespace.
    """

    client: ClientConfig
    namespaces: tuple[str, ...]
    insecure: bool = False
    poll_s: float = 5.0
    liveness: str = ""
    statefulset: str = ""
    bounds: Bounds = Bounds()
    home: str = "default"


def from_environment(environ: Mapping[str, str]) -> OperatorConfig:
    """Read the operator's configuration.

    ``AMINO_ADDRESS``, ``AMINO_CLUSTER``, ``AMINO_TLS_CA``, ``AMINO_TLS_CERT``, ``AMINO_TLS_KEY`` and ``AMINO_INSECURE`` as for every
    command; ``AMINO_OPERATOR_NAMESPACES`` (by commas, ``*`` for all; default: its own), ``AMINO_OPERATOR_POLL_S``,
    ``AMINO_OPERATOR_LIVENESS``; ``AMINO_SCALE_STATEFULSET``, ``AMINO_SCALE_MIN``, ``AMINO_SCALE_MAX``, ``AMINO_SCALE_QUIET_S``.

    Raises:
        Invalid: a value breaks its rule.
    """
    home = environ.get("POD_NAMESPACE", "").strip() or _own_namespace()
    files = {name: environ.get(f"AMINO_TLS_{name.upper()}", "") for name in ("ca", "cert", "key")}
    return OperatorConfig(
        client=ClientConfig(
            address=environ.get("AMINO_ADDRESS", "127.0.0.1:7400"),
            cluster=environ.get("AMINO_CLUSTER", "amino"),
            tls=TlsFiles(**files) if any(files.values()) else None,
        ),
        insecure=environ.get("AMINO_INSECURE", "").strip().lower() in {"1", "true", "yes"},
        namespaces=tuple(
            one.strip() for one in environ.get("AMINO_OPERATOR_NAMESPACES", home).split(",") if one.strip()
        ),
        poll_s=_number(environ, "AMINO_OPERATOR_POLL_S", 5.0, 0.01, 3600.0),
        liveness=environ.get("AMINO_OPERATOR_LIVENESS", ""),
        statefulset=environ.get("AMINO_SCALE_STATEFULSET", ""),
        bounds=Bounds(
            servers_min=int(_number(environ, "AMINO_SCALE_MIN", 3, 1, 1000)),
            servers_max=int(_number(environ, "AMINO_SCALE_MAX", 9, 1, 1000)),
            quiet_s=_number(environ, "AMINO_SCALE_QUIET_S", 600.0, 0.0, 86400.0),
        ),
        home=home,
    )


def _own_namespace() -> str:
    try:
        return NAMESPACE_FILE.read_text(encoding="utf-8").strip()
    except OSError:
        return "default"


def _number(environ: Mapping[str, str], variable: str, default: float, low: float, high: float) -> float:
    text = environ.get(variable, "").strip()
    if not text:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise Invalid(f"{variable}={text!r} is no number; give one from {low:g} to {high:g}") from error
    if not low <= value <= high:
        raise Invalid(f"{variable}={text}; it must be from {low:g} to {high:g}")
    return value
