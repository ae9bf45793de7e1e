"""Child processes side by side: what is started again, what is not, and when it is given up."""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Callable

import pytest

from webapp.lib import process_group

LOOP = "import time\nwhile True: time.sleep(0.05)"


class Scene:
    """Children that run a script of the test's in the place of the product, and what is said of them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder
        self.said: list[str] = []
        self.drained = 0
        self._monkeypatch = monkeypatch

    def child(self, script: str) -> process_group.Child:
        entry = self.folder / "entry.py"
        entry.write_text(f"import os, signal, sys\nopen({str(self.folder / 'starts')!r}, 'a').write('x')\n{script}\n")
        self._monkeypatch.setattr(process_group, "ENTRY", entry)
        return process_group.Child("the child", ["work"])

    @property
    def starts(self) -> int:
        path = self.folder / "starts"
        return len(path.read_text()) if path.exists() else 0

    def run(self, *these: process_group.Child) -> None:
        def draining() -> None:
            self.drained += 1

        process_group.run(these, self.said.append, draining)

    def signal_when(self, ready: Callable[[], bool], eventually: Callable[..., Any], *numbers: int) -> threading.Thread:
        def send() -> None:
            eventually(ready)
            for number in numbers:
                os.kill(os.getpid(), number)

        thread = threading.Thread(target=send)
        thread.start()
        return thread


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    return Scene(tmp_path, monkeypatch)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_drains_the_children(scene: Scene, eventually: Callable[..., Any], number: int) -> None:
    child = scene.child(LOOP)
    handlers = {one: signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD)}
    thread = scene.signal_when(lambda: scene.starts == 1, eventually, number)
    scene.run(child)
    thread.join()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGTERM
    assert (scene.starts, scene.drained) == (1, 1)
    assert {one: signal.getsignal(one) for one in handlers} == handlers


def test_a_child_of_a_shells_background_heeds_sigint_and_one_of_nohup_ignores_a_hang_up(
    scene: Scene, eventually: Callable[..., Any]
) -> None:
    before = {one: signal.signal(one, signal.SIG_IGN) for one in (signal.SIGINT, signal.SIGHUP)}
    try:
        child = scene.child(LOOP)
        thread = scene.signal_when(lambda: scene.starts == 1, eventually, signal.SIGHUP, signal.SIGINT)
        scene.run(child)
        thread.join()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert (child.process and child.process.returncode, scene.drained) == (-signal.SIGTERM, 1)
    assert scene.said == []  # the hang-up was not the first of two signals


def test_a_child_that_ended_with_0_is_left_in_peace_and_all_ended_is_the_end(scene: Scene) -> None:
    scene.run(scene.child("sys.exit(0)"))
    assert (scene.starts, scene.drained) == (1, 0)
    assert scene.said == ["the child: stopped from elsewhere; not started again."]


def test_a_child_that_dies_at_once_again_and_again_is_given_up(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process_group, "LONGEST_PAUSE", 0.05)
    with pytest.raises(process_group.Broken, match="the child cannot be kept running: exit code 3, 5 times in a row"):
        scene.run(scene.child("sys.exit(3)"))
    assert (scene.starts, scene.drained) == (process_group.MOST_DEATHS, 1)


def test_a_child_that_lived_well_may_die_any_number_of_times(
    scene: Scene, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "LONGEST_PAUSE", 0.0)
    monkeypatch.setattr(process_group, "HEALTHY", 0.0)
    thread = scene.signal_when(lambda: scene.starts > 2 * process_group.MOST_DEATHS, eventually, signal.SIGTERM)
    scene.run(scene.child("os.kill(os.getpid(), 9)"))
    thread.join()
    assert scene.starts > 2 * process_group.MOST_DEATHS


def test_a_child_that_does_not_heed_the_second_signal_is_killed(
    scene: Scene, eventually: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_group, "LAST_GRACE", 0.2)
    ready = scene.folder / "ready"
    child = scene.child(f"signal.signal(signal.SIGTERM, signal.SIG_IGN)\nopen({str(ready)!r}, 'w')\n{LOOP}")
    first = scene.signal_when(ready.exists, eventually, signal.SIGTERM)
    second = scene.signal_when(lambda: scene.drained == 1, eventually, signal.SIGTERM)
    scene.run(child)
    first.join()
    second.join()
    assert child.process is not None
    assert child.process.returncode == -signal.SIGKILL


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own signal is Linux's")
def test_a_process_whose_parent_is_gone_already_ends(scene: Scene) -> None:
    with pytest.raises(SystemExit):
        process_group.end_with(os.getppid() + 1_000_000)
