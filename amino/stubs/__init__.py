"""What callers hold: typed stubs, refs, the client's end of a call, names and addresses as the client knows them.

Not here: what a deployment manager's client component does (``amino.dm``) and links between processes (``amino.rpc``).
"""
