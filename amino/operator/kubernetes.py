"""The few requests to Kubernetes that the operator and its helpers make themselves; the resources are kopf's.

Owns the connection of a pod to its API server: address, token, authority. Leaves what is asked to the callers.
Invariants: the token is read anew for each request, because Kubernetes replaces it; answers are bounded; all methods block.
Failure behaviour: ``ClusterUnavailable`` when the server does not answer, ``PermissionDenied`` when it refuses, ``NotFound``.
"""

from __future__ import annotations

import json
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from amino.errors import AminoError, ClusterUnavailable, NotFound, PermissionDenied

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TIMEOUT_S = 10.0
ANSWER_BYTES_MAX = 4 * 1024 * 1024


class KubernetesApi:
    """Requests to one API server.

    Args:
        url: of the server, for example ``https://10.0.0.1:443``.
        account: folder with ``token`` and ``ca.crt``; what is not there is not used.
    """

    def __init__(self, url: str, account: Path = ACCOUNT) -> None:
        self._url = url.rstrip("/")
        self._account = account

    @classmethod
    def of_pod(cls, environ: Mapping[str, str], account: Path = ACCOUNT) -> KubernetesApi:
        """Return the API server of the cluster that this process is a pod of."""
        host, port = environ.get("KUBERNETES_SERVICE_HOST", ""), environ.get("KUBERNETES_SERVICE_PORT", "443")
        if not host:
            raise ClusterUnavailable("KUBERNETES_SERVICE_HOST is not set; this runs in pods of Kubernetes only")
        return cls(f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}", account)

    def get(self, path: str) -> dict[str, Any]:
        """Return the resource at ``path``."""
        return self._ask("GET", path, None)

    def merge(self, path: str, change: Mapping[str, Any]) -> dict[str, Any]:
        """Merge ``change`` into the resource at ``path``; returns what it is then. Idempotent."""
        return self._ask("PATCH", path, json.dumps(change).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        request = urllib.request.Request(f"{self._url}{path}", data=body, method=method)  # noqa: S310 - our own address
        request.add_header("Accept", "application/json")
        if body is not None:
            request.add_header("Content-Type", "application/merge-patch+json")
        token = self._account / "token"
        if token.is_file():
            request.add_header("Authorization", f"Bearer {token.read_text(encoding='utf-8').strip()}")
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._context()) as answer:  # noqa: S310
                found: dict[str, Any] = json.loads(answer.read(ANSWER_BYTES_MAX))
                return found
        except urllib.error.HTTPError as error:
            raise _refused(error, f"{method} {path}") from error
        except (OSError, ValueError) as error:
            raise ClusterUnavailable(f"Kubernetes does not answer {method} {path}: {error}") from error

    def _context(self) -> ssl.SSLContext | None:
        if not self._url.startswith("https:"):
            return None
        authority = self._account / "ca.crt"
        return ssl.create_default_context(cafile=str(authority) if authority.is_file() else None)


def _refused(error: urllib.error.HTTPError, what: str) -> AminoError:
    with error:
        text = f"Kubernetes refuses {what}: {error.code} {error.reason}"
    if error.code == 404:
        return NotFound(text)
    if error.code in {401, 403}:
        return PermissionDenied(f"{text}; give the service account the right to it")
    return ClusterUnavailable(text)
