"""Messages to a service manager over a real socket, and to a parent over a pipe."""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import closing, suppress

import pytest

from webapp.lib.system import sd_notify
from webapp.lib.system.sd_notify import Parent

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="services are started otherwise there")
kinds = ["path"] + (["abstract"] if sys.platform == "linux" else [])


class Service:
    """The manager's end of the socket."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)

    def heard(self) -> list[str]:
        """The messages since the last call. Each is in the queue as soon as it is sent."""
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self.socket.recv(4096).decode())
        return messages


@pytest.fixture(params=kinds)
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with tempfile.TemporaryDirectory() as folder:  # a test's own may be longer than a socket's address can be
        made = Service(f"@{uuid.uuid4().hex}" if request.param == "abstract" else f"{folder}/notify")
        with closing(made.socket):
            yield made


def environment(service: Service, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": service.address, "PATH": "/bin", **more}


def test_each_message_is_a_datagram_and_an_unchanged_state_is_not_repeated(service: Service) -> None:
    manager = sd_notify.take(environment(service))
    manager.status("2 workers")
    manager.ready()
    manager.ready()
    manager.status("2 workers")
    manager.status("1 worker")
    manager.stopping()
    assert service.heard() == ["STATUS=2 workers", "READY=1", "STATUS=1 worker", "STOPPING=1"]


def test_the_variables_are_removed_once_they_are_read(service: Service) -> None:
    given = environment(service, WATCHDOG_USEC="5000000", WATCHDOG_PID=str(os.getpid()))
    assert sd_notify.take(given).interval == 5.0
    assert given == {"PATH": "/bin"}


def test_watchdog_messages_are_sent_at_half_of_the_interval(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("webapp.lib.system.sd_notify.time.monotonic", lambda: now)
    manager = sd_notify.take(environment(service, WATCHDOG_USEC="4000000"))
    for offset, due in [(0.0, 2.0), (1.0, 1.0), (1.9, 0.1), (2.0, 2.0)]:
        now = 100.0 + offset
        manager.tick()
        assert manager.due_in() == pytest.approx(due)
    assert service.heard() == ["WATCHDOG=1"] * 2


@pytest.mark.parametrize(
    "watch", [{}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": "5000000", "WATCHDOG_PID": "1"}]
)
def test_no_watchdog_message_is_sent_for_another_process(service: Service, watch: dict[str, str]) -> None:
    manager = sd_notify.take(environment(service, **watch))
    manager.tick()
    assert manager.due_in() == float("inf")
    assert service.heard() == []


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1234", "/nonexistent/notify", "@nobody-is-there"])
def test_a_missing_manager_is_no_error(address: str) -> None:
    manager = sd_notify.take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1"})
    manager.status("1 worker")
    manager.ready()
    manager.tick()
    manager.stopping()


def test_a_manager_that_does_not_read_blocks_briefly_and_gets_the_message_later(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sd_notify, "SEND_TIMEOUT", 0.05)
    manager = sd_notify.take(environment(service))
    fill(service)
    manager.ready()
    assert not manager.knows_ready
    assert "READY=1" not in service.heard()
    manager.ready()
    assert service.heard() == ["READY=1"]


def fill(service: Service) -> None:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)) as other:
        other.setblocking(False)
        other.connect(service.socket.getsockname())
        with suppress(OSError):  # BlockingIOError, or ENOBUFS on macOS
            while True:
                other.send(b"x")


# --- a child that reports to its parent ---


def test_a_parent_gets_one_byte_per_message_and_never_blocks_the_child() -> None:
    read_end, write_end = os.pipe()
    child = Parent(write_end)
    child.status("answers")
    child.ready()
    child.tick()
    child.stopping()
    assert os.read(read_end, 100) == b"RA"
    assert child.due_in() <= 0.5
    with suppress(BlockingIOError):
        while True:
            os.write(write_end, b"x" * 4096)
    Parent(write_end).tick()  # the pipe is full
    os.close(read_end)
    Parent(write_end).ready()  # the parent is gone
    os.close(write_end)
