"""A child process with its own session: how it is stopped, and that it ends with its parent."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any, Callable

import pytest

from webapp.lib.system import process_group

LOOP = "import time\nwhile True: time.sleep(0.05)"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Let children run this text instead of a command; returns the file that they create at their start."""

    def write(text: str) -> Path:
        entry, ready = tmp_path / "entry.py", tmp_path / "ready"
        entry.write_text(f"import signal, sys\n{text}\nopen({str(ready)!r}, 'w').write(' '.join(sys.argv[1:]))\n{LOOP}")
        monkeypatch.setattr(process_group, "ENTRY", entry)
        return ready

    return write


def test_a_child_has_its_own_session_and_receives_a_stop_request(
    script: Callable[[str], Path], eventually: Callable[..., Any]
) -> None:
    ready = script("")
    child = process_group.start(["work"])
    eventually(lambda: ready.exists() and ready.read_text() == f"work --with-parent {os.getpid()}")
    assert os.getsid(child.pid) == child.pid
    process_group.stop(child, within=20)
    assert child.returncode == -signal.SIGTERM
    process_group.stop(child, within=20)  # it has ended: nothing is left to do


def test_a_child_that_ignores_the_request_is_killed(
    script: Callable[[str], Path], eventually: Callable[..., Any]
) -> None:
    ready = script("signal.signal(signal.SIGTERM, signal.SIG_IGN)")
    child = process_group.start(["work"])
    eventually(ready.exists)
    process_group.stop(child, within=0.2)
    assert child.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal is Linux's")
def test_a_process_whose_parent_has_gone_exits() -> None:
    with pytest.raises(SystemExit):
        process_group.end_with(os.getppid() + 1_000_000)
