"""Everything about etcd: the store port with its adapters, sessions, elections, watched caches, keys.

Not here: what the records mean (``amino.contracts.documents``) and who acts on them (``amino.oms``).
"""
