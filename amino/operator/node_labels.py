"""``python -m amino.operator.node_labels FILE``: what node a pod is on, as labels of the server that runs in it.

Owns which labels of a node become which of a server. Leaves the file to ``amino server --config``. Runs as an init container.
Invariants: ``host`` is the node, not the pod, so that spreading over hosts spreads over machines; the file is whole or not there.
Failure behaviour: ends with code 1 and one line that says why; Kubernetes starts it again.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from amino.config import parse_labels
from amino.errors import AminoError, Invalid
from amino.operator.kubernetes import KubernetesApi

LABELS = {
    "topology.kubernetes.io/zone": "zone",
    "topology.kubernetes.io/region": "region",
    "node.kubernetes.io/instance-type": "instance-type",
    "kubernetes.io/arch": "arch",
}


def labels_of(node: str, labels: Mapping[str, str], more: str = "") -> dict[str, str]:
    """Return a server's labels on a node.

    Args:
        labels: the node's.
        more: further ones, ``key=value`` by commas; a value ``@LABEL`` takes that label of the node, if it has it.
    """
    found = {ours: labels[theirs] for theirs, ours in LABELS.items() if labels.get(theirs)}
    for key, value in parse_labels(more.split(","), "AMINO_MORE_LABELS").items() if more.strip() else ():
        if not value.startswith("@"):
            found[key] = value
        elif value[1:] in labels:
            found[key] = labels[value[1:]]
    return {"host": node, **found}


def write(file: Path, environ: Mapping[str, str], kubernetes: KubernetesApi) -> dict[str, str]:
    """Write a server's configuration with the labels of this pod's node to ``file``; returns the labels.

    Raises:
        AminoError: the node is not known, or Kubernetes does not tell.
    """
    node = environ.get("NODE_NAME", "")
    if not node:
        raise Invalid("NODE_NAME is not set; take it from spec.nodeName")
    metadata = kubernetes.get(f"/api/v1/nodes/{node}").get("metadata", {})
    labels = labels_of(node, metadata.get("labels", {}), environ.get("AMINO_MORE_LABELS", ""))
    draft = file.with_suffix(".draft")
    draft.write_text(json.dumps({"labels": labels}) + "\n", encoding="utf-8")  # JSON is YAML, too
    draft.replace(file)
    return labels


def main() -> int:
    """Write the file named on the command line; returns the exit code."""
    if len(sys.argv) != 2:
        sys.stderr.write("usage: python -m amino.operator.node_labels FILE\n")
        return 2
    try:
        labels = write(Path(sys.argv[1]), os.environ, KubernetesApi.of_pod(os.environ))
    except (AminoError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    sys.stderr.write(f"labels: {json.dumps(labels)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
