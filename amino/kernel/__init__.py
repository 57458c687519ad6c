"""Hosting objects: kernel objects, the dispatcher, answered requests, bounds and back-pressure, moving.

Not here: which behaviours surround an object (``amino.dm``: the kernel hosts whatever satisfies the Protocol in
``amino.contracts``), where objects should be (``amino.oms``), and how bytes travel (``amino.rpc``).
"""
