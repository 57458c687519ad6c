"""Checkpoint stores by URL: writing once, synced, under a fresh name; reading back with the checksum verified.

Not here: when a checkpoint is taken (deployment managers) and which one is current (the manifest, in etcd).
"""
