"""growth: the cost of a job and of a claim in large tables of several kinds.

All databases exist at once and take turns, so a ratio compares two close moments. A turn is that of a worker: one
transaction that settles a job and claims the next.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tests.bench import Bench, BenchError
from tests.bench.pool import ACTOR
from tests.bench.rounds import Row, ratio_row
from tests.bench.scratch import opened
from tests.worker_connection import worker_connection
from webapp.core.job_spec import JobSpec
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.db.engines import write_engine, writing
from webapp.jobs.actions import enqueue
from webapp.jobs.queue_actions import pause_queue
from webapp.lib import clock

if TYPE_CHECKING:
    from worker.attempt import Claim

FEW, MANY, MOST = 1_000, 1_000_000, 10_000_000
ROW_SIZE = 450  # bytes of a job with its indexes and its log, about

# The other rows beside the claimed jobs.
_FAR = 2**60
KINDS: dict[str, dict[str, Any]] = {
    "finished": {"state": "completed", "queue": "default", "priority": 0, "run_at": 1},
    "pending": {"state": "pending", "queue": "default", "priority": -1, "run_at": 1},
    "scheduled": {"state": "scheduled", "queue": "default", "priority": 100, "run_at": _FAR},
    "paused": {"state": "pending", "queue": "paused", "priority": 100, "run_at": 1},
    "unserved": {"state": "pending", "queue": "unserved", "priority": 100, "run_at": 1},
    "limited": {"state": "pending", "queue": "default", "priority": 100, "run_at": 1, "limits": "db"},
    "blocked": {"state": "blocked", "queue": "default", "priority": 100, "run_at": 1},
}
GROWING = ("finished", "pending", "scheduled")
IN_THE_WAY = ("scheduled", "paused", "unserved", "limited", "blocked")

_FILL = """
INSERT INTO jobs (id, command, queue, priority, state, run_at, created_at, created_by, changed_at, attempts, failures,
                  losses, lone_losses, finished_at, limits)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number)
SELECT lower(hex(randomblob(8))) || i, 'true', :queue, :priority, :state, :run_at, 1, 'person:bench', 1, 0, 0, 0, 0,
       CASE WHEN :state = 'completed' THEN i END, :limits FROM n
"""
_ATTEMPTS = """
INSERT INTO attempts (job_seq, number, state, reason, worker_id, started_at, finished_at, exit_code, output,
                      output_runs, output_dropped)
SELECT seq, 1, 'completed', 'exit', 'bench', finished_at, finished_at, 0, x'', '', 0 FROM jobs
WHERE state = 'completed'
"""


@dataclass(frozen=True)
class Sizes:
    few: int = FEW
    many: int = MANY
    most: int = MOST
    turns: int = 100  # of each database in a round
    block: int = 20  # of one at a time


QUICK = Sizes(few=10, many=200, most=400, turns=6, block=3)


def space(sizes: Sizes, *, large: bool) -> int:
    """The bytes that it needs."""
    rows = len(KINDS) * sizes.many + (len(GROWING) * sizes.most if large else 0)
    return ROW_SIZE * rows


def measure(bench: Bench, sizes: Sizes) -> Sequence[Row]:
    with ExitStack() as stack:
        queues = {"empty": _make(bench, stack, "empty", 0, sizes)}
        for kind in KINDS:
            for name, rows in _sizes_of(bench, kind, sizes).items():
                bench.say(f"growth: filling {rows:,} rows, {kind}")
                queues[f"{kind}.{name}"] = _make(bench, stack, kind, rows, sizes)
        for turn in range(bench.rounds):
            _round(list(queues.values()), sizes)
            bench.say(f"growth, round {turn + 1}: {median(queues['empty'].turns[-1]):.0f} µs a job beside no others")
        return _rows(queues)


def _sizes_of(bench: Bench, kind: str, sizes: Sizes) -> dict[str, int]:
    if kind not in GROWING:
        return {"many": sizes.many}
    return {"few": sizes.few, "many": sizes.many, **({"most": sizes.most} if bench.large else {})}


def _rows(queues: dict[str, _Queue]) -> list[Row]:
    def turns(name: str) -> list[float]:
        return list(map(median, queues[name].turns))

    def claims(name: str) -> list[float]:
        return list(map(median, queues[name].claims))

    def of_all(name: str) -> float:
        return mean(map(mean, queues[name].turns))

    rows = []
    for kind in GROWING:
        few = f"{kind}.few"
        for many in (f"{kind}.many", f"{kind}.most"):
            if many in queues:
                note = f"means, with checkpoints: {of_all(many):.0f} µs, beside few {of_all(few):.0f}"
                rows.append(ratio_row(f"growth.{many}", turns(few), turns(many), "µs", note=note))
    rows += [ratio_row(f"claim.{kind}", claims("empty"), claims(f"{kind}.many"), "µs") for kind in IN_THE_WAY]
    return rows


# --- one database ----------------------------------------------------------------------------------------------------


@dataclass
class _Queue:
    """A database and a worker's claims on it. `turns` and `claims` are microseconds, a list for each round."""

    claims_door: Any  # worker.loop.claims.Claims
    held: Claim
    turns: list[list[float]] = field(default_factory=list)
    claims: list[list[float]] = field(default_factory=list)


def _make(bench: Bench, stack: ExitStack, kind: str, rows: int, sizes: Sizes) -> _Queue:
    """Fill a database; it stays open until the stack is closed."""
    from worker.loop.claims import Claims

    stack.enter_context(opened(bench.scratch.home()))
    enqueue([JobSpec(command="true")], ACTOR)
    if rows:
        _fill(kind, rows)
    jobs = bench.rounds * (sizes.turns + sizes.block) + 10
    enqueue([JobSpec(command="true")] * jobs, ACTOR)
    with closing(write_engine().raw_connection()) as raw:  # what the fill left in the log is no turn's affair
        raw.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection = worker_connection()
    stack.callback(connection.close)
    door = Claims(connection, "bench")
    with door as turn:
        [held] = turn.claim([LabelSet("default")], 1, Settings())
    return _Queue(door, held)


def _fill(kind: str, rows: int) -> None:
    values = KINDS[kind]
    if values["queue"] != "default":
        enqueue([JobSpec(command="true", queue=values["queue"])], ACTOR)  # which makes the queue
    with writing() as session:
        session.execute(text(_FILL), {"limits": "", **values, "number": rows})
        if values["state"] == "completed":
            session.execute(text(_ATTEMPTS))
    if kind == "paused":
        pause_queue("paused", ACTOR)


def _round(queues: list[_Queue], sizes: Sizes) -> None:
    for queue in queues:
        queue.turns.append([])
        queue.claims.append([])
    while len(queues[0].turns[-1]) < sizes.turns:
        for queue in random.sample(queues, len(queues)):
            for _ in range(sizes.block):
                _turn(queue)


def _turn(queue: _Queue) -> None:
    """Settle the held job and claim the next, as the dispatcher does."""
    from worker.attempt import AttemptResult

    settings = Settings()
    began = time.perf_counter()
    with queue.claims_door as turn:
        looked = time.perf_counter()
        turn.read_state()
        spent = time.perf_counter() - looked
        now = clock.now()
        state = turn.settle(
            AttemptResult(queue.held, "completed", "exit", now, now, exit_code=0, cpu_time=1000), settings, 0.0
        )
        looked = time.perf_counter()
        claimed = turn.claim([LabelSet("default")], 1, settings)
        spent += time.perf_counter() - looked
    queue.turns[-1].append((time.perf_counter() - began) * 1e6)
    queue.claims[-1].append(spent * 1e6)
    if state != "completed" or len(claimed) != 1:
        raise BenchError(f"a turn settled to {state} and claimed {len(claimed)} jobs; expected 'completed' and 1.")
    [queue.held] = claimed
