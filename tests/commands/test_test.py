"""The plan of `manage.py test`. Every run of this suite shows that the plan works."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests import plan

OTHER = "3.9" if sys.version_info[:2] != (3, 9) else "3.13"


@pytest.fixture
def empty_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A PATH with nothing on it, and no pyenv to be found."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("PYENV_ROOT", raising=False)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setattr(sys, "base_prefix", str(tmp_path / "versions" / "this"))
    return tmp_path


def script(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.usefixtures("empty_path")
def test_without_chromium_the_rest_runs_and_the_install_command_is_shown() -> None:
    steps, known = plan.whole("tests", False)
    assert [step.command[-2:] for step in steps] == [["-m", "not full and not browser"]]
    assert [outcome.passed for outcome in known] == [True]
    assert "apt install chromium" in known[0].text


@pytest.mark.usefixtures("empty_path")
def test_without_chromium_ci_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CI", "true")
    _, known = plan.whole("tests", False)
    assert [outcome.passed for outcome in known] == [False]


@pytest.mark.usefixtures("empty_path")
def test_without_chromium_the_browser_part_alone_fails() -> None:
    steps, known = plan.whole("browser", False)
    assert steps == []
    assert [outcome.passed for outcome in known] == [False]


def test_a_python_is_found_beside_this_one_with_any_home(empty_path: Path) -> None:
    for patch in ("9", "18"):
        script(empty_path / "versions" / f"{OTHER}.{patch}" / "bin" / f"python{OTHER}", f"echo {OTHER}")
    found = plan.find_python(OTHER)
    assert found is not None
    assert Path(found).parents[1].name == f"{OTHER}.18"


def test_a_broken_shim_does_not_count_as_a_python(empty_path: Path) -> None:
    script(empty_path / f"python{OTHER}", "echo 'command not found' >&2; exit 127")
    assert plan.find_python(OTHER) is None


@pytest.mark.usefixtures("empty_path")
def test_a_missing_python_is_reported_and_fails_only_if_requested() -> None:
    assert [outcome.passed for outcome in plan.for_python(OTHER, (), required=False)[1]] == [True]
    assert [outcome.passed for outcome in plan.for_python(OTHER, (), required=True)[1]] == [False]


def test_another_python_gets_its_own_environment(empty_path: Path) -> None:
    script(empty_path / f"python{OTHER}", f"echo {OTHER}")
    (step,), _ = plan.for_python(OTHER, ("--only", "types"), required=False)
    assert step.command[0] == str(empty_path / f"python{OTHER}")
    assert step.environment == {"QUEUECTL_VENV": f"{os.path.realpath(sys.prefix)}-{OTHER}"}


def test_the_fault_injection_gets_its_length_and_its_seed() -> None:
    step = plan.fault_injection(2.5, 7, ())
    assert step.command[1:] == ["-m", "tests.faults.long_run", "--minutes", "2.5", "--seed", "7"]
    assert "--seed" not in plan.fault_injection(1, None, ()).command


def test_marked_tests_run_on_postgresql_by_default_and_every_test_with_all() -> None:
    assert [step.command[-3:] for step in plan.whole("postgresql", False)[0]] == [
        ["postgresql", "-m", "not full and postgresql"]
    ]
    assert [step.command[-2:] for step in plan.whole("postgresql", True)[0]] == [["--db", "postgresql"]]


def test_types_are_checked_on_the_oldest_python_by_default_and_on_both_with_all(
    empty_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def checked(everything: bool) -> list[str]:
        return [step.command[1] for step in plan.whole(None, everything)[0] if step.name == "types"]

    monkeypatch.setattr(plan, "OLDEST", OTHER)
    assert checked(False) == ["-m"]  # there is no other Python
    script(empty_path / f"python{OTHER}", f"echo {OTHER}")
    assert checked(False) == []
    assert checked(True) == ["-m"]
    types = [step for step in plan.whole(None, False)[0] if step.command[-2:] == ["--only", "types"]]
    assert [step.command[0] for step in types] == [str(empty_path / f"python{OTHER}")]


def test_other_steps_run_beside_the_tests_and_their_output_follows(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def step(name: str, makes: str, waits_for: str, code: int = 0) -> plan.Step:
        script = (
            "import pathlib, sys, time\n"
            f"pathlib.Path({str(tmp_path / makes)!r}).touch()\n"
            f"while not pathlib.Path({str(tmp_path / waits_for)!r}).exists(): time.sleep(0.01)\n"
            f"print('says', {name!r})\n"
            f"sys.exit({code})\n"
        )
        return plan.Step(name, [sys.executable, "-c", script])

    steps = [step("lint", "0", "0"), step("tests", "1", "2"), step("types", "2", "1", 3), step("faults", "3", "1")]
    assert not plan.run_all(steps, [plan.Outcome("browser", True, "not here")])
    printed = capfd.readouterr().out
    said = [line.split()[1] for line in printed.splitlines() if line.startswith("says ")]
    assert said == ["lint", "tests", "types", "faults"]
    assert "FAILED with exit code 3" in printed
