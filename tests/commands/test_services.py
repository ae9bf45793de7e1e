"""`up`, `worker start` and `web` under a service manager, which hears when they serve, that they live, when they stop.

The manager is a real socket of the test. Like systemd, it knows the sender of each message.
"""

from __future__ import annotations

import signal
import socket
import struct
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from typing import Any, Callable, Optional

import psutil
import pytest

from tests.commands.conftest import Processes
from tests.commands.test_up import ADDRESS, get, read_until
from tests.deadline import DEADLINE
from webapp.lib.system import sd_notify

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="systemd, and who sent a datagram, are Linux's")

INTERVAL = 4.0  # watchdog interval of `up` in seconds; its console has half of it
SHORT = 2.0  # the same without a console
Eventually = Callable[..., Any]


class Service:
    """A service that the manager watches."""

    def __init__(self, processes: Processes) -> None:
        self.processes = processes
        self.messages: list[str] = []
        self.address = f"@queuectl-test-{uuid.uuid4().hex}"
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
        self.socket.bind("\0" + self.address[1:])
        self.interval = 0.0
        self.process: subprocess.Popen[str]

    def start(self, *argv: str, interval: float = SHORT) -> None:
        self.interval = interval
        told = {"NOTIFY_SOCKET": self.address, "WATCHDOG_USEC": str(round(interval * 1_000_000))}
        self.process = self.processes.start(*argv, **told)

    def child(self, command: str) -> Optional[psutil.Process]:
        children = psutil.Process(self.process.pid).children()
        return next((one for one in children if command in one.cmdline()), None)

    def hear(self, message: str) -> None:
        """Wait for another message with this text."""
        deadline = time.monotonic() + DEADLINE
        while not any(message in one for one in self.listen(deadline)):
            assert time.monotonic() < deadline, f"no {message!r}, but {self.messages}"

    def silent(self, message: str, lasting: float) -> bool:
        """Whether this message does not arrive within these seconds."""
        deadline = time.monotonic() + lasting
        while time.monotonic() < deadline:
            if any(message in one for one in self.listen(deadline)):
                return False
        return True

    def listen(self, deadline: float) -> list[str]:
        """The next message; empty at the deadline."""
        self.socket.settimeout(max(0.001, deadline - time.monotonic()))
        try:
            data, ancillary, _, _ = self.socket.recvmsg(4096, 1024)
        except (TimeoutError, socket.timeout):
            return []
        pid, _, _ = struct.unpack("3i", ancillary[0][2][:12])
        assert pid == self.process.pid, f"{data!r} came from another process, which systemd does not listen to"
        self.messages.append(data.decode())
        return self.messages[-1:]


@pytest.fixture
def service(processes: Processes) -> Iterator[Service]:
    made = Service(processes)
    with closing(made.socket):
        yield made


def stand_still(service: Service, process: psutil.Process) -> None:
    """Suspend a process for a while: the manager gets no watchdog message until it continues."""
    service.hear(sd_notify.ALIVE)
    process.suspend()
    service.silent("anything", service.interval / 2 + 0.5)  # a message that was due already
    assert service.silent(sd_notify.ALIVE, service.interval)
    process.resume()
    service.hear(sd_notify.ALIVE)


def test_up_is_ready_with_its_console_and_sends_the_watchdog_only_with_it(
    service: Service, eventually: Eventually
) -> None:
    service.start("up", "--port", "0", "--workers", "1", interval=INTERVAL)
    address = ADDRESS.search(read_until(service.process, "Ctrl-C stops everything"))
    assert address
    child = eventually(lambda: service.child("web"))
    child.suspend()
    assert service.silent(sd_notify.READY, 2.5)
    child.resume()
    service.hear(sd_notify.READY)
    assert get(f"{address[1]}/healthz") == 200
    assert len(service.processes.run("status", "--json").json["workers"]) == 1
    assert any("console: answers" in message for message in service.messages)
    stand_still(service, child)
    stand_still(service, psutil.Process(service.process.pid))
    assert sd_notify.STOPPING not in service.messages
    service.process.send_signal(signal.SIGTERM)
    service.hear(sd_notify.STOPPING)
    assert service.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_up_continues_while_a_dead_console_restarts_and_its_jobs_have_no_manager_variables(
    service: Service, eventually: Eventually
) -> None:
    service.start("up", "--port", "0", "--workers", "1", interval=INTERVAL)
    service.hear(sd_notify.READY)
    first = service.child("web")
    assert first is not None
    for one in [first, *first.children()]:
        one.kill()
    eventually(lambda: "console ended" in service.processes.errors)
    service.hear(sd_notify.ALIVE)
    eventually(lambda: service.child("web"))
    service.hear(sd_notify.ALIVE)
    assert service.messages.count(sd_notify.READY) == 1
    assert_jobs_know_nothing(service, eventually)


@pytest.mark.full
def test_workers_alone_report_ready_watchdog_stop_and_suspend(service: Service, eventually: Eventually) -> None:
    service.start("worker", "start", "--count", "2")
    service.hear(sd_notify.READY)
    assert service.processes.run("status", "--json").json["workers"]
    assert_jobs_know_nothing(service, eventually)
    stand_still(service, psutil.Process(service.process.pid))
    service.process.send_signal(signal.SIGTERM)
    service.hear(sd_notify.STOPPING)
    service.hear("STATUS=2 workers, finishing")
    assert service.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_a_stop_that_waits_for_jobs_without_limit_is_not_reported_as_stopping(
    service: Service, eventually: Eventually
) -> None:
    # At STOPPING=1 systemd starts TimeoutStopSec, and would kill jobs that a user lets finish.
    service.start("worker", "start")
    service.hear(sd_notify.READY)
    service.processes.run("enqueue", "--command", "exec sleep 600", "--id", "job1")
    eventually(lambda: '"processing"' in service.processes.run("show", "job1", "--json").out)
    assert service.processes.run("worker", "stop").code == 0
    service.hear("STATUS=1 worker, finishing")
    service.hear(sd_notify.ALIVE)
    assert sd_notify.STOPPING not in service.messages
    service.processes.run("cancel", "job1")
    assert service.process.wait(DEADLINE) == 0


@pytest.mark.full
def test_a_console_alone_reports_ready_watchdog_suspend_and_stop(service: Service) -> None:
    service.start("web", "--port", "0")
    address = read_until(service.process, "console").split()[-1]
    service.hear(sd_notify.READY)
    assert get(f"{address}/healthz") == 200
    stand_still(service, psutil.Process(service.process.pid))
    service.process.send_signal(signal.SIGTERM)
    service.hear(sd_notify.STOPPING)
    assert service.process.wait(DEADLINE) == 0


def assert_jobs_know_nothing(service: Service, eventually: Eventually) -> None:
    service.processes.run("enqueue", "--command", "env", "--id", "env")
    eventually(lambda: '"completed"' in service.processes.run("show", "env", "--json").out)
    said = service.processes.run("logs", "env").out
    assert "QUEUECTL_JOB_ID=env" in said
    assert not [name for name in sd_notify.VARIABLES if f"{name}=" in said]
