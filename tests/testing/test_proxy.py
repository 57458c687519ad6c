"""The network of proxies: cuts hold bytes back, resets end connections, and changes are safe while connections end."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from amino.testing.proxy import CLIENTS, ETCD, FaultyNetwork
from tests.waiting import until


@contextmanager
def _echo() -> Iterator[str]:
    """A server that sends back what it gets, on a free port; yields its address."""

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):  # a connection that is reset
                while data := connection.recv(1024):
                    connection.sendall(data)
                    if data == b"bye":
                        break

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
    thread.join()


def _connect(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), timeout=5)


def _proxied(network: FaultyNetwork, address: str) -> socket.socket:
    return _connect(network._run(network._listen("127.0.0.1", 0, address, "s1")))


def test_a_cut_holds_bytes_back_until_it_is_mended() -> None:
    """Nothing passes one way while it is cut, what was held arrives afterwards, and both are counted."""
    with _echo() as address, FaultyNetwork() as network, _proxied(network, address) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        passed = network.passes("s1", ETCD)
        network.cut("s1", ETCD)
        assert network.is_cut("s1", ETCD)
        assert not network.is_cut(ETCD, "s1")
        client.sendall(b"two")
        client.settimeout(0.2)
        try:
            held = client.recv(10)
        except TimeoutError:
            held = b""
        assert held == b""
        assert network.passes("s1", ETCD) == passed
        assert network.trouble("s1", ETCD) > 0
        network.mend("s1", ETCD)
        client.settimeout(5)
        assert client.recv(10) == b"two"
        assert network.passes("s1", ETCD) == passed + 3


def test_what_ends_while_a_fault_is_undone_does_no_harm(caplog: pytest.LogCaptureFixture) -> None:
    """Connections whose ends were held back, and that end as a cut is mended, neither break the change nor block the caller."""
    with _echo() as address, FaultyNetwork() as network:
        clients = []
        network.cut(ETCD, "s1")
        for number in range(1, 4):
            clients.append(_proxied(network, address))
            clients[-1].sendall(b"bye")  # the answer, and that the server has closed, are held back
            until(lambda number=number: network.trouble(ETCD, "s1") >= number, 5.0)
        network.cut("s1", ETCD)
        for client in clients:
            client.close()
        until(lambda: all(stream._out.ends and stream._back.ends for stream in network._streams), 5.0)
        network.heal()
        assert not network._streams
    assert not [one for one in caplog.records if one.name == "asyncio"], "the loop of the proxies saw an error"


def test_a_reset_says_how_many_connections_it_ended() -> None:
    """Only connections between those that are named are reset."""
    with _echo() as address, FaultyNetwork() as network, _proxied(network, address) as client:
        client.sendall(b"one")
        assert client.recv(10) == b"one"
        assert network.reset(CLIENTS, "s1") == 0
        assert network.reset("s1", ETCD) == 1
        try:
            left = client.recv(10)
        except ConnectionResetError:
            left = b""
        assert left == b""
