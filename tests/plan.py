"""The steps of `manage.py test`: lint, types and tests on SQLite, then marked tests on PostgreSQL and other Pythons.

`--all` runs every test on both databases, and more of them on other Pythons, most on the oldest. The settings of the
tools and the test markers are in pyproject.toml. The command itself is `webapp/commands/development/test.py`.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional, TextIO

import click

from webapp.config import CHECKOUT

OTHER_PYTHONS = ("3.9", "3.13")
OLDEST = "3.9"
# Of the tests for every Python, the newest one runs only these by default. What breaks is mostly new to the oldest.
FOR_NEWEST = ("tests/test_platforms.py", "tests/commands/test_seed_lines.py", "tests/server", "tests/worker")
FAULT_MINUTES = 2.0  # with --all
CHROMIUM = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
NO_CHROMIUM = "no Chromium on the PATH, so browser tests did not run. On Debian and Ubuntu: apt install chromium"


@dataclass(frozen=True)
class Step:
    """A command to run; its exit code says whether the step passes."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """The result of a step, for the table at the end."""

    name: str
    passed: bool
    text: str
    seconds: float = 0.0


def whole(only: Optional[str], everything: bool) -> tuple[list[Step], list[Outcome]]:
    """Return the steps of a whole run, or of one part, and the outcomes that are known before the first step."""
    steps: list[Step] = []
    known: list[Outcome] = []
    marks = [] if everything else ["not full"]
    if only in {None, "lint"}:
        # Name the folders: others beside them may hold environments and scratch files.
        ours = [name for name in ("manage.py", "webapp", "worker", "tests", "docs") if (CHECKOUT / name).exists()]
        steps.append(Step("lint", [sys.executable, "-m", "ruff", "check", *ours]))
        steps.append(Step("format", [sys.executable, "-m", "ruff", "format", "--check", *ours]))
    if only in {None, "tests", "browser"}:
        chromium = any(shutil.which(name) for name in CHROMIUM)
        if not chromium:
            known.append(Outcome("browser", not (os.environ.get("CI") or only == "browser"), NO_CHROMIUM))
        if chromium or only != "browser":
            browser = ["browser"] if only == "browser" else [] if chromium else ["not browser"]
            steps.append(parallel("browser" if only == "browser" else "tests", *marked(*marks, *browser)))
    # What is right for the oldest Python is nearly always right for this one.
    oldest = for_python(OLDEST, ("--only", "types"), required=False)[0] if only is None else []
    steps += oldest
    if only == "types" or (only is None and (everything or not oldest)):
        steps.append(Step("types", [sys.executable, "-m", "mypy"]))
    if only in {None, "postgresql"}:
        some = [] if everything else ["postgresql"]
        beside = 2 if everything or only else 1
        steps.append(parallel("postgresql", "--db", "postgresql", *marked(*marks, *some), per_core=beside))
    if only is None:
        for version in OTHER_PYTHONS:
            is_oldest = version == OLDEST
            paths = () if everything or is_oldest else FOR_NEWEST
            more, missing = for_python(version, [*portable(everything and is_oldest), *paths], required=False)
            steps += more
            known += missing
        steps += [fault_injection(FAULT_MINUTES, None, ())] if everything else []
    return steps, known


def pytest(name: str, *arguments: str) -> Step:
    return Step(name, [sys.executable, "-m", "pytest", *arguments])


def parallel(name: str, *arguments: str, per_core: int = 2) -> Step:
    return pytest(name, *in_parallel(per_core), *arguments)


def in_parallel(per_core: int) -> list[str]:
    # The longest tests mostly wait for processes, and two steps run beside each other. But each process imports all
    # tests, which takes it up to 10 s of CPU. worksteal keeps the tests of a module together, so most of its fixtures
    # are made once.
    return ["-n", str(min(per_core * (os.cpu_count() or 2), 8)), "--dist", "worksteal", "--durations", "10"]


def marked(*marks: str) -> list[str]:
    return ["-m", " and ".join(marks)] if marks else []


def portable(everything: bool) -> list[str]:
    """Return pytest's arguments for other Pythons.

    Browsers, attacks, faults and the long tests would show nothing new: they meet the same processes as here.
    """
    if everything:
        ignored = [f"--ignore=tests/{folder}" for folder in ("bench", "faults", "security")]
        return [*in_parallel(2), *ignored, *marked("not full", "not browser")]
    return [*in_parallel(1), *marked("every_python", "not full")]


def fault_injection(minutes: float, seed: Optional[int], more: Sequence[str]) -> Step:
    """Return the step that runs the long part of tests/faults."""
    given = ["--minutes", f"{minutes:g}", *([] if seed is None else ["--seed", str(seed)]), *more]
    return Step("faults", [sys.executable, "-m", "tests.faults.long_run", *given])


def for_python(version: str, arguments: Sequence[str], *, required: bool) -> tuple[list[Step], list[Outcome]]:
    """Return the step that runs `manage.py test` with another Python, in its own environment beside this one.

    A missing Python is a failed outcome only if it is `required`. Without that, this Python needs no step.
    """
    name, venv = f"Python {version}", {}
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        if not required:
            return [], []
        python: Optional[str] = sys.executable
    else:
        python = find_python(version)
        venv = {"QUEUECTL_VENV": f"{os.path.realpath(sys.prefix)}-{version}"}
    if python is None:
        return [], [Outcome(name, not required, f"there is no Python {version} with ensurepip here")]
    return [Step(name, [python, str(CHECKOUT / "manage.py"), "test", *arguments], venv)], []


def find_python(version: str) -> Optional[str]:
    """Return an interpreter of this minor version that can create environments, or None."""
    script = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in candidates(version):
        # Run it: pyenv has a shim for each version, which fails if that version is not selected.
        answer = subprocess.run([candidate, "-c", script], capture_output=True, text=True, check=False)
        if answer.stdout.strip() == version:
            return candidate
    return None


def candidates(version: str) -> Iterator[str]:
    """Yield possible paths of this Python: pyenv's versions, newest first, then the PATH."""
    folders = [Path(root) / "versions" for root in (os.environ.get("PYENV_ROOT"), "~/.pyenv") if root]
    # If HOME was changed since pyenv was set up, only this interpreter's neighbours lead there.
    folders.append(Path(os.path.realpath(sys.base_prefix)).parent)
    pyenv = shutil.which("pyenv")
    if pyenv:
        folders.append(Path(os.path.realpath(pyenv)).parents[1] / "versions")
    for folder in folders:
        found = folder.expanduser().glob(f"{version}.*/bin/python{version}")
        yield from (str(path) for path in sorted(found, key=patch_version, reverse=True))
    on_path = shutil.which(f"python{version}")
    if on_path:
        yield on_path


def patch_version(python: Path) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", python.parents[1].name)]


def run_all(steps: Sequence[Step], known: Sequence[Outcome]) -> bool:
    """Run the steps and print all outcomes. Return whether all passed.

    Most tests wait for processes most of the time. So while the step `tests` prints its progress, the long steps after
    it run beside it, one by one, and their output follows. Fault injection runs alone.
    """
    names = [step.name for step in steps]
    last = names.index("faults") if "faults" in names else len(steps)
    first = names.index("tests") if "tests" in names else last
    outcomes = [*known, *map(run, steps[:first])]
    if first < last:
        outcomes += run_beside(steps[first], steps[first + 1 : last])
    outcomes += map(run, steps[last:])
    passed = all(outcome.passed for outcome in outcomes)
    if len(outcomes) > 1 or not passed:
        click.echo()
        for outcome in outcomes:
            seconds = f"{outcome.seconds:6.1f} s" if outcome.seconds else " " * 8
            click.secho(f"{outcome.name:<12} {seconds}  {outcome.text}", fg=None if outcome.passed else "red")
    return passed


def run_beside(shown: Step, others: Sequence[Step]) -> Iterator[Outcome]:
    """Run a step with its output on ours, and meanwhile the others; print the output of each when it has ended."""
    beside = ThreadPoolExecutor(1)
    with ExitStack() as stack:
        stack.callback(beside.shutdown, cancel_futures=True)  # after Ctrl-C no other step starts
        files = [stack.enter_context(tempfile.TemporaryFile("w+", errors="replace")) for _ in others]
        running = [beside.submit(run, step, file) for step, file in zip(others, files)]
        yield run(shown)
        for step, future, file in zip(others, running, files):
            outcome = future.result()
            announce(step)
            file.seek(0)
            shutil.copyfileobj(file, sys.stdout)
            yield outcome


def announce(step: Step) -> None:
    click.secho(f"\n== {step.name}: {' '.join(step.command[1:])}", bold=True)


def run(step: Step, output: Optional[TextIO] = None) -> Outcome:
    """Run the step with its output on ours, or in a file."""
    # The tests must not touch the user's queue or depend on its configuration. Without files of bytecode, each of many
    # processes would compile all tests.
    left = (name for name in os.environ if not name.startswith("QUEUECTL_") and name != "PYTHONDONTWRITEBYTECODE")
    kept = {name: os.environ[name] for name in left}
    venv = {"QUEUECTL_VENV": os.path.realpath(sys.prefix), **step.environment}
    started = time.monotonic()
    if output is None:
        announce(step)
        sys.stdout.flush()
    with subprocess.Popen(step.command, cwd=CHECKOUT, env={**kept, **venv}, stdout=output, stderr=output) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()  # it got the Ctrl-C too; let it stop the servers that it started
            raise
    text = "passed" if code == 0 else f"FAILED with exit code {code}"
    return Outcome(step.name, code == 0, text, time.monotonic() - started)
