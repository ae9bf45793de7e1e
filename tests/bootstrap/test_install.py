"""Installs of the front door: kills, wrong hashes, an unreachable index, concurrent starts, changed locks."""

from __future__ import annotations

import json
import os
import signal
import sys
import zipfile
from pathlib import Path

import pytest

from tests.bootstrap.conftest import BASE_PYTHON, Door, SlowIndex
from tests.deadline import DEADLINE


@pytest.mark.full
def test_settings_of_other_installers_do_not_affect_an_install(door: Door, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("tiny==9\n")
    (tmp_path / "fake").mkdir()
    (tmp_path / "fake" / "pip.py").write_text("raise SystemExit('the wrong pip')\n")
    (tmp_path / "pip.conf").write_text(
        f"[global]\nno-index = true\nfind-links = {door.wheels}\n"
        f"[install]\nuser = true\nno-deps = false\ntarget = {tmp_path}/conf-target\nno-binary = :all:\n"
    )
    del door.environment["PIP_FIND_LINKS"], door.environment["PIP_NO_INDEX"]  # pip.conf says where the wheels are
    told = door.told(
        PIP_CONFIG_FILE=str(tmp_path / "pip.conf"),
        PIP_USER="1",
        PIP_TARGET=str(tmp_path / "target"),
        PIP_PREFIX=str(tmp_path / "prefix"),
        PIP_ROOT=str(tmp_path / "root"),
        PIP_REQUIRE_VIRTUALENV="1",
        PIP_DRY_RUN="1",
        PIP_NO_DEPS="0",
        PIP_NO_BINARY=":all:",
        PIP_CONSTRAINT=str(tmp_path / "constraints.txt"),
        PIP_PYTHON="/nonexistent/python",
        PIP_QUIET="3",
        PIP_LOG="/nonexistent/pip.log",
        PYTHONPATH=str(tmp_path / "fake"),
        PYTHONHOME=sys.base_prefix,
        PYTHONUSERBASE=str(tmp_path / "userbase"),
        VIRTUAL_ENV="/nonexistent/venv",
    )
    assert told["tiny"].startswith(str(door.venv))
    strays = {"target", "prefix", "root", "conf-target", "userbase"} & set(os.listdir(tmp_path))
    assert not strays


def test_a_package_with_a_wrong_hash_is_refused_and_nothing_is_left(door: Door) -> None:
    with zipfile.ZipFile(door.wheels / "tiny-1.0-py3-none-any.whl", "a") as archive:
        archive.writestr("smuggled.py", "")
    refusal = door.refused("status")
    assert "HASHES" in refusal
    assert "tiny==1.0" in refusal
    assert not door.venv.exists()
    assert door.left_overs() == []


@pytest.mark.full
def test_an_unreachable_index_is_reported_with_the_reason(door: Door) -> None:
    refusal = door.refused(
        PIP_INDEX_URL="http://127.0.0.1:9/simple",
        PIP_NO_INDEX="0",
        PIP_FIND_LINKS="",
        PIP_RETRIES="1",
        NO_PROXY="127.0.0.1",
    )
    # What pip says last, that no version matches, would send people the wrong way.
    assert "could not be installed: no connection to the package index" in refusal
    assert "Connection refused" in refusal


@pytest.mark.full
def test_a_killed_install_does_not_count_as_finished(door: Door, slow_index: SlowIndex) -> None:
    killed = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    killed.kill()
    killed.communicate(timeout=DEADLINE)
    assert killed.returncode == -signal.SIGKILL
    assert not door.venv.exists()
    assert len(door.left_overs()) == 1

    slow_index.may_answer.set()
    assert door.told("status")["version"] == "1.0"
    assert door.left_overs() == []


def test_a_start_that_waited_for_a_killed_install_installs_itself(door: Door, slow_index: SlowIndex) -> None:
    killed = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    waiting = door.popen("status", **slow_index.settings)
    assert "waiting for another start" in waiting.stderr.readline()
    assert not door.venv.exists()
    killed.kill()
    killed.communicate(timeout=DEADLINE)
    slow_index.may_answer.set()
    out, err = waiting.communicate(timeout=DEADLINE)
    assert waiting.returncode == 0, err
    assert json.loads(out)["version"] == "1.0"
    assert door.left_overs() == []


@pytest.mark.full
def test_ctrl_c_ends_an_install_with_130_and_without_a_traceback(door: Door, slow_index: SlowIndex) -> None:
    stopped = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    os.killpg(stopped.pid, signal.SIGINT)
    out, err = stopped.communicate(timeout=DEADLINE)
    assert (stopped.returncode, out) == (130, "")
    assert "Traceback" not in err
    assert door.left_overs() == []


@pytest.mark.full
def test_if_two_starts_run_at_once_one_installs_and_the_other_waits(door: Door, slow_index: SlowIndex) -> None:
    first = door.popen("status", **slow_index.settings)
    assert slow_index.asked.wait(DEADLINE)
    second = door.popen("status", **slow_index.settings)
    assert "waiting for another start" in second.stderr.readline()
    slow_index.may_answer.set()
    for process in (first, second):
        out, err = process.communicate(timeout=DEADLINE)
        assert process.returncode == 0, err
        assert json.loads(out)["version"] == "1.0"
    assert len(slow_index.downloads) == len({"tiny", "gone"})


@pytest.mark.full
def test_a_changed_lock_file_gives_the_same_result_as_a_new_install(used_door: Door) -> None:
    assert used_door.told()["has_gone"]
    used_door.lock(tiny="2.0")
    told = used_door.told()
    assert (told["version"], told["has_gone"]) == ("2.0", False)
    assert used_door.left_overs() == []


@pytest.mark.full
def test_an_environment_without_its_interpreter_is_recreated(used_door: Door) -> None:
    python = used_door.venv / "bin" / "python"
    python.unlink()
    python.symlink_to("/nonexistent/python3")
    assert used_door.told()["version"] == "1.0"
    assert os.path.realpath(python) == BASE_PYTHON


@pytest.mark.full
def test_a_larger_set_serves_a_command_that_needs_the_smaller_one(used_door: Door) -> None:
    url = "postgresql://queue@localhost/queue"
    larger = used_door.start("status", QUEUECTL_DATABASE_URL=url)
    assert "from requirements-postgres.lock" in larger.stderr
    smaller = used_door.start("status")
    assert (smaller.returncode, smaller.stderr) == (0, "")


def test_a_python_without_ensurepip_gets_the_name_of_the_package_to_install(door: Door, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules['ensurepip'] = None\n")
    refusal = door.refused(PYTHONPATH=str(tmp_path))
    assert f"apt install python{sys.version_info[0]}.{sys.version_info[1]}-venv" in refusal


def test_an_unwritable_folder_is_reported_with_a_remedy(door: Door, tmp_path: Path) -> None:
    (tmp_path / "a-file").touch()  # no folder can be made below a file, not even by root
    refusal = door.refused(QUEUECTL_VENV=str(tmp_path / "a-file" / "venv"))
    assert str(tmp_path / "a-file" / "venv") in refusal
    assert "QUEUECTL_VENV=" in refusal


def test_a_folder_with_other_files_is_left_alone(door: Door, tmp_path: Path) -> None:
    (tmp_path / "letters").mkdir()
    (tmp_path / "letters" / "love.txt").write_text("dear")
    assert "QUEUECTL_VENV=" in door.refused(QUEUECTL_VENV=str(tmp_path / "letters"))
    assert os.listdir(tmp_path / "letters") == ["love.txt"]
