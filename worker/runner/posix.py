"""Runs the commands of one worker where there is fork. It waits for pipes, signals, threads and new work at once.

The supervisor sends signals, see `_MESSAGES`. The end of a pipe means that it is gone. SIGCHLD means that a command
ended. Where the platform has subreapers this process is one: processes that escape from a command's tree become its
children.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from typing import Optional

from webapp.lib import clock
from webapp.lib.stream_runs import STDERR, STDOUT
from worker import processes
from worker.attempt import Claim
from worker.messages import GONE, NOW, QUIET, RESUME, STOP
from worker.runner.base import READ_SIZE, CannotStart, Runner, Running, identity
from worker.runner.limits import Limits, ResourceLimits
from worker.runner.output import Capture
from worker.runner.scripts import Shebang, shebang_of

# Seconds until output of a command wakes this thread. A shorter command wakes it once, when it ends; else the end of
# each of its pipes would, too.
WATCH_AFTER = 0.01
FINAL_READS = 64  # reads of a pipe when its job has ended, because another process may hold the pipe and still write
# A command with limits starts when it is told that they are set, and never if its worker dies before.
# No job has a variable of this name, and the job's variables keep their values.
_GATE = ["/bin/sh", "-c", 'read -r QUEUECTL_GATE && [ "$QUEUECTL_GATE" = go ] && exec "$@" </dev/null', "sh"]
# posix_spawn cannot change the folder. OLDPWD would come from this `cd`, which is not the job's.
_CHANGE_FOLDER = ["/bin/sh", "-c", 'cd -- "$0" && unset OLDPWD && exec "$@"']
# As docs/deployment.md has them, for signals that people send to a worker. A second STOP means NOW; '': ignored.
_MESSAGES = {
    "SIGTERM": STOP,
    "SIGINT": STOP,
    "SIGHUP": STOP,
    "SIGQUIT": NOW,
    "SIGTSTP": QUIET,
    "SIGUSR1": QUIET,
    "SIGCONT": RESUME,
    "SIGUSR2": "",
}
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss


class _Running(Running):
    enclosure: Optional[ResourceLimits] = None
    script = ""  # its file
    pipes: dict[int, int]  # the stream of each open pipe
    watch_at: float  # when to watch them, on the monotonic clock


class PosixRunner(Runner[_Running]):
    """See the module. Takes over the process's signal handlers and its wake-up descriptor."""

    selects = True

    def __init__(self, parent: int, environment: dict[str, str], of_system: Mapping[str, str]) -> None:
        """`parent`: the read end of the pipe from the supervisor."""
        super().__init__(environment, of_system)
        self._parent = parent
        # Signals and other threads write to this pair to end the wait.
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_fd = self._wake_read.fileno()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # Not epoll: adding and removing a pipe there costs more than passing a few of them at each wait.
        self._poll = select.poll()
        self._pipes: dict[int, _Running] = {}  # each watched pipe's command
        self._unwatched: deque[_Running] = deque()  # in the order of their start
        self._armed: Optional[int] = None
        for descriptor in (self._wake_fd, parent):
            self._poll.register(descriptor, select.POLLIN)
        self._stop_received = False
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        numbers = [signal.Signals[name] for name in _MESSAGES]
        for number in numbers:
            signal.signal(number, self._signalled)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)  # the supervisor's fork blocked some
        signal.signal(signal.SIGCHLD, lambda *_: None)  # so that it is written to the pair
        self._buffer = bytearray(READ_SIZE)  # else each read would allocate as much
        # Ignored signals stay ignored across exec, and Python ignores some. All are reset, because looking each one up
        # takes the child longer.
        self._signals = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
        self._peak = 0  # the greatest memory of this process, as last read
        self._devnull = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._subreaper = processes.become_subreaper()
        self._children: Optional[int] = None
        if self._subreaper:
            with contextlib.suppress(OSError):  # a kernel without CONFIG_PROC_CHILDREN
                path = f"/proc/self/task/{os.getpid()}/children"
                self._children = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wake_write.send(b"\0")

    def close(self) -> None:
        super().close()
        signal.set_wakeup_fd(-1)

    def _signalled(self, number: int, _frame: object) -> None:
        message = _MESSAGES[signal.Signals(number).name]
        if message == STOP and self._stop_received:
            message = NOW if number != signal.SIGHUP else ""  # a closed terminal may send it twice
        self._stop_received = self._stop_received or message == STOP
        if message:
            self.messages.append(message)
            self.called()

    # --- waiting ---

    def arm(self, descriptor: Optional[int]) -> None:
        if descriptor is not None and self._armed is None:
            self._armed = descriptor
            self._poll.register(descriptor, select.POLLIN)

    def _wait(self, timeout: float) -> None:
        until = time.monotonic() + timeout
        while self._only_output(min(until, self._watch_pipes()) - time.monotonic()) and until > time.monotonic():
            pass

    def _watch_pipes(self) -> float:
        """Watch the pipes of commands that have run for a while. Returns the monotonic time when the next one has."""
        now = time.monotonic()
        while self._unwatched:
            running = self._unwatched[0]
            if running.pipes and running.watch_at > now:
                return running.watch_at
            self._unwatched.popleft()
            for pipe in running.pipes:
                self._pipes[pipe] = running
                self._poll.register(pipe, select.POLLIN)
        return math.inf

    def _only_output(self, timeout: float) -> bool:
        """Wait once, and process what happened. Returns whether that was at most output: the caller need not know."""
        woken, output = False, 0
        happened = self._poll.poll(None if timeout == math.inf else max(0, math.ceil(timeout * 1000)))
        for descriptor, _ in happened:
            running = self._pipes.get(descriptor)
            if running is not None:
                output += 1
                self._read(running, descriptor)
            elif descriptor == self._wake_fd:
                woken = True
                # Before the reaping: a command that ends after it must wake this thread again.
                self._wake_read.recv(4096)
            elif descriptor == self._armed:
                self._poll.unregister(descriptor)
                self._armed, self.signalled = None, True
            else:
                self._poll.unregister(self._parent)
                self.messages.append(GONE)
        if woken:
            self._reap()
        return output == len(happened)

    def _reap(self) -> None:
        """Collect every child that has ended: shells, and adopted orphans."""
        over: list[_Running] = []
        has_children = self._wait_for_ended(over)
        orphans = self._adopted() if over and has_children else set()
        for running in over:
            self._shell_ended(running, self._owned(running, orphans) if self._subreaper else _group(running.pid))

    def _wait_for_ended(self, over: list[_Running]) -> bool:
        """Add the commands whose shells have ended to `over`. Returns whether this process still has children."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            running = self._running.get(pid)
            if running is None or running.over:
                continue
            running.ended_at = clock.now()
            code = os.waitstatus_to_exitcode(status)
            if code < 0:
                running.signal = -code
            else:
                running.exit_code = code
            running.cpu_time = clock.seconds(usage.ru_utime + usage.ru_stime)
            # A spawned child starts with its parent's peak. Below that, its own peak is unknown.
            if usage.ru_maxrss > self._peak:
                self._peak = _own_peak()
            if usage.ru_maxrss > self._peak:
                running.peak_memory = usage.ru_maxrss * _MEMORY_UNIT
            over.append(running)

    # --- starting ---

    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> _Running:
        argv = ["/bin/sh", "-c", "--", claim.command]  # `--`, because a command may begin with a dash
        ends: list[int] = []
        enclosure, stdin, script = None, self._devnull, ""
        try:
            shebang = shebang_of(claim.command)
            if shebang is not None:
                script = self._script(claim, shebang)
                argv = shebang.argv(script)
            if claim.cwd is not None:
                argv = [*_CHANGE_FOLDER, claim.cwd, *argv]
            for _ in (STDOUT, STDERR):
                ends += os.pipe()
            read_out, write_out, read_err, write_err = ends
            if limits:
                enclosure = ResourceLimits(limits)
                argv = _GATE + argv
                ends += os.pipe()
                stdin = ends[-2]
            pid = os.posix_spawn(
                argv[0],
                argv,
                {**self._environment_of(claim), **claim.env, **identity(claim, capture)},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, write_out, 1),
                    (os.POSIX_SPAWN_DUP2, write_err, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=self._signals,
            )
            if enclosure is not None:
                enclosure.enclose(pid)
                os.write(ends[-1], b"go\n")
        except BaseException:
            for end in ends:  # a shell that waits at the gate ends then, and is reaped as an orphan
                os.close(end)
            if enclosure is not None:
                enclosure.remove()
            if script:
                _unlink(script)
            raise
        for end in (write_out, write_err, *ends[4:]):
            os.close(end)
        running = _Running(pid, claim, capture, started_at)
        running.limits, running.enclosure, running.script = limits, enclosure, script
        running.pipes = {read_out: STDOUT, read_err: STDERR}
        for pipe in running.pipes:
            os.set_blocking(pipe, False)
        running.watch_at = time.monotonic() + WATCH_AFTER
        self._unwatched.append(running)
        return running

    def _script(self, claim: Claim, shebang: Shebang) -> str:
        fault = shebang.fault()
        if fault:
            raise CannotStart("spawn", fault)
        return self._scripts.write(f"{claim.seq}-{claim.attempt}", shebang.script)

    # --- reading ---

    def _read(self, running: _Running, pipe: int) -> bool:
        """Read once; close the pipe at its end. Returns whether there was output."""
        try:
            size = os.readv(pipe, [self._buffer])
        except BlockingIOError:
            return False
        if size:
            running.capture.write(running.pipes[pipe], bytes(memoryview(self._buffer)[:size]))
        else:
            self._close_pipe(running, pipe)
        return size > 0

    def _close_pipe(self, running: _Running, pipe: int) -> None:
        del running.pipes[pipe]
        if self._pipes.pop(pipe, None) is not None:
            self._poll.unregister(pipe)
        os.close(pipe)

    def _collect(self, running: _Running, now: float) -> Optional[float]:  # noqa: ARG002  it never has to wait
        for pipe in list(running.pipes):
            for _ in range(FINAL_READS):
                if not self._read(running, pipe):
                    break
            if pipe in running.pipes:
                self._close_pipe(running, pipe)
        if running.enclosure is not None:
            running.used_up = running.enclosure.reached()
            running.enclosure.remove()
        if running.script:
            _unlink(running.script)
        return None

    # --- finding ---

    def _tree(self, running: _Running) -> set[int]:
        tree = set(processes.descendants(running.pid))
        if not running.over:
            tree.add(running.pid)
        return tree | self._owned(running, self._adopted())

    def _left(self, running: _Running) -> set[int]:
        return self._owned(running, self._adopted()) if self._subreaper else _group(running.pid)

    def _owned(self, running: _Running, orphans: set[int]) -> set[int]:
        """Those adopted children that belong to a job, with their descendants.

        They have its token or its session. One that has neither (`env -i setsid …`) belongs to the job if no other job
        runs here.
        """
        found = running.enclosure.pids() - {running.pid} if running.enclosure is not None else set()
        for pid in orphans:
            if self._owns(running, pid):
                found |= {pid, *processes.descendants(pid)}
        return found

    def _owns(self, running: _Running, pid: int) -> bool:
        try:
            token = processes.token_of(pid)
            if token is not None:
                return token == running.claim.token
            session = os.getsid(pid)
        except OSError:
            return False
        return session == running.pid or (session not in self._running and len(self._running) == 1)

    def _adopted(self) -> set[int]:
        if self._children is not None:
            children = {int(pid) for pid in _read_all(self._children).split()}
        elif self._subreaper:
            import psutil

            children = {child.pid for child in psutil.Process().children()}
        else:
            return set()
        return children - self._running.keys()


def _own_peak() -> int:
    import resource  # Windows has none, and imports this module

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _unlink(file: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(file)


def _read_all(descriptor: int) -> bytes:
    """A whole file of /proc, which the kernel returns in pages."""
    parts = [os.pread(descriptor, READ_SIZE, 0)]
    while parts[-1]:
        parts.append(os.pread(descriptor, READ_SIZE, sum(map(len, parts))))
    return b"".join(parts)


def _group(pid: int) -> set[int]:
    """Without a subreaper: the shell's process group, as a negative pid for os.kill, if it still has processes."""
    try:
        os.killpg(pid, 0)
    except OSError:
        return set()
    return {-pid}
