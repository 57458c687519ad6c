"""What packages agree on: documents in etcd, calls, component Protocols, service messages.

Not here: any behaviour. Kernel and OMS meet only through this package.
"""
