"""A client's connection: what is left of it after it was closed, and in forks."""

from __future__ import annotations

import gc
import weakref

from amino.node.connect import _Client, _Follower, _forked
from amino.telemetry.trace import Telemetry


def made() -> _Client:
    return _Client(("127.0.0.1:1",), "amino", None, insecure=False, telemetry=Telemetry.disabled())


def test_a_closed_connection_leaves_nothing_behind():
    """The hook for forks, which cannot be taken back, holds no connection that nobody uses any more."""
    client = made()
    client.close()
    reference = weakref.ref(client)
    del client
    gc.collect()
    assert reference() is None
    _forked(reference)


def test_a_fork_of_a_closed_connection_starts_nothing():
    """A child process does not bring back what its parent had closed."""
    client = made()
    client.close()
    before = client.runtime.client_id
    client.forked()
    assert client.runtime.client_id == before
    assert client._follower._thread is None


def test_a_connection_that_is_closed_as_soon_as_it_was_made_ends():
    """Being told to stop before the thread has begun to follow is not missed."""
    client = made()
    follower = _Follower(client.transport, client.addresses)
    follower._stopping = True
    follower.start()
    follower._thread.join(5.0)
    assert not follower._thread.is_alive()
    client.close()
