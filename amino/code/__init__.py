"""Getting classes to servers: import paths, content-addressed bundles, and why a server cannot load one.

Not here: deciding which server is eligible (``amino.oms``) and storing bytes (``amino.checkpoint``).
"""
