"""Manifests: what ``amino apply`` and the operator of Kubernetes read, and how it gets into a cluster.

Not here: files of code and their upload (``cli``), watching Kubernetes (``operator``).
"""
