"""`manage.py test`: lint, types and every test, then the fast part on the oldest and the newest Python.

The development set is installed by the bootstrap before this is imported. What the tests are is in tests/, how the
tools are set is in pyproject.toml.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import click

from webapp.config import CHECKOUT

OTHER_PYTHONS = ("3.9", "3.13")
FAST = "not browser and not slow"  # what is slow stands in tests/conftest.py, and why
PARTS = ("lint", "types", "tests", "browser", "fast")
CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")


@dataclass(frozen=True)
class Step:
    """One command whose exit code decides."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What became of a step, for the table at the end."""

    name: str
    passed: bool
    text: str
    seconds: float = 0.0


@click.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Example: manage.py test tests/worker -k timeout",
)
@click.option("--only", type=click.Choice(PARTS), help="Run this part alone ('fast': no browser, nothing slow).")
@click.option("--python", "version", metavar="X.Y", help="Run the fast part, or the tests named, on this Python alone.")
@click.option("--faults", is_flag=True, help="Attack the queue instead, for --minutes: kills, full disks, power cuts.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="How long the attacks go on.")
@click.option("--seed", type=int, help="Make the same attacks again; each run prints its own.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def test(
    only: Optional[str],
    version: Optional[str],
    faults: bool,
    minutes: float,
    seed: Optional[int],
    pytest_args: tuple[str, ...],
) -> int:
    """Run lint, types and every test; with arguments, pytest with these alone."""
    if faults:
        steps, outcomes = [attacks(minutes, seed, pytest_args)], list[Outcome]()
    elif version:
        steps, outcomes = plan_for_python(version, pytest_args or ("--only", "fast"), required=True)
    elif pytest_args:
        steps, outcomes = [pytest(*pytest_args)], []
    else:
        steps, outcomes = plan(only)
    for step in steps:
        click.secho(f"\n== {step.name}: {' '.join(step.command[1:])}", bold=True)
        outcomes.append(run(step))
    if len(outcomes) > 1 or not all(outcome.passed for outcome in outcomes):
        report(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def plan(only: Optional[str]) -> tuple[list[Step], list[Outcome]]:
    """Return the steps of a whole run, or of one part of it, and what is known before the first of them."""
    steps: list[Step] = []
    known: list[Outcome] = []
    if only in {None, "lint"}:
        # Named, so that no environment or scratch folder beside them is read.
        ours = [name for name in ("manage.py", "webapp", "worker", "tests", "docs") if (CHECKOUT / name).exists()]
        steps.append(Step("lint", [sys.executable, "-m", "ruff", "check", *ours]))
        steps.append(Step("format", [sys.executable, "-m", "ruff", "format", "--check", *ours]))
    if only in {None, "types"}:
        steps.append(Step("types", [sys.executable, "-m", "mypy"]))
    if only in {None, "tests", "browser"}:
        browser = has_chromium()
        if not browser:
            known.append(Outcome("browser", not (os.environ.get("CI") or only == "browser"), without_chromium()))
        if browser or only != "browser":
            marks = {"browser": ["-m", "browser"], None: [], "tests": []}[only] if browser else ["-m", "not browser"]
            steps.append(pytest(*in_parallel(), *marks))
    if only == "fast":
        steps.append(pytest(*in_parallel(), "-m", FAST))
    if only is None:
        for version in OTHER_PYTHONS:
            more, less = plan_for_python(version, ("--only", "fast"), required=False)
            steps += more
            known += less
    return steps, known


def pytest(*arguments: str) -> Step:
    return Step("tests", [sys.executable, "-m", "pytest", *arguments])


def attacks(minutes: float, seed: Optional[int], more: Sequence[str]) -> Step:
    """Return the step that runs the long part of tests/faults."""
    given = ["--minutes", f"{minutes:g}", *([] if seed is None else ["--seed", str(seed)]), *more]
    return Step("faults", [sys.executable, "-m", "tests.faults.long_run", *given])


def in_parallel() -> list[str]:
    # Three a core, for the longest tests mostly wait for processes. Neighbours stay together while there is a choice,
    # so that the fixtures of a module are mostly made once.
    return ["-n", str(min(3 * (os.cpu_count() or 2), 8)), "--dist", "worksteal", "--durations", "10"]


def has_chromium() -> bool:
    return any(shutil.which(name) for name in CHROMIUM)


def without_chromium() -> str:
    return "no Chromium on the PATH, so nothing was looked at in a browser. On Debian and Ubuntu: apt install chromium"


def plan_for_python(version: str, arguments: Sequence[str], *, required: bool) -> tuple[list[Step], list[Outcome]]:
    """Return the step that runs manage.py test with another Python, in an environment of its own beside this one."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return ([], []) if not required else ([Step(f"Python {version}", door(sys.executable, arguments))], [])
    python = find_python(version)
    if python is None:
        return [], [Outcome(f"Python {version}", not required, f"there is no Python {version} with ensurepip here")]
    venv = {"QUEUECTL_VENV": f"{os.path.realpath(sys.prefix)}-{version}"}
    return [Step(f"Python {version}", door(python, arguments), venv)], []


def door(python: str, arguments: Sequence[str]) -> list[str]:
    return [python, str(CHECKOUT / "manage.py"), "test", *arguments]


def find_python(version: str) -> Optional[str]:
    """Return an interpreter of this minor version that can make environments, or None."""
    ask = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates(version):
        # Asked, not believed: pyenv's shim for a version that is not selected is there, and fails.
        answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield where this Python may be: where pyenv keeps its versions, the newest first, then on the PATH."""
    folders = [Path(root) / "versions" for root in (os.environ.get("PYENV_ROOT"), "~/.pyenv") if root]
    # With another HOME than the one that pyenv was set up for, this interpreter's own neighbours are the trace left.
    folders.append(Path(os.path.realpath(sys.base_prefix)).parent)
    pyenv = shutil.which("pyenv")
    if pyenv:
        folders.append(Path(os.path.realpath(pyenv)).parents[1] / "versions")
    for folder in folders:
        found = folder.expanduser().glob(f"{version}.*/bin/python{version}")
        yield from (str(path) for path in sorted(found, key=patch, reverse=True))
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path


def patch(python: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", python.parents[1].name)]


def run(step: Step) -> Outcome:
    """Run the step with its output on ours."""
    # A run must not touch the person's own queue, nor depend on how it is set up.
    kept = {name: value for name, value in os.environ.items() if not name.startswith("QUEUECTL_")}
    venv = {"QUEUECTL_VENV": os.path.realpath(sys.prefix), **step.environment}
    started = time.monotonic()
    sys.stdout.flush()
    with subprocess.Popen(step.command, cwd=CHECKOUT, env={**kept, **venv}) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the Ctrl-C as well; let it stop the servers that it started
            raise
    text = "passed" if code == 0 else f"FAILED with exit code {code}"
    return Outcome(step.name, code == 0, text, time.monotonic() - started)


def report(outcomes: Sequence[Outcome]) -> None:
    click.echo()
    for outcome in outcomes:
        seconds = f"{outcome.seconds:6.1f} s" if outcome.seconds else " " * 8
        click.secho(f"{outcome.name:<12} {seconds}  {outcome.text}", fg=None if outcome.passed else "red")
