"""The etcd that clusters of these tests stand on."""

from tests.node.conftest import etcd_endpoints, grpc_poller, node_etcd

__all__ = ["etcd_endpoints", "grpc_poller", "node_etcd"]
