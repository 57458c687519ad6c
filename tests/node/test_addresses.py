"""Which address a server tells to others."""

import socket

from amino.node.addresses import advertised


def test_the_bound_address_is_told_unless_another_host_is_given():
    """The port is always the bound one; a server that listens everywhere tells its machine's name."""
    assert advertised("127.0.0.1:7400", "") == "127.0.0.1:7400"
    assert advertised("0.0.0.0:7400", "s1.example") == "s1.example:7400"
    assert advertised("0.0.0.0:7400", "") == f"{socket.getfqdn()}:7400"
