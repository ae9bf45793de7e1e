"""Runs the commands of one worker: start each, end it in time, report its result. The same on every platform.

A `Runner` belongs to one thread at a time (see `worker/loop/standby.py`) and never touches the database, so limits and
cancellations work while the database is unavailable. It is also the only place where a worker waits: `poll()` returns
when a command ends, when another thread calls `wake()`, when the supervisor sends a message, or when there may be new
work. `worker/runner/posix.py` handles processes where there is fork, `worker/runner/threads.py` elsewhere.

A job ends when its shell ends, not when its pipes close. Processes that the shell leaves behind are ended.
"""

from __future__ import annotations

import math
import os
import sys
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Callable, Generic, Optional, TypeVar

from webapp.config import HOME
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.lib import clock
from webapp.lib.error_key import error_key
from webapp.lib.text import can_be_stored, escape_controls
from worker import processes, shortage
from worker.attempt import AttemptResult, Claim, describe_exit, describe_signal, last_line
from worker.runner.limits import NO_LIMITS, Limits
from worker.runner.output import Capture
from worker.runner.report import ReportFile
from worker.runner.scripts import Scripts

READ_SIZE = 65536
LEFT_BEHIND_GRACE = 1.0  # seconds that processes which a shell left behind have to end
_GONE = "Create it again, start the worker in another folder, or give the job a working directory"
_UTF8: bool = sys.getfilesystemencoding() == "utf-8"


class Running:
    """A command that runs. The last attributes are set when its shell has ended (`over`). Times in microseconds."""

    deadline: Optional[float] = None  # on the monotonic clock
    limit: float = 0.0  # of its time, in seconds
    limits: Limits = NO_LIMITS
    why: str = ""  # why it was told to end: timeout, cancelled, released, lost
    kill_at: Optional[float] = None  # when to kill what was told to end; once `over`, when to check again
    over: bool = False
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    cpu_time: Optional[int] = None
    peak_memory: Optional[int] = None
    used_up: str = ""  # the limit that it reached: memory, processes
    ended_at: int = 0
    left_behind: Collection[int] = ()
    give_up_at: float = 0.0  # until when to wait for left-behind processes that hang in the kernel

    def __init__(self, pid: int, claim: Claim, capture: Capture, started_at: int) -> None:
        """`pid`: the shell's."""
        self.pid = pid
        self.claim = claim
        self.capture = capture
        self.started_at = started_at


R = TypeVar("R", bound=Running)


class CannotStart(Exception):
    """The command cannot be started. The attempt fails with this reason."""

    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        # A path may have bytes that the locale cannot decode. The message is stored, so it must be UTF-8.
        super().__init__(message.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


class Runner(ABC, Generic[R]):
    """See the module.

    Attributes:
        messages: what the supervisor sent, see `worker/messages.py`.
        called: called when there is a message, from the thread that received it.
        signalled: the descriptor passed to `arm()` was readable; the caller resets this.
        selects: whether `arm()` has an effect.
    """

    selects = False

    def __init__(self, environment: dict[str, str], of_system: Mapping[str, str]) -> None:
        """`environment`: what every job gets; `of_system`: what jobs of SYSTEM_QUEUE get too.

        See `worker/runner/environment.py`.
        """
        self.messages: deque[str] = deque()
        self.called: Callable[[], object] = lambda: None
        self.signalled = False
        self._running: dict[int, R] = {}  # by the shell's pid
        self._ended: list[AttemptResult] = []
        self._environment = environment
        self._system_environment = {**environment, **of_system}
        self._scripts = Scripts(Path(environment[HOME]) / "scripts")
        try:
            self._own_folder = os.getcwd()
        except FileNotFoundError:
            self._own_folder = os.environ.get("PWD", "/nowhere")
        self._left_folder = False

    # --- for the worker ---

    def __len__(self) -> int:
        return len(self._running)

    def captures(self) -> list[tuple[Claim, Capture]]:
        return [(one.claim, one.capture) for one in list(self._running.values())]

    def start(self, claim: Claim, settings: Settings) -> None:
        """Start a claim's command. If the job is to blame for a failure, the next `poll()` returns a failed attempt.

        Raises Shortage if the machine has no room for it: then nothing was started.
        """
        capture = Capture(settings.output_limit)
        capture.report = self._report_file(claim)
        started_at = clock.now()
        try:
            running = self._try(claim, capture, started_at, Limits.of(settings))
        except CannotStart as error:
            self._ended.append(_not_started(claim, error, started_at))
            return
        running.limit = claim.timeout if claim.timeout is not None else settings.job_timeout
        if running.limit:
            running.deadline = time.monotonic() + running.limit
        self._running[running.pid] = running

    def _report_file(self, claim: Claim) -> Optional[ReportFile]:
        try:
            return ReportFile(self._scripts.path(f"{claim.seq}-{claim.attempt}.report"))
        except OSError:  # without a folder, the command cannot report, but runs
            return None

    def _try(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> R:
        """Raises CannotStart and Shortage: whatever a job brings, it must not end its worker."""
        try:
            if claim.cwd is not None:
                _check_folder(claim.cwd)
            if not self._has_own_folder() and claim.cwd is None:
                raise CannotStart("cwd", f"the worker's own folder {self._own_folder} was deleted. {_GONE}")
            running = self._spawn(claim if _UTF8 else _in_utf8(claim), capture, started_at, limits)
        except (OSError, MemoryError, RuntimeError) as error:
            short = shortage.of(error)
            if short is not None:
                raise short from None
            raise CannotStart("spawn", f"could not be started: {getattr(error, 'strerror', error)}") from None
        except ValueError:  # also UnicodeError
            raise CannotStart("spawn", f"could not be started: {_unsuitable(claim)}") from None
        running.claim = claim
        return running

    def _has_own_folder(self) -> bool:
        """Whether the folder exists in which this process was started, and in which jobs without a `cwd` run.

        Without it this process stays in /, because shells complain where there is no folder.
        """
        if not self._left_folder:
            try:
                os.getcwd()
                return True
            except FileNotFoundError:
                os.chdir("/")
        try:
            os.chdir(self._own_folder)  # another folder of this name may be there, as after a deployment
            self._left_folder = False
        except OSError:
            self._left_folder = True
        return not self._left_folder

    def stop(self, why: str, grace: float, tokens: Optional[set[str]] = None) -> None:
        """End the commands with these tokens, or all: TERM now, KILL after `grace` seconds."""
        for running in self._running.values():
            if (tokens is None or running.claim.token in tokens) and not running.over:
                self._terminate(running, why, grace)

    def arm(self, descriptor: Optional[int]) -> None:
        """Let `poll()` also return, once, when this descriptor is readable."""

    def poll(self, timeout: float) -> list[AttemptResult]:
        """Wait for an event, at most `timeout` seconds; return the results of ended commands."""
        until = self._next_deadline()
        if until < math.inf:
            timeout = min(timeout, max(0.0, until - time.monotonic()))
        self._wait(0.0 if self._ended else timeout)
        self._enforce()
        ended, self._ended = self._ended, []
        return ended

    @abstractmethod
    def wake(self) -> None:
        """End the wait of `poll()`, from any thread."""

    def close(self) -> None:
        """Stop listening, and delete the files."""
        self._scripts.close()

    # --- for the platform ---

    def _environment_of(self, claim: Claim) -> dict[str, str]:
        """What a job finds in its environment besides its own variables."""
        return self._system_environment if claim.queue == SYSTEM_QUEUE else self._environment

    @abstractmethod
    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> R:
        """Start the command's shell in its own session or group. Raises what the system or Python raises, too."""

    @abstractmethod
    def _wait(self, timeout: float) -> None:
        """Wait, and process what happened: output, ended shells (through `_shell_ended`), messages."""

    @abstractmethod
    def _tree(self, running: R) -> set[int]:
        """The shell, its descendants, and processes that escaped from them."""

    @abstractmethod
    def _left(self, running: R) -> set[int]:
        """The processes of a command that still run after its shell has ended."""

    @abstractmethod
    def _collect(self, running: R, now: float) -> Optional[float]:
        """Read the rest of the output. Returns None when done, else when to try again."""

    # --- ending ---

    def _next_deadline(self) -> float:
        soonest = math.inf
        for running in self._running.values():
            if running.kill_at is not None and running.kill_at < soonest:
                soonest = running.kill_at
            if running.deadline is not None and not running.why and running.deadline < soonest:
                soonest = running.deadline
        return soonest

    def _enforce(self) -> None:
        """Act on the deadlines that have passed."""
        now = time.monotonic()
        for running in list(self._running.values()):
            if running.over:
                self._finish(running, now)
            elif not running.why and running.deadline is not None and now >= running.deadline:
                self._terminate(running, "timeout", running.claim.kill_grace)
            elif running.kill_at is not None and now >= running.kill_at:
                # The shell first: it would report that its children were killed before it.
                processes.kill([running.pid, *self._tree(running)])
                running.kill_at = now + 0.2  # again, because a fork may have raced the scan

    def _terminate(self, running: R, why: str, grace: float) -> None:
        running.why = running.why or why
        processes.terminate(self._tree(running))
        kill_at = time.monotonic() + grace
        running.kill_at = kill_at if running.kill_at is None else min(kill_at, running.kill_at)

    def _shell_ended(self, running: R, left: set[int]) -> None:
        """The shell has ended and left these processes behind: end them."""
        running.over = True
        running.left_behind = left
        if left:
            processes.terminate(left)
            grace = LEFT_BEHIND_GRACE if not running.why else 0.0
            running.kill_at = time.monotonic() + grace
            running.give_up_at = running.kill_at + 0.5

    def _finish(self, running: R, now: float) -> None:
        """Report the result, unless processes are still left or output is still open."""
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
        self._ended.append(_result(running))


def identity(claim: Claim, capture: Capture) -> dict[str, str]:
    """The variables that tell a command what it is. Neither the worker's environment nor the job's has them."""
    found = {
        "QUEUECTL_JOB_ID": claim.id,
        "QUEUECTL_ATTEMPT": str(claim.attempt),
        processes.TOKEN_VARIABLE: claim.token,
    }
    if capture.report is not None:
        found["QUEUECTL_REPORT"] = capture.report.path
    return found


def _check_folder(cwd: str) -> None:
    path = cwd.encode()  # UTF-8, whatever the locale
    if not os.path.isdir(path):
        missing = "is not a directory" if os.path.exists(path) else "does not exist"
        raise CannotStart("cwd", f"working directory {cwd} {missing}")
    if not os.access(path, os.X_OK):
        raise CannotStart("cwd", f"the worker has no access to working directory {cwd}")


def _not_started(claim: Claim, error: CannotStart, started_at: int) -> AttemptResult:
    key = error_key(str(error), claim.command)
    return AttemptResult(claim, "failed", error.reason, started_at, clock.now(), error=str(error), error_key=key)


def _in_utf8(claim: Claim) -> Claim:
    """The claim with texts that Python, which encodes for the locale, passes to the system as UTF-8."""
    env = {_as_utf8(name): _as_utf8(value) for name, value in claim.env.items()}
    cwd = None if claim.cwd is None else _as_utf8(claim.cwd)
    return claim._replace(command=_as_utf8(claim.command), cwd=cwd, env=env)


def _as_utf8(text: str) -> str:
    return os.fsdecode(text.encode())


def _unsuitable(claim: Claim) -> str:
    """Which text of the job no process can get."""
    texts = {"its command": claim.command, "its working directory": claim.cwd or ""}
    for name, value in claim.env.items():
        texts[f"its variable {escape_controls(name)}"] = f"{name}{value}"
    name = next((name for name, text in texts.items() if not can_be_stored(text)), "its environment")
    return f"{name} has a character that cannot be passed on, such as NUL or half of a surrogate pair"


def _result(running: Running) -> AttemptResult:
    result = AttemptResult(
        running.claim,
        "completed",
        "exit",
        running.started_at,
        running.ended_at,
        running.exit_code,
        running.signal,
        cpu_time=running.cpu_time,
        peak_memory=running.peak_memory,
        output=running.capture.kept(),
        report=running.capture.report.finish() if running.capture.report is not None else None,
        left_behind=0 if running.why else len(running.left_behind),  # a stopped command had no chance to end them
    )
    if running.exit_code == 0 and not running.why:
        return result
    if running.why == "cancelled":
        return result._replace(kind="cancelled", reason="cancelled", error="cancelled while running")
    if running.why == "released":
        return result._replace(kind="released", reason="released", error="interrupted: worker shut down")
    return _failed(result, running)


def _failed(result: AttemptResult, running: Running) -> AttemptResult:
    exit_code, number, line = result.exit_code, result.signal, last_line(result.output.data)
    reason = "timeout" if running.why == "timeout" else running.used_up or ("exit" if number is None else "signal")
    if reason == "timeout":
        ending = f"timed out after {running.limit:g} s"
    else:
        ending = describe_exit(exit_code or 0) if number is None else describe_signal(number)
    if running.used_up:
        ending = f"exceeded {running.limits.describe(running.used_up)}; {ending}"
    error = f"{ending}: {line}" if line else ending
    key = error_key(error, running.claim.command)
    return result._replace(kind="failed", reason=reason, error=error, error_key=key)
