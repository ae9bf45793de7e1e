"""`up` and `web`: real processes that serve, drain, die and restart."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Callable

import psutil
import pytest

from tests.commands.conftest import Cli, Processes
from tests.deadline import DEADLINE
from tests.faults.rig import is_alive

Eventually = Callable[..., Any]
ADDRESS = re.compile(r"console +(http://127\.0\.0\.1:\d+)")
LINK = re.compile(r"http://127\.0\.0\.1:\d+/setup/(\S+)")


NEW_HOME = pytest.mark.parametrize("migrated", [False], ids=["new home"])


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        return None


def get(address: str) -> int:
    """The status of a response; 0 without one."""
    try:
        with urllib.request.build_opener(_NoRedirect).open(address, timeout=DEADLINE) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0


def read_until(process: subprocess.Popen[str], words: str) -> str:
    """The output of a process up to the line with this text."""
    assert process.stdout is not None
    text = ""
    for line in process.stdout:
        text += line
        if words in line:
            return text
    raise AssertionError(f"it ended without {words!r}: {text}")


class Running:
    """A running `up` and its address."""

    def __init__(self, process: subprocess.Popen[str], text: str) -> None:
        self.process = process
        self.text = text
        found = ADDRESS.search(text)
        assert found, text
        self.address = found[1]

    def child(self, command: str) -> psutil.Process:
        (child,) = [one for one in psutil.Process(self.process.pid).children() if command in one.cmdline()]
        return child


def start(processes: Processes, *argv: str) -> Running:
    process = processes.start("up", "--port", "0", "--workers", "1", *argv)
    return Running(process, read_until(process, "Ctrl-C stops everything"))


@pytest.fixture
def up(processes: Processes) -> Running:
    return start(processes)


@NEW_HOME
def test_one_command_serves_the_console_and_runs_jobs_and_ctrl_c_ends_all_with_0(
    up: Running, processes: Processes, eventually: Eventually
) -> None:
    assert get(up.address + "/healthz") == 200
    assert get(up.address + "/") == 303  # to sign in
    processes.run("enqueue", "--command", "echo hello", "--id", "job1")
    eventually(lambda: '"completed"' in processes.run("show", "job1", "--json").out)
    family = psutil.Process(up.process.pid).children(recursive=True)
    assert len(family) >= 4
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE) == 0
    assert not [one for one in family if is_alive(one.pid)]
    assert processes.errors.endswith("Stopped.\n")
    assert "Traceback" not in processes.errors


@pytest.mark.full
def test_the_children_have_their_own_sessions(up: Running, eventually: Eventually) -> None:
    # Otherwise Ctrl-C in a terminal would end them before `up` can let them finish.
    def sessions() -> set[int]:
        return {os.getsid(one.pid) for one in psutil.Process(up.process.pid).children()}

    eventually(lambda: len(sessions()) == 3)  # the console, maintenance and the worker
    assert os.getsid(up.process.pid) not in sessions()


@pytest.mark.full
def test_the_set_up_link_is_printed_until_there_is_an_admin_and_never_logged(processes: Processes) -> None:
    first = start(processes)
    token = LINK.search(first.text)
    assert token
    assert get(token[0]) == 200
    first.process.send_signal(signal.SIGTERM)
    assert first.process.wait(DEADLINE) == 0
    second = start(processes)
    other = LINK.search(second.text)
    assert other
    assert other[1] != token[1]
    assert token[1] not in processes.errors
    assert other[1] not in processes.errors
    second.process.send_signal(signal.SIGTERM)
    assert second.process.wait(DEADLINE) == 0
    done = processes.run("user", "add", "ana", "--role", "admin", "--password-stdin", stdin="correct horse\n")
    assert done.code == 0, done.err
    assert not LINK.search(start(processes).text)


def test_a_second_up_names_the_first_one_but_not_a_killed_one(up: Running, processes: Processes) -> None:
    assert "joins" not in up.text
    second = start(processes)
    assert f"joins     pid {up.process.pid} on " in second.text
    assert "(1 worker). All run the jobs of this queue.\n" in second.text
    for one in (up, second):
        one.process.kill()
        one.process.wait()
    assert "joins" not in start(processes).text


def test_running_jobs_can_finish_and_a_second_signal_does_not_wait_for_them(
    up: Running, processes: Processes, eventually: Eventually
) -> None:
    processes.run("enqueue", "--command", "exec sleep 600", "--id", "job1")
    eventually(lambda: '"processing"' in processes.run("show", "job1", "--json").out)
    up.process.send_signal(signal.SIGINT)
    eventually(lambda: "waiting for running jobs" in processes.errors)
    with pytest.raises(subprocess.TimeoutExpired):
        up.process.wait(1.5)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE) == 0
    assert '"pending"' in processes.run("show", "job1", "--json").out  # released


def test_a_console_that_dies_is_restarted_on_the_same_port(
    up: Running, processes: Processes, eventually: Eventually
) -> None:
    eventually(lambda: get(up.address + "/healthz") == 200)
    first = up.child("web")
    for one in [first, *first.children()]:
        one.kill()
    eventually(lambda: "console ended (signal 9); starting another in " in processes.errors)
    eventually(lambda: get(up.address + "/healthz") == 200)
    assert up.child("web").pid != first.pid


def test_no_process_outlives_a_killed_parent_for_long(up: Running, eventually: Eventually) -> None:
    eventually(lambda: get(up.address + "/healthz") == 200)
    # The console with its process, maintenance and the worker.
    eventually(lambda: len(psutil.Process(up.process.pid).children(recursive=True)) == 4)
    family = psutil.Process(up.process.pid).children(recursive=True)
    up.process.kill()
    up.process.wait()
    eventually(lambda: not [one for one in family if is_alive(one.pid)])


@pytest.mark.full
def test_workers_stopped_from_elsewhere_stay_stopped_and_the_console_continues(
    up: Running, processes: Processes, eventually: Eventually
) -> None:
    eventually(lambda: '"alive": true' in processes.run("status", "--json").out)
    assert processes.run("worker", "stop").code == 0
    eventually(lambda: "workers: stopped by another process" in processes.errors)
    assert get(up.address + "/healthz") == 200


@pytest.mark.full
def test_its_workers_are_scaled_down_to_zero_and_up_again(
    up: Running, processes: Processes, eventually: Eventually
) -> None:
    def workers() -> int:
        return len(processes.run("status", "--json").json["workers"])

    eventually(lambda: workers() == 1)
    [one] = processes.run("worker", "supervisors", "--json").json
    assert processes.run("worker", "scale", one["id"], "0").code == 0
    eventually(lambda: workers() == 0)
    processes.run("enqueue", "--command", "true", "--id", "job1")
    assert processes.run("worker", "scale", one["id"], "+2").out == f"{one['id']}: 2 workers (before: 0)\n"
    eventually(lambda: '"completed"' in processes.run("show", "job1", "--json").out)
    up.process.send_signal(signal.SIGINT)
    assert up.process.wait(DEADLINE) == 0
    assert "stopped by another process" not in processes.errors


@pytest.mark.full
def test_web_serves_without_workers_until_it_is_stopped(processes: Processes) -> None:
    process = processes.start("web", "--port", "0")
    assert process.stdout is not None
    running = Running(process, read_until(process, "console"))
    assert get(running.address + "/healthz") == 200
    assert processes.run("status", "--json").json["workers"] == []
    process.send_signal(signal.SIGTERM)
    assert process.wait(DEADLINE) == 0


@pytest.mark.skipif(os.name != "posix", reason="Windows closes consoles in another way")
def test_web_ends_when_its_terminal_closes_and_ignores_signals_of_gunicorn(processes: Processes) -> None:
    process = processes.start("web", "--port", "0")
    assert process.stdout is not None
    running = Running(process, read_until(process, "console"))
    assert get(running.address + "/healthz") == 200
    for name in ("USR1", "USR2", "TTIN", "WINCH"):
        os.killpg(process.pid, signal.Signals[f"SIG{name}"])
    assert get(running.address + "/healthz") == 200
    assert len(psutil.Process(process.pid).children()) == 1, "no second server, no second process"
    os.killpg(process.pid, signal.SIGHUP)  # as the kernel sends it: to all processes of the terminal
    assert process.wait(DEADLINE) == 0
    assert get(running.address + "/healthz") == 0, "the port is free"
    assert "Traceback" not in processes.errors


# --- invalid starts ---


@pytest.fixture
def taken() -> Iterator[int]:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        yield other.getsockname()[1]


@NEW_HOME
@pytest.mark.parametrize("command", ["up", "web"])
def test_a_taken_port_is_one_line_and_nothing_starts(
    cli: Cli, home: Path, taken: int, command: str, migrated: bool
) -> None:
    result = cli(command, "--port", str(taken))
    assert (result.code, result.out) == (3, "")
    assert re.fullmatch(rf"Error: port {taken} of 127\.0\.0\.1 is taken .* --port \d+\.\n", result.err)
    assert not home.exists()


@NEW_HOME
@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "queue.example.org"])
@pytest.mark.parametrize("command", ["up", "web"])
def test_an_address_beyond_this_machine_is_refused_with_the_reason(
    cli: Cli, home: Path, host: str, command: str, migrated: bool
) -> None:
    result = cli(command, "--host", host, "--port", "0")
    assert (result.code, result.out) == (1, "")
    assert "could read passwords" in result.err
    assert "--insecure" in result.err
    assert "QUEUECTL_PUBLIC_URL" in result.err
    assert not home.exists()


def test_an_address_of_another_machine_is_one_line(cli: Cli) -> None:
    result = cli("up", "--host", "192.0.2.1", "--port", "0", "--insecure")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "192.0.2.1 is not an address of this machine" in result.err


@pytest.mark.parametrize("argv", [["--port", "65536"], ["--port", "http"], ["--workers", "0"], ["--slots", "-1"]])
def test_invalid_options_are_a_usage_error(cli: Cli, argv: list[str]) -> None:
    assert cli("up", *argv).code == 2
