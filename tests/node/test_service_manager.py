"""What systemd is told, by a socket that stands for it."""

import socket

import pytest

from amino.node.service_manager import ServiceManager


@pytest.fixture
def systemd(tmp_path):
    """Yield a manager's environment and a function that returns what it has been told."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(path)
        bound.setblocking(False)

        def told():
            messages = []
            while True:
                try:
                    messages.append(bound.recv(4096).decode())
                except BlockingIOError:
                    return messages

        yield {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "30000000"}, told


def test_the_start_is_complete_once(systemd):
    """READY=1 comes with the first service only; later ones are told as a state."""
    environ, told = systemd
    manager = ServiceManager(environ)
    manager.serves("serving at h:1")
    manager.does("the kernel process ended: signal 9")
    manager.serves("serving at h:1")
    manager.ends()
    assert told() == [
        "READY=1\nSTATUS=serving at h:1",
        "STATUS=the kernel process ended: signal 9",
        "STATUS=serving at h:1",
        "STOPPING=1\nSTATUS=draining",
    ]


def test_signs_of_life_come_in_time(systemd):
    """Three fit into the silence that systemd allows; without a watchdog none is wanted."""
    environ, told = systemd
    manager = ServiceManager(environ)
    assert manager.beat_every_s == 10.0
    manager.alive()
    assert told() == ["WATCHDOG=1"]
    assert ServiceManager({"NOTIFY_SOCKET": environ["NOTIFY_SOCKET"]}).beat_every_s == 0


def test_without_a_manager_nothing_is_sent(tmp_path, caplog):
    """No socket: no message. A socket that is gone: one line in the log, and silence after."""
    ServiceManager({"WATCHDOG_USEC": "1000000"}).serves("x")
    manager = ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone"), "WATCHDOG_USEC": "1000000"})
    manager.serves("x")
    manager.alive()
    assert len(caplog.records) == 1
