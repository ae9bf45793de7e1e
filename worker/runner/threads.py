"""The commands of one worker where there is no fork (Windows): a thread for each pipe and for each command's end.

They tell the main thread through a queue, which is all that it waits for; a timeout on that queue keeps the limits.
The supervisor speaks in words through this process's stdin, whose end is its death. What a command starts is found by
parentage and by the token in its environment, through psutil. Runs on POSIX, too, where the tests have it.

What it costs: there is no account of an ended process to be had, so CPU time and memory are looked at now and then
while the command runs, and stay unknown for one that ends before the first look.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import threading
from dataclasses import dataclass, field
from typing import IO, Any, Optional

import psutil

from webapp.lib import clock
from webapp.lib.stream_runs import STDERR, STDOUT
from worker import messages, processes
from worker.attempt import Claim
from worker.runner.limits import Limits
from worker.runner.output import Capture
from worker.runner.runner import READ_SIZE, CannotStart, Runner, Running

FIRST_SAMPLE, LONGEST_SAMPLE = 0.1, 5.0  # seconds between looks at a command's use of the machine: they grow
PIPES_PATIENCE = 2.0  # seconds that the pipes of an ended command may stay open: a stranger may hold one
# A group of its own takes a command out of the reach of Ctrl-C, a console of its own out of Ctrl-Break's.
_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)


@dataclass
class _Running(Running):
    pipes_open: int = 2
    give_up_pipes_at: Optional[float] = None
    lock: threading.Lock = field(default_factory=threading.Lock)
    shell: Any = None  # held, because on Windows nobody gets this pid anew while its handle is open
    found_left: Optional[set[int]] = None  # set by the waiting thread when the shell has ended and it looked behind


class ThreadRunner(Runner[_Running]):
    """See the module."""

    def __init__(self, parent: int) -> None:
        """`parent` is the descriptor on which the supervisor's words come."""
        super().__init__()
        self._happened: queue.SimpleQueue[Optional[_Running]] = queue.SimpleQueue()  # whose shell ended, None: look
        messages.listen(parent, self._hear)

    def wake(self) -> None:
        self._happened.put(None)

    def close(self) -> None:
        """The listening thread ends with the process."""

    def _hear(self, word: str) -> None:
        self.orders.append(word)
        self.called()
        self.wake()

    # --- waiting ---

    def _wait(self, timeout: Optional[float]) -> None:
        with contextlib.suppress(queue.Empty):
            self._take_in(self._happened.get(timeout=timeout))
            while True:
                self._take_in(self._happened.get_nowait())

    def _take_in(self, running: Optional[_Running]) -> None:
        if running is not None:
            self._shell_ended(running, running.found_left or set())

    # --- starting ---

    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> _Running:  # noqa: ARG002  nothing here sets any
        try:
            shell = subprocess.Popen(  # noqa: S602  a job is a command of the platform's shell
                claim.command,
                shell=True,
                cwd=claim.cwd,
                env={**self._environment, **self._own_environment(claim)},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,  # of no effect on Windows, as the flags are elsewhere
                creationflags=_FLAGS,
            )
        except OSError as error:
            raise CannotStart("spawn", f"could not be started: {error.strerror}") from None
        running = _Running(shell.pid, claim, capture, started_at, shell=shell)
        for stream, pipe in ((STDOUT, shell.stdout), (STDERR, shell.stderr)):
            _in_thread(f"read {claim.id}", self._read, running, stream, pipe)
        _in_thread(f"wait for {claim.id}", self._await, running, shell)
        return running

    # --- threads of a command ---

    def _read(self, running: _Running, stream: int, pipe: IO[bytes]) -> None:
        with pipe:
            while True:
                data = os.read(pipe.fileno(), READ_SIZE)
                if not data:
                    break
                running.capture.write(stream, data)
        with running.lock:
            running.pipes_open -= 1
        self.wake()

    def _await(self, running: _Running, shell: subprocess.Popen[bytes]) -> None:
        usage = _Usage(running.pid)
        pause = FIRST_SAMPLE
        while True:
            try:
                code = shell.wait(pause)
                break
            except subprocess.TimeoutExpired:
                usage.sample()
                pause = min(LONGEST_SAMPLE, pause * 2)
        running.ended_at = clock.now()
        if code < 0:
            running.signal = -code
        else:
            running.exit_code = code - 2**32 if code >= 2**31 else code  # as %ERRORLEVEL% shows those of Windows
        running.cpu_time, running.peak_memory = usage.cpu_time, usage.peak_memory
        # All processes of the machine are looked at, which may take a while: here, where nobody waits for it.
        running.found_left = self._left(running)
        self._happened.put(running)

    # --- reading and finding ---

    def _collect(self, running: _Running, now: float) -> Optional[float]:
        if running.pipes_open == 0:
            return None
        if running.give_up_pipes_at is None:
            running.give_up_pipes_at = now + PIPES_PATIENCE
        # Whoever holds them still shows no token: not this job's, and what it writes from now on is not kept.
        return running.give_up_pipes_at if now < running.give_up_pipes_at else None

    def _tree(self, running: _Running) -> set[int]:
        tree = {*processes.descendants(running.pid), *processes.with_tokens([running.claim.token])}
        if not running.over:
            tree.add(running.pid)
        return tree

    def _left(self, running: _Running) -> set[int]:
        carry_it = processes.with_tokens([running.claim.token])
        return {pid for pid in carry_it if pid != running.pid and processes.started(pid) is not None}


class _Usage:
    """What a tree of processes has used, as far as it was seen: CPU time in microseconds, memory in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu: dict[Any, float] = {}  # by process; seconds, of those that have ended as last seen
        self.peak_memory: Optional[int] = None

    @property
    def cpu_time(self) -> Optional[int]:
        return clock.seconds(sum(self._cpu.values())) if self._cpu else None

    def sample(self) -> None:
        with contextlib.suppress(psutil.Error, OSError):
            shell = psutil.Process(self._pid)
            for process in (shell, *shell.children(recursive=True)):
                with contextlib.suppress(psutil.Error, OSError):
                    times, memory = process.cpu_times(), process.memory_info()
                    self._cpu[process] = times.user + times.system
                    self.peak_memory = max(self.peak_memory or 0, getattr(memory, "peak_wset", memory.rss))


def _in_thread(name: str, work: Any, *arguments: Any) -> None:
    threading.Thread(target=work, args=arguments, name=name, daemon=True).start()
