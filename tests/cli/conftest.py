"""The etcd that clusters of these tests stand on."""

from tests.node.conftest import grpc_poller, node_etcd

__all__ = ["grpc_poller", "node_etcd"]
