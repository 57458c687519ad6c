"""The store port on etcd, through the client library aetcd; nothing else in Amino imports that library.

Owns connections, endpoint rotation, retries and watch resumption. Leaves keys and records to the rest of the package.
Invariant: a write whose outcome is unknown is never repeated here.
Failure behaviour: every foreign error is translated in ``translate``.
"""

from amino.coordination.etcd.connection import EtcdTls
from amino.coordination.etcd.store import EtcdStore

__all__ = ["EtcdStore", "EtcdTls"]
