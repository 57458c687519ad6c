"""Amino: a distributed object runtime. Plain classes run as microservices and survive the loss of their machine.

The public names, nothing else.
"""
