"""Runs one command of this program as a child process with a session of its own, and ends it.

A fresh process inherits nothing that is open here. Its own session keeps a terminal's Ctrl-C away from it: the parent
gets the signal and decides when the child stops.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, Optional

WINDOWS: bool = sys.platform == "win32"
LINUX: bool = sys.platform == "linux"
ENTRY = Path(__file__).resolve().parents[2] / "commands" / "__main__.py"


def start(
    arguments: Sequence[str],
    *,
    inherited: Sequence[int] = (),
    environment: Optional[Mapping[str, str]] = None,
    output: Optional[IO[bytes]] = None,
) -> subprocess.Popen[bytes]:
    """Start a command that has the option --with-parent.

    `inherited`: descriptors that it takes over. `environment` and `output` are this process's unless given.
    """
    options: dict[str, Any] = {"start_new_session": True, "pass_fds": tuple(inherited)}
    if WINDOWS:
        options = {"creationflags": 0x200, "close_fds": not inherited}  # CREATE_NEW_PROCESS_GROUP
        for handle in inherited:
            os.set_handle_inheritable(handle, True)  # type: ignore[attr-defined,unused-ignore]
    return subprocess.Popen(
        [sys.executable, str(ENTRY), *arguments, "--with-parent", str(os.getpid())],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        **options,
    )


def ask_to_stop(pid: int) -> None:
    """Ask a child to stop: the first time when its work is done, the second time at once."""
    with suppress(OSError):  # it has ended
        os.kill(pid, signal.CTRL_BREAK_EVENT if WINDOWS else signal.SIGTERM)  # type: ignore[attr-defined,unused-ignore]


def stop(process: subprocess.Popen[bytes], within: float) -> None:
    """Ask a child to stop and wait for its end. After `within` seconds, kill its whole session."""
    if process.poll() is None:
        ask_to_stop(process.pid)
    try:
        process.wait(within)
    except subprocess.TimeoutExpired:
        kill(process.pid)
        process.wait()


def kill(pid: int) -> None:
    """Kill a child with all processes of its session; on Windows, the child alone."""
    with suppress(OSError):
        if hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
        else:
            os.kill(pid, signal.SIGTERM)  # on Windows this is TerminateProcess, which no process can refuse


# --- in the child ---


def end_with(parent: int) -> None:
    """Stop this process when its parent dies, also when the parent is killed and can send no signal.

    Call it early, in the main thread. On Linux the kernel sends the signal. Elsewhere a thread checks once a second; it
    holds no lock or connection, so later forks are safe.
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
