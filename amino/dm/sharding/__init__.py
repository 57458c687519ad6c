"""Managers that divide an object's state over shards. Not here: when shards are added or removed, which the OMS decides."""

from amino.dm.sharding.dht import DHT

__all__ = ["DHT"]
