"""The composition root: builds one process (kernel server, supervisor, development cluster) from its configuration.

Not here: any behaviour of its own; what a process does is in the packages it puts together.
"""
