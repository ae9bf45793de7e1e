"""The commands of one worker: start each, end it in time, say what came of it. What is the same on every platform.

A `Runner` belongs to one thread at a time (see `worker/loop/standby.py`) and never touches the database, so that limits and
cancellations bite even while that is out of reach. It is also the one place where a worker waits: `poll()` returns
when something happened to a command, when another thread called `wake()`, when the supervisor had something to say, or
when the bell rang for which it was armed. How a process is started, read and found is the platform's:
`worker/runner/posix.py` where there is fork, `worker/runner/threads.py` elsewhere.

The end of a job is the end of its shell, not the closing of its pipes: what the shell leaves behind is ended.
"""

from __future__ import annotations

import os
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Callable, Generic, Optional, TypeVar

from webapp.core.settings import Settings
from webapp.lib import clock, sd_notify
from worker import processes
from worker.attempt import AttemptResult, Claim
from worker.runner import failure_text
from worker.runner.limits import NO_LIMITS, Limits
from worker.runner.output import Capture

READ_SIZE = 65536
LEFT_BEHIND_GRACE = 1.0  # seconds that what a shell left behind may take to end itself
_WINDOWS: bool = sys.platform == "win32"


@dataclass
class Running:
    """A command that runs. Facts of its end are set when its shell has ended (`over`); times in microseconds."""

    pid: int  # the shell's
    claim: Claim
    capture: Capture
    started_at: int
    deadline: Optional[float] = None  # on the monotonic clock
    limit: float = 0.0  # of its time, in seconds
    limits: Limits = NO_LIMITS
    why: str = ""  # why it was told to end: timeout, cancelled, released, lost
    kill_at: Optional[float] = None  # when what was told to end is killed; once `over`, when to look again
    over: bool = False
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    cpu_time: Optional[int] = None
    peak_memory: Optional[int] = None
    used_up: str = ""  # which limit it met: memory, processes
    ended_at: int = 0
    left_behind: set[int] = field(default_factory=set)
    give_up_at: float = 0.0  # what is left behind and cannot be killed (it hangs in the kernel) is waited for no longer


R = TypeVar("R", bound=Running)


class CannotStart(Exception):
    """A command that cannot be started: a failed attempt with this reason."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


class Runner(ABC, Generic[R]):
    """See the module.

    Attributes:
        orders: what the supervisor said, in the words of `worker/messages.py`.
        called: is called when it said something, from whatever thread heard it.
        rang: the bell did since `arm()`; for whoever answers it to reset.
        selects: whether `arm()` has an effect.
    """

    selects = False

    def __init__(self) -> None:
        self.orders: deque[str] = deque()
        self.called: Callable[[], object] = lambda: None
        self.rang = False
        self._running: dict[int, R] = {}  # by the shell's pid
        self._ended: list[AttemptResult] = []
        self._environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("QUEUECTL_") and key not in sd_notify.VARIABLES
        }

    # --- what the worker asks ---

    def __len__(self) -> int:
        return len(self._running)

    def captures(self) -> list[tuple[Claim, Capture]]:
        return [(one.claim, one.capture) for one in list(self._running.values())]

    def start(self, claim: Claim, settings: Settings) -> None:
        """Start a claim's command. One that cannot be started is an ended one with its reason."""
        capture = Capture(settings.output_limit)
        started_at = clock.now()
        try:
            if claim.cwd is not None:
                _check_folder(claim.cwd)
            running = self._spawn(claim, capture, started_at, Limits.of(settings))
        except CannotStart as error:
            self._ended.append(
                AttemptResult(
                    claim, "failed", error.reason, started_at, clock.now(), error=str(error), output=capture.kept()
                )
            )
            return
        running.limit = claim.timeout if claim.timeout is not None else settings.job_timeout
        if running.limit:
            running.deadline = time.monotonic() + running.limit
        self._running[running.pid] = running

    def stop(self, why: str, grace: float, tokens: Optional[set[str]] = None) -> None:
        """Tell commands to end (TERM now, KILL after the grace): those with these tokens, or all."""
        for running in self._running.values():
            if (tokens is None or running.claim.token in tokens) and not running.over:
                self._terminate(running, why, grace)

    def arm(self, bell: Optional[int]) -> None:
        """Have `poll()` return, once, when this descriptor can be read."""

    def poll(self, timeout: Optional[float]) -> list[AttemptResult]:
        """Wait for something to happen, `timeout` seconds at the most; return what ended."""
        until = self._next_deadline()
        if until is not None:
            wait = max(0.0, until - time.monotonic())
            timeout = wait if timeout is None else min(timeout, wait)
        self._wait(0 if self._ended else timeout)
        self._enforce()
        ended, self._ended = self._ended, []
        return ended

    @abstractmethod
    def wake(self) -> None:
        """End the wait of `poll()`, from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Listen no more."""

    # --- what the platform does ---

    @abstractmethod
    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> R:
        """Start the command's shell, in a session or group of its own. Raises CannotStart."""

    @abstractmethod
    def _wait(self, timeout: Optional[float]) -> None:
        """Wait, and take in what happened: output, ends (through `_shell_ended`), orders."""

    @abstractmethod
    def _tree(self, running: R) -> set[int]:
        """The shell, what it started, and what escaped from it."""

    @abstractmethod
    def _left(self, running: R) -> set[int]:
        """What still runs of a command whose shell has ended."""

    @abstractmethod
    def _collect(self, running: R, now: float) -> Optional[float]:
        """Take in the rest of the output, and what else is left to say. None when done, else when to look again."""

    # --- ending ---

    def _next_deadline(self) -> Optional[float]:
        times = [
            time_
            for running in self._running.values()
            for time_ in (running.kill_at, running.deadline if not running.why else None)
            if time_ is not None
        ]
        return min(times, default=None)

    def _enforce(self) -> None:
        """Act on the deadlines that have passed; finish what is over."""
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.over:
                self._finish_when_alone(running, now)
            elif not running.why and running.deadline is not None and now >= running.deadline:
                self._terminate(running, "timeout", running.claim.kill_grace)
            elif running.kill_at is not None and now >= running.kill_at:
                # The shell first: it would still have its say about children that are killed before it.
                processes.kill([running.pid, *self._tree(running)])
                running.kill_at = now + 0.2  # until the shell's end is seen: a fork may have raced the scan

    def _terminate(self, running: R, why: str, grace: float) -> None:
        if not running.why:
            running.why = why
        processes.ask_to_end(self._tree(running))
        kill_at = time.monotonic() + grace
        running.kill_at = kill_at if running.kill_at is None else min(kill_at, running.kill_at)

    def _shell_ended(self, running: R, left: set[int]) -> None:
        """The shell has ended: tell what it left behind to end, too."""
        running.over = True
        running.left_behind = left
        if left:
            processes.ask_to_end(left)
            grace = LEFT_BEHIND_GRACE if not running.why else 0.0
            running.kill_at = time.monotonic() + grace
            running.give_up_at = running.kill_at + 0.5

    def _finish_when_alone(self, running: R, now: float) -> None:
        if running.left_behind and running.kill_at is not None:
            still = self._left(running)
            if still and now < running.kill_at:
                return
            if still and now < running.give_up_at:
                processes.kill(still)
                running.kill_at = now + 0.02
                return
        again = self._collect(running, now)
        if again is not None:
            running.kill_at = again
            return
        del self._running[running.pid]
        self._ended.append(_outcome(running))

    # --- starting ---

    def _own_environment(self, claim: Claim) -> dict[str, str]:
        """What a claim's command sees beside the environment of its worker, or in its place."""
        own = {name.upper(): value for name, value in claim.env.items()} if _WINDOWS else claim.env  # 'Path' is 'PATH'
        return {
            **own,
            "QUEUECTL_JOB_ID": claim.id,
            "QUEUECTL_ATTEMPT": str(claim.attempt),
            processes.TOKEN_VARIABLE: claim.token,
        }


def _check_folder(cwd: str) -> None:
    if not os.path.isdir(cwd):
        missing = "is not a directory" if os.path.exists(cwd) else "does not exist"
        raise CannotStart("cwd", f"working directory {cwd} {missing}")
    if not os.access(cwd, os.X_OK):
        raise CannotStart("cwd", f"the worker has no access to working directory {cwd}")


def _outcome(running: Running) -> AttemptResult:
    kept, exit_code, number = running.capture.kept(), running.exit_code, running.signal
    facts: dict[str, Any] = {
        "started_at": running.started_at,
        "finished_at": running.ended_at,
        "exit_code": exit_code,
        "signal": number,
        "cpu_time": running.cpu_time,
        "peak_memory": running.peak_memory,
        "output": kept,
        "left_behind": 0 if running.why else len(running.left_behind),  # what was told to end has not been left
    }
    if running.why == "cancelled":
        return AttemptResult(running.claim, "cancelled", "cancelled", error="cancelled while running", **facts)
    if running.why == "released":
        return AttemptResult(running.claim, "released", "released", error="interrupted: worker shut down", **facts)
    if exit_code == 0 and not running.why:
        return AttemptResult(running.claim, "completed", "exit", **facts)
    words = failure_text.last_line(kept.data)
    how = "exit" if number is None else "signal"
    reason = "timeout" if running.why == "timeout" else running.used_up or how
    if reason == "timeout":
        what, ending = reason, f"timed out after {running.limit:g} s"
    else:
        what = f"{reason} {exit_code if number is None else number}"
        ending = failure_text.describe_exit(exit_code or 0) if number is None else failure_text.describe_signal(number)
    if running.used_up:
        ending = f"{failure_text.describe_limit(running.used_up, running.limits)}; {ending}"
    error = f"{ending}: {words}" if words else ending
    key = failure_text.error_key(what, words, running.claim.command)
    return AttemptResult(running.claim, "failed", reason, error=error, error_key=key, **facts)
