"""Moving requests between processes: the transport port, the peer link, the memory transport, gRPC.

Not here: what a request means (``amino.kernel``, ``amino.oms``) and how values are encoded (``amino.wire``).
"""
