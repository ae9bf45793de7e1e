"""cli: one job by `manage.py enqueue`, from start to end of the process, compared with a bare Python storing one."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from tests.bench import Bench, BenchError
from tests.bench.rounds import Row, ratio_row
from tests.bench.scratch import opened
from webapp.bootstrap.venv import STAMP
from webapp.config import CHECKOUT
from webapp.lib.system.process_group import ENTRY

_BARE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA synchronous=FULL")
connection.execute("BEGIN IMMEDIATE")
connection.execute("INSERT INTO jobs (command, state) VALUES (?, 'pending')", (sys.argv[2],))
connection.execute("COMMIT")
"""
_MAKE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode=WAL")
connection.execute("CREATE TABLE jobs (seq INTEGER PRIMARY KEY, command TEXT, state TEXT)")
"""


@dataclass(frozen=True)
class Sizes:
    runs: int = 8  # of each in a round


QUICK = Sizes(runs=1)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    home, file = bench.scratch.home(), bench.scratch.folder / "bare.db"
    with opened(home):
        pass  # the first command on a home makes the database, which is another matter
    door = [str(CHECKOUT / "manage.py")] if (Path(sys.prefix) / STAMP).exists() else [str(ENTRY)]
    bare_environment, ours = bench.scratch.environment(), bench.scratch.environment(home)
    _seconds([sys.executable, "-c", _MAKE, str(file)], bare_environment)
    commands = {
        "bare": ([sys.executable, "-c", _BARE, str(file), "true"], bare_environment),
        "enqueue": ([sys.executable, *door, "enqueue", "--command", "true"], ours),
        "import": ([sys.executable, "-c", "import flask_sqlalchemy"], bare_environment),
    }
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(bench.rounds):
        samples: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(sizes.runs):
            for name, (command, environment) in commands.items():
                samples[name].append(_seconds(command, environment))
        for name, seconds in samples.items():
            times[name].append(median(seconds) * 1000)
        bench.say(f"cli, round {turn + 1}: bare {times['bare'][-1]:.0f} ms, enqueue {times['enqueue'][-1]:.0f} ms")
    return [ratio_row(f"cli.{name}", times["bare"], times[name], "ms") for name in ("enqueue", "import")]


def _seconds(command: Sequence[str], environment: Mapping[str, str]) -> float:
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, capture_output=True, check=False)
    took = time.perf_counter() - began
    if done.returncode != 0:
        raise BenchError(f"a command ended with {done.returncode}: {done.stderr.decode(errors='replace').strip()}")
    return took
