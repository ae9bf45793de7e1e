"""Runs the commands of one worker where there is no fork (Windows): a thread for each pipe and each command's end.

The threads report to the main thread through a queue, the only thing that it waits for. The supervisor sends messages
through stdin; its end means that the supervisor is gone. A command's processes are found with psutil, by their parents
and by the token in their environment. Tests run this on POSIX too.

Windows has no usage record of an ended process, so CPU time and memory are sampled while the command runs. They stay
unknown for a command that ends before the first sample.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping
from typing import IO, Any, Optional

import psutil

from webapp.lib import clock
from webapp.lib.stream_runs import STDERR, STDOUT
from worker import messages, processes
from worker.attempt import Claim
from worker.runner.base import READ_SIZE, Runner, Running, identity
from worker.runner.limits import Limits
from worker.runner.output import Capture

FIRST_SAMPLE, LONGEST_SAMPLE = 0.1, 5.0  # seconds between samples of a command's usage: they grow
_WINDOWS: bool = sys.platform == "win32"
PIPES_WAIT = 2.0  # seconds to wait for the pipes of an ended command, because another process may hold them
# A group of its own keeps Ctrl-C away from a command, a console of its own keeps Ctrl-Break away.
_FLAGS: int = getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0) | getattr(subprocess, "CREATE_NO_WINDOW", 0)


class _Running(Running):
    pipes_open = 2
    give_up_pipes_at: Optional[float] = None
    shell: Any = None  # held, because Windows does not reuse the pid while its handle is open
    found_left: Optional[set[int]] = None  # set by the waiting thread when the shell has ended

    def __init__(self, pid: int, claim: Claim, capture: Capture, started_at: int) -> None:
        super().__init__(pid, claim, capture, started_at)
        self.lock = threading.Lock()


class ThreadRunner(Runner[_Running]):
    """See the module."""

    def __init__(self, parent: int, environment: dict[str, str], of_system: Mapping[str, str]) -> None:
        """`parent`: the descriptor of the supervisor's messages."""
        super().__init__(environment, of_system)
        # Ended shells; None: wake up. Not a SimpleQueue: in Python 3.9 a get() with a short timeout may wait for ever.
        self._happened: queue.Queue[Optional[_Running]] = queue.Queue()
        messages.listen(parent, self._receive)

    def wake(self) -> None:
        self._happened.put(None)

    def _receive(self, message: str) -> None:
        self.messages.append(message)
        self.called()
        self.wake()

    # --- waiting ---

    def _wait(self, timeout: float) -> None:
        with contextlib.suppress(queue.Empty):
            running = self._happened.get(timeout=timeout)
            while True:
                if running is not None:
                    self._shell_ended(running, running.found_left or set())
                running = self._happened.get_nowait()

    # --- starting ---

    def _spawn(self, claim: Claim, capture: Capture, started_at: int, limits: Limits) -> _Running:  # noqa: ARG002  Windows has no limits
        own = {name.upper(): value for name, value in claim.env.items()} if _WINDOWS else claim.env  # 'Path' is 'PATH'
        shell = subprocess.Popen(  # noqa: S602  a job is a command of the platform's shell
            claim.command,
            shell=True,
            cwd=claim.cwd,
            env={**self._environment_of(claim), **own, **identity(claim, capture)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # for POSIX, as the flags are for Windows
            creationflags=_FLAGS,
        )
        running = _Running(shell.pid, claim, capture, started_at)
        running.shell = shell
        try:
            for stream, pipe in ((STDOUT, shell.stdout), (STDERR, shell.stderr)):
                _in_thread(f"read {claim.id}", self._read, running, stream, pipe)
            _in_thread(f"wait for {claim.id}", self._await, running, shell)
        except RuntimeError:  # no more threads
            processes.kill([shell.pid, *self._tree(running)])
            shell.wait()
            raise
        return running

    # --- threads of a command ---

    def _read(self, running: _Running, stream: int, pipe: IO[bytes]) -> None:
        with pipe:
            while data := os.read(pipe.fileno(), READ_SIZE):
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
            running.exit_code = code - 2**32 if code >= 2**31 else code  # as %ERRORLEVEL% shows it on Windows
        running.cpu_time, running.peak_memory = usage.cpu_time, usage.peak_memory
        # In this thread, because it reads all processes of the machine, which may take a while.
        running.found_left = self._left(running)
        self._happened.put(running)

    # --- reading and finding ---

    def _collect(self, running: _Running, now: float) -> Optional[float]:
        if running.pipes_open == 0:
            return None
        if running.give_up_pipes_at is None:
            running.give_up_pipes_at = now + PIPES_WAIT
        # A process that still holds them has no token, so it is not this job's: its further output is not kept.
        return running.give_up_pipes_at if now < running.give_up_pipes_at else None

    def _tree(self, running: _Running) -> set[int]:
        tree = {*processes.descendants(running.pid), *processes.with_tokens([running.claim.token])}
        if not running.over:
            tree.add(running.pid)
        return tree

    def _left(self, running: _Running) -> set[int]:
        with_token = processes.with_tokens([running.claim.token])
        return {pid for pid in with_token if pid != running.pid and processes.started(pid) is not None}


class _Usage:
    """The sampled usage of a process tree: CPU time in microseconds, memory in bytes."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._cpu: dict[Any, float] = {}  # seconds by process; for an ended process the last sample
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
