"""The object management service: create, delete, find, list and name microservices; slot leaders and the reconciler.

Served by every kernel server; its state is in etcd. Not here: running objects (``amino.kernel``; the two meet only
through ``amino.contracts``) and the etcd client (``amino.coordination``).
"""
