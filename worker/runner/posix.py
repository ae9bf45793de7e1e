"""The commands of one worker where there is fork: whoever polls waits for pipes, signals, threads and the bell at once.

The supervisor speaks in signals (TERM and INT: stop, a second one: now; TSTP and USR1: quiet), its death is the end of
a pipe, and the end of a command is a SIGCHLD. Where the platform has subreapers this process is one: what escapes from
a command's tree becomes its child.
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
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Optional

from webapp.lib import clock
from webapp.lib.stream_runs import STDERR, STDOUT
from worker import processes
from worker.attempt import Claim
from worker.messages import GONE, NOW, QUIET, STOP
from worker.runner.limits import Limits, ResourceLimits
from worker.runner.output import Capture
from worker.runner.runner import READ_SIZE, CannotStart, Runner, Running

FINAL_READS = 64  # pipe-fulls that are still read when a job has ended: a stranger may hold the pipe and write on
# What has limits begins when it is told that they stand, and not at all if its worker dies before.
_GATE = ["/bin/sh", "-c", 'read -r word && [ "$word" = go ] && exec "$@" </dev/null', "sh"]
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024  # bytes in one of ru_maxrss


@dataclass
class _Running(Running):
    pipes: list[int] = field(default_factory=list)
    fence: Optional[ResourceLimits] = None


class PosixRunner(Runner[_Running]):
    """See the module. Takes the process's signal handlers and its wake-up descriptor."""

    selects = True

    def __init__(self, parent: int) -> None:
        """`parent` is the read end of the pipe whose end is the supervisor's death."""
        super().__init__()
        self._parent = parent
        # Signals and other threads wake who polls through this pair.
        self._wake_read, self._wake_write = socket.socketpair()
        self._wake_read.setblocking(False)
        self._wake_write.setblocking(False)
        # Not epoll: to register a pipe there and to take it out again costs more than to pass few of them at each wait.
        self._poll = select.poll()
        self._pipes: dict[int, tuple[_Running, int]] = {}  # whose each is, and which stream of it
        self._bell: Optional[int] = None
        for descriptor in (self._wake_read.fileno(), parent):
            self._poll.register(descriptor, select.POLLIN)
        self._asked_to_stop = False
        signal.set_wakeup_fd(self._wake_write.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTSTP, signal.SIGUSR1):
            signal.signal(number, self._signalled)
        signal.signal(signal.SIGCHLD, lambda *_: None)  # only to have it written to the pair
        # As the kernel takes it, so that it is not encoded anew for each command.
        self._base = _encoded(self._environment)
        self._buffer = bytearray(READ_SIZE)  # so that no read takes as much memory before it knows how much there is
        # Python ignores some, and whoever started it may have others: what is ignored stays so across exec. All of
        # them, for the child looks up each that it was not told of, which takes it longer than to set it.
        self._signals = sorted(signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP})
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
        signal.set_wakeup_fd(-1)

    def _signalled(self, number: int, _frame: object) -> None:
        if number in {signal.SIGTSTP, signal.SIGUSR1}:
            self.orders.append(QUIET)
        else:
            self.orders.append(NOW if self._asked_to_stop else STOP)
            self._asked_to_stop = True
        self.called()

    # --- waiting ---

    def arm(self, bell: Optional[int]) -> None:
        if bell is not None and self._bell is None:
            self._bell = bell
            self._poll.register(bell, select.POLLIN)

    def _wait(self, timeout: Optional[float]) -> None:
        until = math.inf if timeout is None else time.monotonic() + timeout
        while self._only_output(timeout) and until > time.monotonic():
            timeout = None if timeout is None else until - time.monotonic()

    def _only_output(self, timeout: Optional[float]) -> bool:
        """Wait once, and take in what happened. Whether that was output and no more, of which nobody need know yet."""
        woken, output = False, 0
        happened = self._poll.poll(None if timeout is None else max(0, math.ceil(timeout * 1000)))
        for descriptor, _ in happened:
            if descriptor in self._pipes:
                output += 1
                self._read(descriptor, *self._pipes[descriptor])
            elif descriptor == self._wake_read.fileno():
                woken = True
                # Before the reaping: a command that ends after it must ring again.
                with contextlib.suppress(BlockingIOError):
                    self._wake_read.recv(4096)
            elif descriptor == self._bell:
                self._poll.unregister(descriptor)
                self._bell, self.rang = None, True
            else:
                self._poll.unregister(self._parent)
                self.orders.append(GONE)
        if woken:
            self._reap()
        return 0 < output == len(happened)

    def _reap(self) -> None:
        """Collect every child that has ended: shells, and orphans that were given to this process."""
        over = list(self._ended_shells())
        orphans = self._adopted() if over else set()
        for running in over:
            self._shell_ended(running, self._owned(running, orphans) if self._subreaper else _group(running.pid))

    def _ended_shells(self) -> Iterator[_Running]:
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            running = self._running.get(pid)
            if running is None or running.over:
                continue
            running.ended_at = clock.now()
            if os.WIFSIGNALED(status):
                running.signal = os.WTERMSIG(status)
            else:
                running.exit_code = os.WEXITSTATUS(status)
            running.cpu_time = clock.seconds(usage.ru_utime + usage.ru_stime)
            # A spawned child begins with its parent's peak as its own: below that, nobody knows what it needed.
            if usage.ru_maxrss > self._own_peak():
                running.peak_memory = usage.ru_maxrss * _MEMORY_UNIT
            yield running

    @staticmethod
    def _own_peak() -> int:
        import resource  # not at the top: this module is read on Windows, too

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    # --- starting ---

    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> _Running:
        # posix_spawn cannot change the folder, so a second shell does: one exec more, for jobs with a cwd only.
        argv = ["/bin/sh", "-c", "--", claim.command]  # `--`, for a command may begin with a dash
        if claim.cwd is not None:
            argv = ["/bin/sh", "-c", 'cd -- "$0" && exec /bin/sh -c -- "$1"', claim.cwd, claim.command]
        ends: list[int] = []
        fence, stdin = None, self._devnull
        try:
            for _ in (STDOUT, STDERR):
                ends += os.pipe()
            read_out, write_out, read_err, write_err = ends
            if limits:
                fence = ResourceLimits(limits)
                argv = _GATE + argv
                ends += os.pipe()
                stdin = ends[-2]
            pid = os.posix_spawn(
                argv[0],
                argv,
                {**self._base, **_encoded(self._own_environment(claim))},
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, stdin, 0),
                    (os.POSIX_SPAWN_DUP2, write_out, 1),
                    (os.POSIX_SPAWN_DUP2, write_err, 2),
                ],
                setsid=True,
                setsigmask=[],
                setsigdef=self._signals,
            )
            if fence is not None:
                fence.enclose(pid)
                os.write(ends[-1], b"go\n")
        except OSError as error:
            for end in ends:
                os.close(end)
            if fence is not None:  # who waits at the gate goes home when the pipe is closed, and is reaped with orphans
                fence.remove()
            raise CannotStart("spawn", f"could not be started: {error.strerror}") from None
        for end in (write_out, write_err, *ends[4:]):
            os.close(end)
        os.set_blocking(read_out, False)
        os.set_blocking(read_err, False)
        running = _Running(pid, claim, capture, started_at, limits=limits, pipes=[read_out, read_err], fence=fence)
        for stream, pipe in zip((STDOUT, STDERR), running.pipes):
            self._pipes[pipe] = running, stream
            self._poll.register(pipe, select.POLLIN)
        return running

    # --- reading ---

    def _read(self, pipe: int, running: _Running, stream: int) -> None:
        with contextlib.suppress(BlockingIOError):
            if not self._take(pipe, running, stream):
                self._close_pipe(running, pipe)

    def _take(self, pipe: int, running: _Running, stream: int) -> bool:
        """Read once; False at the end of the pipe. Raises BlockingIOError where there is nothing just now."""
        size = os.readv(pipe, [self._buffer])
        if size:
            running.capture.write(stream, bytes(memoryview(self._buffer)[:size]))
        return size > 0

    def _close_pipe(self, running: _Running, pipe: int) -> None:
        self._poll.unregister(pipe)
        del self._pipes[pipe]
        os.close(pipe)
        running.pipes[running.pipes.index(pipe)] = -1

    def _collect(self, running: _Running, now: float) -> Optional[float]:  # noqa: ARG002  it never has to wait
        for stream, pipe in enumerate(running.pipes):
            for _ in range(FINAL_READS if pipe >= 0 else 0):
                try:
                    if not self._take(pipe, running, stream):
                        break
                except BlockingIOError:
                    break
            if pipe >= 0:
                self._close_pipe(running, pipe)
        if running.fence is not None:
            running.used_up = running.fence.met()
            running.fence.remove()
        return None

    # --- finding ---

    def _tree(self, running: _Running) -> set[int]:
        """The shell, what it started, and what escaped from it to this process."""
        tree = set(processes.descendants(running.pid))
        if not running.over:
            tree.add(running.pid)
        return tree | self._owned(running, self._adopted())

    def _left(self, running: _Running) -> set[int]:
        return self._owned(running, self._adopted()) if self._subreaper else _group(running.pid)

    def _owned(self, running: _Running, orphans: set[int]) -> set[int]:
        """Those of the adopted children of this process that belong to a job, with all below them.

        They carry its token or are of its session; one that shows neither (`env -i setsid …`) belongs to it if no
        other job runs here that could own it.
        """
        found = running.fence.pids() - {running.pid} if running.fence is not None else set()
        for pid in orphans:
            if self._owns(running, pid):
                found |= {pid, *processes.descendants(pid)}
        return found

    def _owns(self, running: _Running, pid: int) -> bool:
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
            children = {int(pid) for pid in _whole(self._children).split()}
        elif self._subreaper:
            import psutil

            children = {child.pid for child in psutil.Process().children()}
        else:
            return set()
        return children - self._running.keys()


def _encoded(environment: dict[str, str]) -> dict[bytes, bytes]:
    return {os.fsencode(name): os.fsencode(value) for name, value in environment.items()}


def _whole(descriptor: int) -> bytes:
    """All that a file holds, from its beginning."""
    parts = [os.pread(descriptor, READ_SIZE, 0)]
    while parts[-1]:  # as the kernel gives it, a page at a time
        parts.append(os.pread(descriptor, READ_SIZE, sum(map(len, parts))))
    return b"".join(parts)


def _group(pid: int) -> set[int]:
    """Without a subreaper: is anything left in the shell's process group? Then the group, as one."""
    try:
        os.killpg(pid, 0)
    except OSError:
        return set()
    return {-pid}  # os.kill of a negative pid reaches the group
