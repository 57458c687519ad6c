"""What node a pod is on becomes labels of its server."""

import asyncio

import pytest

from amino.config import load_server_config
from amino.errors import Invalid
from amino.operator.kubernetes import KubernetesApi
from amino.operator.node_labels import labels_of, write
from tests.operator.api_server import ApiServer

NODE = {
    "metadata": {
        "name": "node-1",
        "labels": {
            "topology.kubernetes.io/zone": "eu-1a",
            "topology.kubernetes.io/region": "eu-1",
            "kubernetes.io/arch": "amd64",
            "example.com/rack": "r7",
        },
    }
}


async def test_a_server_reads_what_the_init_container_wrote(tmp_path):
    """Zone, region and node are in the file that the server is started with; the token goes along."""
    (tmp_path / "token").write_text("secret\n")
    file = tmp_path / "node.yaml"
    async with ApiServer() as server:
        server.rules.append({"apiGroups": [""], "resources": ["nodes"], "verbs": ["get"]})
        server.plain["/api/v1/nodes/node-1"] = NODE
        kubernetes = KubernetesApi(server.url, tmp_path)
        await asyncio.to_thread(write, file, {"NODE_NAME": "node-1"}, kubernetes)
        with pytest.raises(Invalid, match="NODE_NAME"):
            write(file, {}, kubernetes)
        assert server.tokens == {"Bearer secret"}
    labels = load_server_config({}, file=file, environ={}).labels
    assert labels == {"host": "node-1", "zone": "eu-1a", "region": "eu-1", "arch": "amd64"}
    assert [each.name for each in tmp_path.iterdir() if each.suffix == ".draft"] == []


def test_further_labels_are_given_or_taken_from_the_node():
    """``key=value`` as it is, ``key=@label`` from the node; what the node does not have is left out."""
    found = labels_of("n", NODE["metadata"]["labels"], "rack=@example.com/rack, tier=gold, no=@example.com/none")
    assert (found["rack"], found["tier"], "no" in found) == ("r7", "gold", False)
    assert labels_of("n", {}) == {"host": "n"}
    with pytest.raises(Invalid, match="AMINO_MORE_LABELS"):
        labels_of("n", {}, "nonsense")
