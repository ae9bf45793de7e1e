"""A few long-running child processes side by side: starts them, replaces what dies, and drains all at a signal.

`up` runs the console and the worker supervisor in this way, `demo` the supervisor alone. Worker processes are not
children of this kind: the supervisor in `worker/` forks those.

Each child is a fresh process of this program (so nothing that is open here crosses into it) in a session of its own
(so that a terminal's Ctrl-C reaches the parent alone, which then lets them finish).
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Callable, Optional

from webapp.lib.sd_notify import NOBODY, Manager, Relay

if TYPE_CHECKING:
    from collections.abc import Iterator

WINDOWS: bool = sys.platform == "win32"
LINUX: bool = sys.platform == "linux"
HEALTHY = 10.0  # seconds that a child must have lived for its end to count as the first
MOST_DEATHS = 5  # in a row, none of them healthy: then starting it again helps nobody
LONGEST_PAUSE = 30.0
LAST_GRACE = 10.0  # seconds between 'now' and the kill
ENTRY = Path(__file__).resolve().parent / "commands" / "__main__.py"


@dataclass
class Child:
    """A command of this program that is to run for as long as its parent does.

    Attributes:
        name: what people call it, in messages.
        arguments: the command and its options.
        inherited: descriptors of sockets that it takes over.
        environment: its variables; None: those of this process.
        output: where its stdout and stderr go; None: where those of this process go.
    """

    name: str
    arguments: Sequence[str]
    inherited: Sequence[int] = ()
    environment: Optional[Mapping[str, str]] = None
    output: Optional[IO[bytes]] = None

    process: Optional[subprocess.Popen[bytes]] = field(default=None, init=False)
    wanted: bool = field(default=True, init=False)
    deaths: int = field(default=0, init=False)
    started_at: float = field(default=0.0, init=False)
    due: float = field(default=0.0, init=False)

    def start(self, more: Optional[Mapping[str, str]] = None) -> None:
        """`more`: variables that it has beside those of its environment."""
        options: dict[str, Any] = {"start_new_session": True, "pass_fds": tuple(self.inherited)}
        if WINDOWS:
            options = {"creationflags": 0x200, "close_fds": not self.inherited}  # CREATE_NEW_PROCESS_GROUP
            for handle in self.inherited:
                os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined,unused-ignore]
        self.started_at = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, str(ENTRY), *self.arguments, "--with-parent", str(os.getpid())],
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.output,
            env={**(os.environ if self.environment is None else self.environment), **(more or {})},
            **options,
        )

    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def signal(self) -> None:
        """Ask it to stop: the first time when its work is done, the second time now."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.CTRL_BREAK_EVENT if WINDOWS else signal.SIGTERM)  # type: ignore[attr-defined,unused-ignore]

    def stop(self, within: float) -> None:
        """Ask it to stop and wait; kill it after so many seconds."""
        self.signal()
        if self.process is not None:
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(within)
        self.kill()

    def kill(self) -> None:
        """End it with all of its session: it had its chance."""
        if self.process is None or self.process.poll() is not None:
            return
        if WINDOWS:
            self.process.kill()
        else:
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Broken(Exception):
    """A child cannot be kept running; the message says which, and how it ended."""


def run(
    children: Sequence[Child],
    say: Callable[[str], None],
    draining: Callable[[], None],
    started: Callable[[], None] = lambda: None,
    manager: Manager = NOBODY,
) -> None:
    """Keep the children running until SIGINT or SIGTERM, then drain them; a second signal ends them now.

    A child that ends with 0 was told to by somebody else and is left in peace. `started` is called once a signal would
    be heeded, `draining` at the first one. `manager` hears what is true of all children. Raises Broken when a child
    dies as soon as it is started, again and again; the others are drained first.
    """
    relay = Relay(manager, [child.name for child in children])
    with closing(relay), _signals(relay.descriptors) as (received, wait):
        for child in children:
            child.start(relay.begin(child.name))
        started()
        broken: Optional[str] = None
        while not received and broken is None:
            wait(min(_next_due(children), relay.due_in()))
            for child in children:
                broken = broken or _tend(child, relay, say)
            if not any(child.wanted for child in children):
                return
            _tell(children, relay)
        relay.stopping()
        draining()
        _drain(children, relay, received, wait, say)
    if broken is not None:
        raise Broken(broken)


def _next_due(children: Sequence[Child]) -> float:
    waits = [child.due - time.monotonic() for child in children if child.wanted and not child.is_running()]
    return max(0.0, min([1.0, *waits]))


def _tell(children: Sequence[Child], relay: Relay) -> None:
    wanted = [child.name for child in children if child.wanted]
    relay.look(wanted, [child.name for child in children if child.is_running()])


def _tend(child: Child, relay: Relay, say: Callable[[str], None]) -> Optional[str]:
    """Start a child that is due, look after one that ended. Returns why this cannot go on, if so."""
    if not child.wanted or child.is_running():
        return None
    if child.due:
        if child.due <= time.monotonic():
            child.due = 0.0
            child.start(relay.begin(child.name))
        return None
    code = child.process.returncode if child.process is not None else 0
    if code == 0:
        child.wanted = False
        say(f"{child.name}: stopped from elsewhere; not started again.")
        return None
    child.deaths = 1 if time.monotonic() - child.started_at >= HEALTHY else child.deaths + 1
    if child.deaths >= MOST_DEATHS:
        return f"{child.name} cannot be kept running: {_how(code)}, {child.deaths} times in a row. See what it said."
    pause = min(LONGEST_PAUSE, 2.0 ** (child.deaths - 1))
    child.due = time.monotonic() + pause
    say(f"{child.name}: died ({_how(code)}); starts again in {pause:.0f} s.")
    return None


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _drain(
    children: Sequence[Child],
    relay: Relay,
    received: list[int],
    wait: Callable[[float], None],
    say: Callable[[str], None],
) -> None:
    """Ask all to stop, at the next signal to stop now, and kill what is left LAST_GRACE after that."""
    asked = len(received)
    for child in children:
        child.wanted = False
        child.signal()
    deadline: Optional[float] = None
    while any(child.is_running() for child in children):
        wait(0.5)
        _tell(children, relay)
        if len(received) > asked and deadline is None:
            say("stopping now.")
            deadline = time.monotonic() + LAST_GRACE
            for child in children:
                child.signal()
        if deadline is not None and time.monotonic() > deadline:
            for child in children:
                child.kill()


@contextmanager
def _signals(watched: Sequence[int]) -> Iterator[tuple[list[int], Callable[[float], None]]]:
    """The stop signals that came so far, and a wait that ends early when one comes, a child ends, or a child speaks."""
    received: list[int] = []
    names = ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    # Under nohup a hang-up is ignored, and stays so. A script's `up &` ignores INT, but whoever sends one means it.
    numbers = [number for number in numbers if number == signal.SIGINT or signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, lambda number, _: received.append(number)) for number in numbers}
    if WINDOWS:  # whose select takes sockets only
        try:
            yield received, lambda longest: time.sleep(min(longest, 0.2))
        finally:
            _restore(before)
        return
    before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda *_: None)
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)
    old_wakeup = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)

    def wait(longest: float) -> None:
        if read_end in select.select([read_end, *watched], [], [], longest)[0]:
            os.read(read_end, 4096)

    try:
        yield received, wait
    finally:
        signal.set_wakeup_fd(old_wakeup)
        _restore(before)
        os.close(read_end)
        os.close(write_end)


def _restore(before: Mapping[int, Any]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)


# --- in the child ----------------------------------------------------------------------------------------------------


def end_with(parent: int) -> None:
    """Have this process told to stop when its parent dies, even by a kill that lets the parent say nothing.

    Call it in the main thread, early. On Linux the kernel does it; elsewhere a thread looks once a second, which is
    no hindrance to the forks that follow: it holds nothing.
    """
    if LINUX:
        import ctypes

        pr_set_pdeathsig = 1  # <linux/prctl.h>
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM, 0, 0, 0)
        if os.getppid() != parent:  # it died before this was set
            raise SystemExit(0)
        return

    def watch() -> None:
        import psutil

        # On Windows a venv's python.exe is a launcher: the parent that this process sees there is another one.
        while (WINDOWS or os.getppid() == parent) and psutil.pid_exists(parent):
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
