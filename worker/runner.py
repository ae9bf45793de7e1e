"""One command as a process tree: start it, read what it writes, end it in time, say what came of it.

`Runner` belongs to a worker's main thread and never touches the database, so that limits and cancellations bite
even while the database is out of reach. This one is for POSIX; `runner_threads.py` does the same where there is
no fork.

The end of a job is the end of its shell, not the closing of its pipes: what the shell leaves behind is ended.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from dataclasses import dataclass, field
from typing import Any, Optional

from webapp import clock
from webapp.settings import Settings
from worker import failures, processes
from worker.claims import Claim, Ended
from worker.output import STDERR, STDOUT, Capture

READ_SIZE = 65536
LEFT_BEHIND_GRACE = 1.0  # seconds that what a shell left behind may take to end itself
FINAL_READS = 64  # pipe-fulls that are still read when a job has ended: a stranger may hold the pipe and write on


@dataclass
class Running:
    """A command that runs."""

    claim: Claim
    pid: int
    pipes: list[int]
    capture: Capture
    started_at: int
    deadline: Optional[float]  # on the monotonic clock
    limit: float
    why: str = ""  # why it was told to end: timeout, cancelled, released, lost
    kill_at: Optional[float] = None
    status: Optional[int] = None  # the shell's wait status, once it has ended
    usage: Any = None
    ended_at: int = 0
    left_behind: set[int] = field(default_factory=set)
    give_up_at: float = 0.0  # what is left behind and cannot be killed (it hangs in the kernel) is waited for no longer


class Runner:
    """The commands of one worker."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self._running: dict[int, Running] = {}  # by the shell's pid
        self._ended: list[Ended] = []
        self._devnull = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._environment = {key: value for key, value in os.environ.items() if not key.startswith("QUEUECTL_")}
        self._subreaper = processes.become_subreaper()
        self._children: Optional[int] = None
        if self._subreaper:
            with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
                path = f"/proc/self/task/{os.getpid()}/children"
                self._children = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    # --- what the worker asks ---

    def __len__(self) -> int:
        return len(self._running)

    def captures(self) -> list[tuple[Claim, Capture]]:
        return [(one.claim, one.capture) for one in list(self._running.values())]

    def start(self, claim: Claim, settings: Settings) -> None:
        """Start a claim's command. One that cannot be started is an ended one with its reason."""
        capture = Capture(settings.output_limit)
        started_at = clock.now()
        limit = claim.timeout if claim.timeout is not None else settings.job_timeout
        try:
            pid, pipes = self._spawn(claim)
        except _CannotStart as error:
            self._ended.append(
                Ended(claim, "failed", error.reason, started_at, clock.now(), error=str(error), output=capture.kept())
            )
            return
        running = Running(claim, pid, pipes, capture, started_at, time.monotonic() + limit if limit else None, limit)
        self._running[pid] = running
        for stream, pipe in zip((STDOUT, STDERR), pipes):
            self.selector.register(pipe, selectors.EVENT_READ, (running, stream))

    def stop(self, why: str, grace: float, tokens: Optional[set[str]] = None) -> None:
        """Tell commands to end (TERM now, KILL after the grace): those with these tokens, or all."""
        for running in self._running.values():
            if (tokens is None or running.claim.token in tokens) and running.status is None:
                self._terminate(running, why, grace)

    def poll(self, timeout: Optional[float]) -> tuple[list[Ended], list[Any]]:
        """Wait for something to happen; return what ended, and the data of the worker's own ready descriptors."""
        foreign = []
        until = self._next_deadline()
        if until is not None:
            wait = max(0.0, until - time.monotonic())
            timeout = wait if timeout is None else min(timeout, wait)
        if self._ended:
            timeout = 0
        for key, _ in self.selector.select(timeout):
            if isinstance(key.data, tuple):
                self._read(key.fd, *key.data)
            else:
                foreign.append(key.data)
        if foreign:  # SIGCHLD comes through one of them
            self._reap()
        self._enforce()
        ended, self._ended = self._ended, []
        return ended, foreign

    def _reap(self) -> None:
        """Collect every child that has ended: shells, and orphans that were given to this process."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self._running.get(pid)
            if running is not None and running.status is None:
                running.status, running.usage, running.ended_at = status, usage, clock.now()
                self._look_behind(running)

    # --- starting ---

    def _spawn(self, claim: Claim) -> tuple[int, list[int]]:
        # posix_spawn cannot change the folder, so a second shell does: one exec more, for jobs with a cwd only.
        argv = ["/bin/sh", "-c", claim.command]
        if claim.cwd is not None:
            _check_folder(claim.cwd)
            argv = ["/bin/sh", "-c", 'cd -- "$0" && exec /bin/sh -c "$1"', claim.cwd, claim.command]
        environment = {
            **self._environment,
            **claim.env,
            "QUEUECTL_JOB_ID": claim.id,
            "QUEUECTL_ATTEMPT": str(claim.attempt),
            processes.TOKEN_VARIABLE: claim.token,
        }
        ends: list[int] = []
        try:
            for _ in (STDOUT, STDERR):
                ends += os.pipe()
            read_out, write_out, read_err, write_err = ends
            pid = os.posix_spawn(
                argv[0],
                argv,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, self._devnull, 0),
                    (os.POSIX_SPAWN_DUP2, write_out, 1),
                    (os.POSIX_SPAWN_DUP2, write_err, 2),
                ],
                setsid=True,
                setsigmask=[],
                # Python ignores these two, and what is ignored stays so across exec.
                setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],
            )
        except OSError as error:
            for end in ends:
                os.close(end)
            raise _CannotStart("spawn", f"could not be started: {error.strerror}") from None
        os.close(write_out)
        os.close(write_err)
        os.set_blocking(read_out, False)
        os.set_blocking(read_err, False)
        return pid, [read_out, read_err]

    # --- reading ---

    def _read(self, pipe: int, running: Running, stream: int) -> None:
        try:
            data = os.read(pipe, READ_SIZE)
        except BlockingIOError:
            return
        if data:
            running.capture.write(stream, data)
        else:
            self._close(running, pipe)

    def _close(self, running: Running, pipe: int) -> None:
        self.selector.unregister(pipe)
        os.close(pipe)
        running.pipes[running.pipes.index(pipe)] = -1

    def _drain(self, running: Running) -> None:
        for stream, pipe in enumerate(running.pipes):
            for _ in range(FINAL_READS if pipe >= 0 else 0):
                try:
                    data = os.read(pipe, READ_SIZE)
                except BlockingIOError:
                    break
                if not data:
                    break
                running.capture.write(stream, data)
            if pipe >= 0:
                self._close(running, pipe)

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
            if running.status is not None:
                self._finish_when_alone(running, now)
            elif not running.why and running.deadline is not None and now >= running.deadline:
                self._terminate(running, "timeout", running.claim.kill_grace)
            elif running.kill_at is not None and now >= running.kill_at:
                # The shell first: it would still have its say about children that are killed before it.
                processes.send([running.pid, *self._tree(running)], signal.SIGKILL)
                running.kill_at = now + 0.2  # until the shell is reaped: a fork may have raced the scan

    def _terminate(self, running: Running, why: str, grace: float) -> None:
        if not running.why:
            running.why = why
        tree = self._tree(running)
        processes.send(tree, signal.SIGTERM)
        processes.send(tree, signal.SIGCONT)  # a stopped process does not hear the TERM
        kill_at = time.monotonic() + grace
        running.kill_at = kill_at if running.kill_at is None else min(kill_at, running.kill_at)

    def _tree(self, running: Running) -> set[int]:
        """The shell, what it started, and what escaped from it to this process."""
        tree = set(processes.descendants(running.pid))
        if running.status is None:
            tree.add(running.pid)
        tree |= self._orphans(running)
        return tree

    def _orphans(self, running: Running) -> set[int]:
        """Adopted children of this process that belong to a job, with all below them.

        They carry its token or are of its session; one that shows neither (`env -i setsid …`) belongs to it if no
        other job runs here that could own it.
        """
        found: set[int] = set()
        for pid in self._adopted():
            if self._owns(running, pid):
                found |= {pid, *processes.descendants(pid)}
        return found

    def _owns(self, running: Running, pid: int) -> bool:
        token = processes.token_of(pid)
        if token is not None:
            return token == running.claim.token
        try:
            session = os.getsid(pid)
        except OSError:
            return False
        return session == running.pid or (session not in self._running and len(self._running) == 1)

    def _adopted(self) -> set[int]:
        if self._children is not None:
            children = {int(pid) for pid in os.pread(self._children, 1 << 20, 0).split()}
        elif self._subreaper:
            import psutil

            children = {child.pid for child in psutil.Process().children()}
        else:
            return set()
        return children - self._running.keys()

    def _look_behind(self, running: Running) -> None:
        """The shell has ended: tell what it left behind to end, too."""
        left = self._orphans(running) if self._subreaper else _group(running.pid)
        now = time.monotonic()
        running.left_behind = left
        if left:
            processes.send(left, signal.SIGTERM)
            processes.send(left, signal.SIGCONT)
            grace = LEFT_BEHIND_GRACE if not running.why else 0.0
            running.kill_at = now + grace
            running.give_up_at = running.kill_at + 0.5

    def _finish_when_alone(self, running: Running, now: float) -> None:
        if running.left_behind and running.kill_at is not None:
            still = self._orphans(running) if self._subreaper else _group(running.pid)
            if still and now < running.kill_at:
                return
            if still and now < running.give_up_at:
                processes.send(still, signal.SIGKILL)
                running.kill_at = now + 0.02
                return
        self._drain(running)
        del self._running[running.pid]
        self._ended.append(_ended(running))


class _CannotStart(Exception):
    def __init__(self, reason: str, message: str) -> None:
        self.reason = reason
        super().__init__(message)


def _check_folder(cwd: str) -> None:
    if not os.path.isdir(cwd):
        missing = "is not a folder" if os.path.exists(cwd) else "does not exist"
        raise _CannotStart("cwd", f"its working folder {cwd} {missing}")
    if not os.access(cwd, os.X_OK):
        raise _CannotStart("cwd", f"its working folder {cwd} may not be entered by this worker")


def _group(pid: int) -> set[int]:
    """Without a subreaper: is anything left in the shell's process group? Then the group, as one."""
    try:
        os.killpg(pid, 0)
    except OSError:
        return set()
    return {-pid}  # os.kill of a negative pid reaches the group


def _ended(running: Running) -> Ended:
    status, kept = running.status or 0, running.capture.kept()
    exit_code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
    number = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    usage = running.usage
    facts: dict[str, Any] = {
        "started_at": running.started_at,
        "finished_at": running.ended_at,
        "exit_code": exit_code,
        "signal": number,
        "cpu_time": clock.seconds(usage.ru_utime + usage.ru_stime),
        "peak_memory": usage.ru_maxrss * (1024 if os.uname().sysname == "Linux" else 1),
        "output": kept,
        "left_behind": 0 if running.why else len(running.left_behind),  # what was told to end has not been left
    }
    if running.why == "cancelled":
        return Ended(running.claim, "cancelled", "cancelled", error="cancelled while it ran", **facts)
    if running.why == "released":
        return Ended(running.claim, "released", "released", error="handed back: its worker shut down", **facts)
    if exit_code == 0 and not running.why:
        return Ended(running.claim, "completed", "exit", **facts)
    reason = "timeout" if running.why == "timeout" else "exit" if number is None else "signal"
    words = failures.last_line(kept.data)
    error = failures.explain(reason, exit_code, number, words, running.limit)
    what = reason if reason == "timeout" else f"{reason} {exit_code if number is None else number}"
    key = failures.error_key(what, words, running.claim.command)
    return Ended(running.claim, "failed", reason, error=error, error_key=key, **facts)
