"""The control plane: the gRPC services Registry, Kernel and Invoke, health checking and reflection, on one port.

Not here: what the services do (``amino.oms``, ``amino.kernel``), their messages (``amino/wire/proto``), and clients in
Python, which use the peer link.
"""
