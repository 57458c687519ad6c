"""What goes over the wire: the .proto files and generated code, frames, the codec, errors as statuses.

Not here: sockets (``amino.rpc``) and what a message means (``amino.contracts``).
"""
