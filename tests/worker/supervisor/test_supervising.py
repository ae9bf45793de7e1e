"""How a supervisor treats its children: which it restarts, gives up, stops, kills and reports as alive.

Children are simulated and the clock moves only while the supervisor waits, so each test controls the events.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
from collections import Counter
from collections.abc import Generator
from contextlib import closing
from typing import Callable, Optional

import pytest

from webapp.lib.system import process_group
from webapp.lib.system.sd_notify import Manager
from worker.messages import NOW, OUTDATED, QUIET, RELOCATED, RESUME, STOP, STOP_REQUESTED, DesiredWorkers
from worker.supervisor import supervisor
from worker.supervisor.console import Console

Life = Generator[None, None, None]
INTERVAL = 4.0  # seconds without a watchdog message after which the manager restarts the supervisor


class Service(Manager):
    """A service manager that records its messages."""

    def __init__(self) -> None:
        super().__init__("@manager", INTERVAL)
        self.heard: list[str] = []

    def _send(self, text: str) -> bool:
        self.heard.append(text)
        return True


class Scene:
    """Simulates the children, the signals and the clock. A test's generator runs until each of its `yield`s."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.service = Service()
        self.console: Optional[Console] = None
        self.starts: Counter[str] = Counter()
        self.refusals: Counter[str] = Counter()  # how often this process cannot be created
        self.told: list[tuple[str, str]] = []
        self.pids: dict[str, int] = {}
        self.killed: list[str] = []
        self.listens: list[str] = []
        self._signals: list[int] = []
        self._ended: list[tuple[int, int]] = []
        self._heard: list[DesiredWorkers] = []
        self._life: Life
        monkeypatch.setattr("time.monotonic", lambda: self.now)
        monkeypatch.setattr(process_group, "ask_to_stop", lambda pid: self.send(pid, "TERM"))
        monkeypatch.setattr(process_group, "kill", lambda pid: self.killed.append(self._name(pid)))

    def run(self, life: Life, *, console: bool = True, watched: bool = False) -> int:
        manager = self.service if watched else Manager()
        self._life = life
        with closing(socket.socket()) as listener:
            self.console = Console(listener, (), manager) if console else None
            one = supervisor._Supervisor("id", self, self, 1, False, manager, self.console)  # type: ignore[arg-type]
            return one.run(lambda: None)

    # --- what happens ---

    def die(self, name: str, code: int = -9) -> None:
        self._ended.append((self.pids.pop(name), code))

    def signal(self, number: int) -> None:
        self._signals.append(number)

    def hear(self, count: int = 1, then: str = "", serving: int = 0) -> None:
        """Send the desired and the serving number of workers, as the maintenance process does."""
        self._heard.append(DesiredWorkers(count, (), then, serving))

    def say(self, what: bytes) -> None:
        """Send a message of the console."""
        assert self.console is not None
        os.write(self.console._write_end, what)

    def until(self, condition: Callable[[], bool]) -> Life:
        for _ in range(1000):
            if condition():
                return
            yield
        pytest.fail("the condition never came true")

    def end(self) -> Life:
        """Let all children exit after the stop request."""
        yield
        for name in [name for name in self.pids if name != "maintenance"]:
            self.die(name, 0)
        yield
        self.die("maintenance", 0)
        yield

    # --- the children ---

    def start_worker(self, name: str) -> int:
        if self.refusals[name]:
            self.refusals[name] -= 1
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        self.starts[name] += 1
        self.pids[name] = 4_200_000 + sum(self.starts.values())
        return self.pids[name]

    def start_maintenance(self, name: str) -> int:
        return self.start_worker(name)

    def start_console(self, _console: Console) -> int:
        return self.start_worker("console")

    def ended(self) -> list[tuple[int, int]]:
        ended, self._ended = self._ended, []
        return ended

    def reports(self) -> list[DesiredWorkers]:
        heard, self._heard = self._heard, []
        return heard

    def send(self, pid: int, word: str) -> None:
        self.told.append((self._name(pid), word))

    def send_to_maintenance(self, word: str) -> None:
        """No maintenance process reads it."""

    def end_maintenance(self) -> None:
        self.told.append(("maintenance", "end"))

    def _name(self, pid: int) -> str:
        return next(name for name, one in self.pids.items() if one == pid)

    # --- the signal pipe ---

    def listen(self, names: list[str]) -> None:
        self.listens = names

    def watch(self, descriptor: int) -> None:
        """The pipe is read at each turn anyway."""

    def wait(self, timeout: float) -> None:
        next(self._life)
        if not (self._signals or self._ended or self._heard):  # else the wait ends at once
            self.now += timeout

    def signals(self) -> list[int]:
        signals, self._signals = self._signals, []
        return signals


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(monkeypatch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_lets_all_children_finish_and_the_maintenance_process_ends_last(scene: Scene, number: int) -> None:
    def life() -> Life:
        assert list(scene.starts) == ["console", "maintenance", "worker 1"]
        scene.signal(number)
        yield
        assert scene.console is not None
        assert scene.told == [("console", "TERM"), ("worker 1", STOP)]
        assert scene.console._listener.fileno() == -1, "with it open, new connections would wait for ever"
        scene.die("worker 1", 0)
        yield
        assert scene.told[2:] == [("maintenance", "end")]
        scene.die("maintenance", 0)
        yield
        scene.die("console", 0)
        yield

    assert scene.run(life()) == 0
    assert set(scene.starts.values()) == {1}


def test_a_second_signal_does_not_wait_and_kills_the_rest(scene: Scene) -> None:
    def life() -> Life:
        scene.signal(signal.SIGINT)
        yield
        scene.signal(signal.SIGINT)
        yield
        asked_at = scene.now
        assert scene.told[2:] == [("console", "TERM"), ("worker 1", NOW)]
        yield from scene.until(lambda: len(scene.killed) == 3)
        assert scene.now - asked_at == pytest.approx(supervisor.LAST_GRACE)
        for name in ("console", "worker 1", "maintenance"):
            scene.die(name)
        yield from scene.until(lambda: False)

    assert scene.run(life()) == 1, "not all ended in good order"


def test_a_maintenance_process_that_does_not_end_is_killed(scene: Scene) -> None:
    def life() -> Life:
        scene.signal(signal.SIGTERM)
        yield
        scene.die("worker 1", 0)
        yield from scene.until(lambda: scene.killed == ["maintenance"])
        scene.die("maintenance")
        yield

    assert scene.run(life(), console=False) == 0


@pytest.mark.parametrize(("number", "in_terminal"), [("SIGUSR1", True), ("SIGTSTP", False), ("SIGTSTP", True)])
def test_ctrl_z_drains_workers_and_suspends_like_any_command_and_cont_resumes_them(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, number: str, in_terminal: bool
) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(supervisor, "is_in_foreground", lambda: in_terminal)
    monkeypatch.setattr(os, "kill", lambda *what: sent.append(what))

    def life() -> Life:
        scene.signal(signal.SIGCONT)  # nothing to end: it is what a service manager sends with each TERM
        yield
        scene.signal(signal.Signals[number])
        yield
        assert scene.told == [("worker 1", QUIET)]
        assert sent == ([(os.getpid(), signal.SIGSTOP)] if number == "SIGTSTP" and in_terminal else [])
        scene.signal(signal.SIGCONT)
        yield
        assert scene.told[1:] == [("worker 1", RESUME)]
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life()) == 0


def test_quit_stops_at_once_usr2_does_nothing_and_a_second_hang_up_does_not_count(scene: Scene) -> None:
    def life() -> Life:
        scene.signal(signal.SIGUSR2)
        scene.signal(signal.SIGHUP)
        scene.signal(signal.SIGHUP)
        yield
        assert scene.told == [("console", "TERM"), ("worker 1", STOP)]
        scene.signal(signal.SIGQUIT)
        yield
        assert scene.told[3:] == [("worker 1", NOW)]
        yield from scene.end()

    assert scene.run(life()) == 0
    assert set(supervisor.SIGNALS) == set(scene.listens)


def test_a_process_that_cannot_be_created_is_retried_and_the_console_is_not_given_up(scene: Scene) -> None:
    for name in ("console", "worker 1"):
        scene.refusals[name] = 2 * supervisor.CONSOLE_DEATHS_LIMIT

    def life() -> Life:
        began = scene.now
        yield from scene.until(lambda: set(scene.pids) == {"console", "maintenance", "worker 1"})
        assert scene.now - began > 2 * supervisor.LONGEST_PAUSE
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life()) == 0


def test_a_console_that_dies_repeatedly_at_once_is_given_up_after_growing_pauses(scene: Scene) -> None:
    pauses = []

    def life() -> Life:
        for starts in range(2, supervisor.CONSOLE_DEATHS_LIMIT + 1):
            scene.die("console", 3)
            died_at = scene.now
            yield from scene.until(lambda starts=starts: scene.starts["console"] == starts)  # type: ignore[misc]
            pauses.append(scene.now - died_at)
        scene.die("console", 3)
        yield
        assert scene.told == [("worker 1", STOP)]
        yield from scene.end()

    assert scene.run(life()) == 1
    assert pauses == pytest.approx([1, 2, 4, 8], abs=0.01)


def test_a_console_that_lived_long_enough_can_die_any_number_of_times(scene: Scene) -> None:
    def life() -> Life:
        for _ in range(2 * supervisor.CONSOLE_DEATHS_LIMIT):
            started_at = scene.now
            yield from scene.until(lambda: scene.now >= started_at + supervisor.HEALTHY)  # noqa: B023
            scene.die("console")
            yield from scene.until(lambda: "console" in scene.pids)
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life()) == 0


def test_a_console_that_exited_with_0_is_not_restarted_and_workers_continue(scene: Scene) -> None:
    def life() -> Life:
        scene.die("console", 0)
        yield
        scene.die("worker 1")
        yield from scene.until(lambda: scene.starts["worker 1"] == 2)
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life()) == 0
    assert scene.starts["console"] == 1


def test_a_console_continues_when_users_have_stopped_the_workers(scene: Scene) -> None:
    def life() -> Life:
        scene.hear(0, STOP_REQUESTED)
        scene.die("worker 1", 0)
        yield
        scene.die("maintenance", 0)
        yield from scene.until(lambda: scene.now > 1100)
        assert list(scene.pids) == ["console"]
        assert ("console", "TERM") not in scene.told
        scene.die("console")
        yield from scene.until(lambda: scene.starts["console"] == 2)
        scene.signal(signal.SIGTERM)
        yield
        scene.die("console", 0)
        yield

    assert scene.run(life()) == 0
    assert (scene.starts["worker 1"], scene.starts["maintenance"]) == (1, 1)


@pytest.mark.parametrize("how", ["a worker", "maintenance"])
def test_a_moved_or_upgraded_queue_ends_the_console_too(scene: Scene, how: str) -> None:
    def life() -> Life:
        if how == "maintenance":
            scene.hear(0, RELOCATED)
        scene.die("worker 1", OUTDATED if how == "a worker" else 0)
        yield
        assert scene.told == [("maintenance", "end"), ("console", "TERM")]
        scene.die("maintenance", 0)
        scene.die("console", 0)
        yield

    assert scene.run(life()) == 1, "the service manager starts it again"


# --- messages to the service manager ---


def test_it_is_ready_when_the_console_serves_and_a_worker_runs(scene: Scene) -> None:
    def life() -> Life:
        scene.hear(serving=1)
        yield from scene.until(lambda: scene.now > 1010)
        assert "READY=1" not in scene.service.heard
        scene.say(b"R")
        yield
        yield
        assert scene.service.heard.count("READY=1") == 1
        scene.signal(signal.SIGTERM)
        yield
        yield
        assert scene.service.heard[-2:] == ["STOPPING=1", "STATUS=console: answers; workers: 1 worker, finishing"]
        yield from scene.end()

    assert scene.run(life(), watched=True) == 0


def test_it_is_not_ready_before_the_first_worker_is(scene: Scene) -> None:
    def life() -> Life:
        scene.say(b"R")
        for _ in range(50):
            scene.say(b"A")
            scene.hear()
            yield
        assert "READY=1" not in scene.service.heard
        scene.hear(serving=1)
        yield
        yield
        assert "READY=1" in scene.service.heard
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life(), watched=True) == 0


@pytest.mark.parametrize("which", ["console", "workers"])
def test_workers_stopped_from_elsewhere_are_not_waited_for(scene: Scene, which: str) -> None:
    def life() -> Life:
        if which == "console":
            scene.die("console", 0)
            scene.hear(serving=1)
        else:
            scene.hear(0, STOP_REQUESTED)
            scene.die("worker 1", 0)
            scene.say(b"R")
        yield
        yield
        assert "READY=1" in scene.service.heard
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life(), watched=True) == 0


def test_a_silent_console_stops_the_watchdog_but_a_starting_one_does_not(scene: Scene) -> None:
    def ticks_within(seconds: float) -> Generator[None, None, int]:
        before, until = scene.service.heard.count("WATCHDOG=1"), scene.now + seconds
        yield from scene.until(lambda: scene.now >= until)
        return scene.service.heard.count("WATCHDOG=1") - before

    def life() -> Life:
        assert (yield from ticks_within(20)) >= 9, "a start takes its time"
        scene.say(b"R")
        yield from ticks_within(INTERVAL / 2 + 0.5)
        assert (yield from ticks_within(20)) == 0
        scene.say(b"A")
        yield
        yield
        assert scene.service.heard[-1] == "WATCHDOG=1"
        yield from ticks_within(20)
        scene.die("console")
        assert (yield from ticks_within(20)) >= 9, "it is started again"
        scene.signal(signal.SIGTERM)
        yield from scene.end()

    assert scene.run(life(), watched=True) == 0
