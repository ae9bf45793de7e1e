"""`manage.py test`: lint, types and tests on SQLite, then marked tests on PostgreSQL and on other Pythons.

`--all` runs every test on both databases and on every Python. The bootstrap installs the development set before it
imports this. The tests are in tests/, the settings of the tools and the marks of the tests in pyproject.toml.
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
OLDEST = "3.9"
PARTS = ("lint", "types", "tests", "browser", "postgresql")
FAULT_MINUTES = 3.0  # of `--all`
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
@click.option("--all", "everything", is_flag=True, help="Run every test, on both databases and on every Python.")
@click.option("--only", type=click.Choice(PARTS), help="Run this part alone.")
@click.option("--python", "version", metavar="X.Y", help="Run the part for other Pythons, or the tests named, on this.")
@click.option("--faults", is_flag=True, help="Attack the queue instead, for --minutes: kills, full disks, power cuts.")
@click.option("--minutes", type=float, default=30.0, show_default=True, help="How long the attacks go on.")
@click.option("--seed", type=int, help="Make the same attacks again; each run prints its own.")
@click.argument("pytest_args", nargs=-1, type=click.UNPROCESSED)
def test(
    everything: bool,
    only: Optional[str],
    version: Optional[str],
    faults: bool,
    minutes: float,
    seed: Optional[int],
    pytest_args: tuple[str, ...],
) -> int:
    """Run lint, types and the tests; with arguments, pytest with these alone (`--db postgresql` for PostgreSQL)."""
    if faults:
        steps, outcomes = [attacks(minutes, seed, pytest_args)], list[Outcome]()
    elif version:
        steps, outcomes = plan_for_python(version, pytest_args or portable(everything), required=True)
    elif pytest_args:
        steps, outcomes = [pytest("tests", *pytest_args)], []
    else:
        steps, outcomes = plan(only, everything)
    for step in steps:
        click.secho(f"\n== {step.name}: {' '.join(step.command[1:])}", bold=True)
        outcomes.append(run(step))
    if len(outcomes) > 1 or not all(outcome.passed for outcome in outcomes):
        report(outcomes)
    return 0 if all(outcome.passed for outcome in outcomes) else 1


def plan(only: Optional[str], everything: bool) -> tuple[list[Step], list[Outcome]]:
    """Return the steps of a whole run, or of one part of it, and the outcomes known before the first step."""
    steps: list[Step] = []
    known: list[Outcome] = []
    marks = [] if everything else ["not full"]
    if only in {None, "lint"}:
        # Named, so that no environment or scratch folder beside them is read.
        ours = [name for name in ("manage.py", "webapp", "worker", "tests", "docs") if (CHECKOUT / name).exists()]
        steps.append(Step("lint", [sys.executable, "-m", "ruff", "check", *ours]))
        steps.append(Step("format", [sys.executable, "-m", "ruff", "format", "--check", *ours]))
    if only in {None, "types"}:
        steps.append(Step("types", [sys.executable, "-m", "mypy"]))
    if not has_chromium() and only in {None, "tests", "browser"}:
        known.append(Outcome("browser", not (os.environ.get("CI") or only == "browser"), without_chromium()))
        if only != "browser":
            steps.append(pytest("tests", *in_parallel(), *marked(*marks, "not browser")))
    elif only == "browser":
        steps.append(pytest("browser", *in_parallel(), *marked(*marks, "browser")))
    elif only in {None, "tests"}:
        steps.append(pytest("tests", *in_parallel(), *marked(*marks)))
    if only in {None, "postgresql"}:
        some = [] if everything else ["postgresql"]
        steps.append(pytest("postgresql", *in_parallel(), "--db", "postgresql", *marked(*marks, *some)))
    if only is None:
        for version in OTHER_PYTHONS:
            more, missing = plan_for_python(version, portable(everything), required=False)
            steps += more
            known += missing
        steps += plan_for_python(OLDEST, ("--only", "types"), required=False)[0]
        steps += [attacks(FAULT_MINUTES, None, ())] if everything else []
    return steps, known


def pytest(name: str, *arguments: str) -> Step:
    return Step(name, [sys.executable, "-m", "pytest", *arguments])


def marked(*marks: str) -> list[str]:
    return ["-m", " and ".join(marks)] if marks else []


def portable(everything: bool) -> list[str]:
    """Return pytest's arguments for other Pythons: the same browser and the same faults would tell nothing new."""
    if everything:
        return [*in_parallel(), "--ignore", "tests/faults", *marked("not browser")]
    return [*in_parallel(), *marked("every_python", "not full")]


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
