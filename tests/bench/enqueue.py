"""enqueue: durable jobs, one at a time and many from a file, compared with bare SQLite for the same rows.

The bare table has the real schema with indexes and checks, in a file on the same disk, without audit trail, our lock
and validation.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.bench import Bench, BenchError
from tests.bench.pool import ACTOR, number
from tests.bench.rounds import Row, ratio_row
from tests.bench.scratch import opened
from webapp.core import audit_lines
from webapp.core.job_spec import JobSpec
from webapp.core.storage.sqlite import library as sqlite
from webapp.jobs import actions
from webapp.lib import clock
from webapp.lib.ids import new_job_id
from webapp.lib.system.process_group import ENTRY

COMMAND = "true"
_COLUMNS = ("id", "command", "queue", "priority", "state", "run_at", "created_at", "created_by", "changed_at",
            "attempts", "failures", "losses", "lone_losses")  # fmt: skip
_INSERT = f"INSERT INTO jobs ({', '.join(_COLUMNS)}) VALUES ({', '.join('?' * len(_COLUMNS))})"  # noqa: S608  every part is ours
_SAID = re.compile(r"Enqueued [\d,]+ jobs in [\d.]+ s \(([\d,]+)/s\)")


@dataclass(frozen=True)
class Sizes:
    singles: int = 400  # in a round
    before: int = 500  # of each kind before the first round: while SQLite's log grows, each commit takes 100 µs more
    block: int = 50  # of one kind at a time
    many: int = 100_000


QUICK = Sizes(singles=20, before=1, block=10, many=200)


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    return [*_one_at_a_time(bench, sizes), *_many(bench, sizes)]


# --- one at a time ---------------------------------------------------------------------------------------------------


def _one_at_a_time(bench: Bench, sizes: Sizes) -> list[Row]:
    limits, ours, bounds = [], [], []
    with bare_table(bench.scratch.home()) as bare, opened(bench.scratch.home()):
        _enqueue(sizes.before)
        _insert(bare, sizes.before)
        for turn in range(bench.rounds):
            spent = [0.0, 0.0, 0.0]
            for _ in range(0, sizes.singles, sizes.block):
                spent[0] += _insert(bare, sizes.block)
                spent[1] += _enqueue(sizes.block)
                spent[2] += _insert(bare, sizes.block, with_line=True)
            done = -(-sizes.singles // sizes.block) * sizes.block
            limits.append(done / spent[0])
            ours.append(done / spent[1])
            bounds.append(done / spent[2])
            bench.say(f"enqueue, round {turn + 1}: bare INSERT {limits[-1]:,.0f}/s, ours {ours[-1]:,.0f}/s")
    return [
        ratio_row("enqueue.one", limits, ours, "jobs/s"),
        ratio_row("enqueue.one.bound", limits, bounds, "jobs/s"),
    ]


def _insert(bare: Any, jobs: int, *, with_line: bool = False) -> float:
    """Seconds for this number of bare INSERTs, each in a durable transaction, with or without an audit line."""
    began = time.perf_counter()
    for _ in range(jobs):
        bare.execute("BEGIN IMMEDIATE")
        bare.execute(_INSERT, _row())
        if with_line:
            bare.execute(audit_lines.LINE, _line())
        bare.execute("COMMIT")
    return time.perf_counter() - began


def _enqueue(jobs: int) -> float:
    began = time.perf_counter()
    for _ in range(jobs):
        actions.enqueue([JobSpec(command=COMMAND)], ACTOR)
    return time.perf_counter() - began


@contextmanager
def bare_table(home: Path) -> Iterator[Any]:
    """A bare SQLite connection to a database with our schema and the same durability."""
    with opened(home) as config:
        actions.enqueue([JobSpec(command=COMMAND)], ACTOR)  # the queue is there, too
    with closing(sqlite.connect(str(config.sqlite_path), isolation_level=None)) as connection:
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "temp_store=MEMORY"):
            connection.execute(f"PRAGMA {pragma}")
        yield connection


def _row() -> tuple[Any, ...]:
    now = clock.now()
    return (new_job_id(), COMMAND, "default", 0, "pending", now, now, ACTOR, now, 0, 0, 0, 0)


def _line() -> dict[str, Any]:
    [line] = audit_lines.lines("enqueue", [f"job:{new_job_id()}"], ACTOR, details=[{"after": {"command": COMMAND}}])
    return line


# --- many from a file ------------------------------------------------------------------------------------------------


def _many(bench: Bench, sizes: Sizes) -> list[Row]:
    file = bench.scratch.folder / "jobs.jsonl"
    with file.open("w") as lines:
        lines.writelines(json.dumps({"command": COMMAND}) + "\n" for _ in range(sizes.many))
    limits, inside, whole = [], [], []
    for turn in range(bench.rounds):
        limits.append(_executemany(bench, sizes.many))
        said, all_in_all = _from_file(bench, file, sizes.many)
        inside.append(said)
        whole.append(all_in_all)
        bench.say(f"enqueue --file, round {turn + 1}: executemany {limits[-1]:,.0f}/s, ours {inside[-1]:,.0f}/s")
    return [
        ratio_row("enqueue.many", limits, inside, "rows/s"),
        ratio_row("enqueue.many.whole", limits, whole, "rows/s"),
    ]


def _executemany(bench: Bench, jobs: int) -> float:
    rows = [_row() for _ in range(jobs)]
    home = bench.scratch.home()
    with bare_table(home) as bare:
        began = time.perf_counter()
        bare.execute("BEGIN IMMEDIATE")
        bare.executemany(_INSERT, rows)
        bare.execute("COMMIT")
        rate = jobs / (time.perf_counter() - began)
    bench.scratch.forget(home)
    return rate


def _from_file(bench: Bench, file: Path, jobs: int) -> tuple[float, float]:
    """Rows per second, as the command counts them without the start of Python, and as its caller does."""
    home = bench.scratch.home()
    with opened(home):
        pass
    began = time.perf_counter()
    done = subprocess.run(
        [sys.executable, str(ENTRY), "enqueue", "--file", str(file)],
        env=bench.scratch.environment(home),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    whole = jobs / (time.perf_counter() - began)
    said = _SAID.search(done.stderr)
    with opened(home):
        stored = number("SELECT count(*) FROM jobs")
    if said is None or stored != jobs:
        raise BenchError(f"`enqueue --file` stored {stored:,} of {jobs:,} jobs and said: {done.stderr.strip()}")
    bench.scratch.forget(home)
    return float(said[1].replace(",", "")), whole
