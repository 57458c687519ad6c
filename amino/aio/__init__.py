"""Clock, waiting, tasks and threads: the ground the rest stands on.

Owns everything that waits. Leaves what is waited for to its callers.
Invariant: code written once as ``async def`` runs on an event loop or, blocking, in a plain thread (see ``mode``).
Failure behaviour: every task and thread has an owner that awaits it; nothing is dropped.
"""
