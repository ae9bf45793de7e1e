"""One environment for several Pythons, commands and users: it is neither replaced in use nor lost."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.bootstrap.conftest import Door
from tests.deadline import DEADLINE
from tests.plan import find_python
from tests.users import NO_MANAGER, as_user, folder_of, needs_root, uid_of
from webapp.bootstrap.install import install_alone
from webapp.bootstrap.venv import STAMP, runs

TAG = sys.implementation.cache_tag


def change_stamp(door: Door, made_for: str) -> None:
    """Pretend that the venv was made for another Python."""
    stamp = door.venv / STAMP
    stamp.write_bytes(made_for.encode() + b"\n" + stamp.read_bytes().partition(b"\n")[2])


@contextmanager
def staying(door: Door) -> Iterator[dict[str, Any]]:
    """The report of a command that runs until the block ends."""
    running = door.popen("stay")
    yield json.loads(running.stdout.readline())
    running.communicate(timeout=DEADLINE)


def test_an_environment_of_another_python_is_used_while_that_python_works(used_door: Door) -> None:
    change_stamp(used_door, f"{TAG} /usr/bin/another-python")
    told = used_door.start("status")
    assert (told.returncode, told.stderr) == (0, "")
    assert json.loads(told.stdout)["prefix"] == str(used_door.venv)


def test_a_python_that_does_not_start_or_changed_its_version_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "python").write_text("no program")
    (tmp_path / "python").chmod(0o755)
    assert runs(sys.executable, TAG)
    assert not runs(sys.executable, "cpython-00")
    assert not runs(str(tmp_path / "python"), TAG)
    assert not runs(str(tmp_path / "missing"), TAG)


@pytest.mark.full
def test_an_environment_whose_python_changed_its_version_is_recreated(used_door: Door) -> None:
    change_stamp(used_door, "cpython-00 /usr/bin/python0.0")
    assert "replacing" in used_door.start("status").stderr
    assert used_door.start("status").stderr == ""


@pytest.mark.full
def test_two_alternating_pythons_install_once(door: Door) -> None:
    other = next((python for version in ("3.12", "3.10", "3.9") if (python := find_python(version))), None)
    if other is None:
        pytest.skip("there is no other Python here")
    assert door.start("status").returncode == 0
    for python in (other, sys.executable, other):
        told = door.start("status", python=python)
        assert (told.returncode, told.stderr) == (0, "")
        assert json.loads(told.stdout)["prefix"] == str(door.venv)


@pytest.mark.full
def test_an_environment_in_use_is_not_replaced_but_gets_a_second_one_beside_it(used_door: Door) -> None:
    beside = used_door.checkout / ".venv.next"
    inode = used_door.venv.stat().st_ino
    with staying(used_door):
        used_door.lock(tiny="2.0")
        first = used_door.start("status")
        assert f"first use: making {beside}" in first.stderr
        again = used_door.start("status")
        assert again.stderr == ""
        for told in (json.loads(first.stdout), json.loads(again.stdout)):
            assert (told["version"], told["prefix"]) == ("2.0", str(beside))
        assert used_door.venv.stat().st_ino == inode


@pytest.mark.full
def test_the_second_environment_is_removed_when_the_first_is_replaced(used_door: Door) -> None:
    with staying(used_door):
        used_door.lock(tiny="2.0")
        assert used_door.told()["prefix"].endswith(".venv.next")
    assert f"replacing {used_door.venv}" in used_door.start("status").stderr
    assert used_door.told()["version"] == "2.0"
    assert used_door.left_overs() == [".venv.next.lock"]


@contextmanager
def folder_and_owner(tmp_path: Path) -> Iterator[tuple[Path, int]]:
    """A folder of another user if this is root, else one of this user."""
    if os.geteuid() != 0:
        yield tmp_path, os.geteuid()
        return
    with folder_of(NO_MANAGER) as folder:
        yield folder, uid_of(NO_MANAGER)


@pytest.mark.full
def test_an_environment_belongs_to_the_owner_of_its_folder_and_others_cannot_write(door: Door, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        with folder_and_owner(tmp_path) as (folder, owner):
            assert door.start("status", QUEUECTL_VENV=str(folder / "venv")).returncode == 0
            made = [folder / "venv.lock", folder / "venv", *(folder / "venv").rglob("*")]
            assert {path.lstat().st_uid for path in made} == {owner}
            assert [str(path) for path in made if not path.is_symlink() and path.stat().st_mode & 0o022] == []
            assert (folder / "venv" / STAMP).stat().st_mode & 0o777 == 0o644
    finally:
        os.umask(umask)


@needs_root
def test_a_folder_of_another_user_is_reported_with_its_owner(tmp_path: Path) -> None:
    with folder_of("daemon") as folder:

        def install() -> str:
            install_alone(str(folder / "venv"), str(tmp_path), [])
            return "installed"

        told = as_user(NO_MANAGER, install)
    assert f"BootstrapError: cannot make the virtual environment {folder}/venv: {folder} belongs to daemon" in told
