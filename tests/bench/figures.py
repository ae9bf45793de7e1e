"""The measured figures: name, unit and goal of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from webapp.core.states import STATES

RATIO = "x"


@dataclass(frozen=True)
class Goal:
    """A bound, from above (`most`) or from below."""

    bound: float
    most: bool

    def is_met(self, value: float) -> bool:
        return value <= self.bound if self.most else value >= self.bound

    def __str__(self) -> str:
        return f"{'≤' if self.most else '≥'} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """A figure. Its unit is that of its value and its goal; RATIO: ours divided by the limit."""

    key: str
    title: str
    unit: str
    goal: Optional[Goal] = None


def _least(bound: float) -> Goal:
    return Goal(bound, most=False)


def _most(bound: float) -> Goal:
    return Goal(bound, most=True)


_DRAIN = [
    Figure("drain.2x1", "drain of `true`, --count 2, of the bare spawn loops", RATIO, _least(0.70)),
    Figure("drain.2x4", "the same, --count 2 --slots 4", RATIO, _least(0.85)),
    Figure("drain.2x4.durable", "--count 2 --slots 4, settles durable, too", RATIO, _least(0.55)),
    Figure("slots.rate", "50 slots of `sleep 1` on 2 processes", "jobs/s", _least(48)),
    Figure("slots.cpu", "CPU of that pool, of one core", "%", _most(10)),
]
_PICKUP = [
    Figure("pickup.p50", "pick-up, p50, of a bare spawn", RATIO, _most(1.4)),
    Figure("pickup.p95", "pick-up, p95, of a bare spawn", RATIO),
    Figure("pickup.p99", "pick-up, p99, of a bare spawn", RATIO, _most(2.0)),
    Figure("pickup.enqueue", "of it the enqueue, until it returns, p50", "ms"),
]
_IDLE = [
    Figure("idle.cpu", "CPU of an idle pool of 4 with its supervisor and maintenance process", "s/min", _most(0.05)),
    Figure("idle.pss", "PSS of that pool", "MiB", _most(50)),
    Figure("idle.pss.used", "PSS of that pool after its first jobs", "MiB"),
]
_ENQUEUE = [
    Figure("enqueue.one", "enqueue one at a time, of bare durable INSERT", RATIO, _least(0.75)),
    Figure("enqueue.one.bound", "its bound: bare INSERTs of job and audit line, of bare INSERT", RATIO),
    Figure("enqueue.many", "enqueue --file of 100k, of executemany", RATIO, _least(0.30)),
    Figure("enqueue.many.whole", "the same with the start of the process", RATIO),
]
_GROWTH = [
    *(
        Figure(f"growth.{kind}.{size}", f"claim + settle beside {rows} {kind} jobs, of 1k", RATIO, _most(1.3))
        for kind in ("finished", "pending", "scheduled")
        for size, rows in (("many", "1M"), ("most", "10M"))
    ),
    *(
        Figure(f"claim.{kind}", f"a claim with 1M {what}, of an empty table", RATIO, _most(most))
        for kind, what, most in (
            ("scheduled", "scheduled ahead at high priority", 1.5),
            ("paused", "pending in a paused queue", 1.5),
            ("unserved", "pending in a queue that is not served", 1.5),
            ("limited", "pending and limited", 1.1),
            ("blocked", "blocked ahead at high priority", 1.1),
        )
    ),
]
_CONSOLE = [
    Figure("console.slowest", "console, p95 of the slowest page at 1M jobs", "ms", _most(50)),
    *(
        Figure(f"console.{page}", f"{what}, p95 at 1M jobs, of 1k", RATIO, _most(1.5))
        for page, what in (
            ("list", "the list"),
            *((state, f"the list of {state} jobs") for state in STATES),
            ("search", "a search"),
            ("overview", "the overview"),
            ("runs", "the overview, run times of a week by queue"),
            ("letters", "dead letters"),
            ("group", "a group of dead letters"),
            ("queues", "the queues"),
            ("queue", "a queue's page"),
            ("command", "a command's page"),
            ("limits", "the limits"),
            ("batches", "the batches"),
            ("job", "a job's page"),
        )
    ),
]
BESIDE = ", of procrastinate"
_POSTGRESQL = [
    *(
        Figure(
            f"postgresql.{key}.{count}.{form}{tail}", f"PostgreSQL: {what}, {said.format(count)}{BESIDE}", RATIO, goal
        )
        for key, tail, what, goal in (
            ("drain", "", "drain of `true`", _least(1)),
            ("pickup", ".p50", "pick-up, p50", _most(1)),
            ("pickup", ".p99", "pick-up, p99", _most(1)),
        )
        for count in (2, 8, 32)
        for form, said in (("processes", "{} processes"), ("slots", "one process of {} slots"))
    ),
    Figure("postgresql.enqueue.one", f"PostgreSQL: enqueue one at a time{BESIDE}", RATIO, _least(1)),
    Figure("postgresql.enqueue.many", f"PostgreSQL: enqueue of 10,000 by one call{BESIDE}", RATIO, _least(1)),
    *(
        Figure(f"postgresql.{key}.{size}", f"PostgreSQL: {what.format(rows)}{BESIDE}", RATIO, _most(1))
        for size, rows in (("many", "1M"), ("most", "10M"))
        for key, what in (
            ("claim", "a claim beside {} rows"),
            ("turn", "claim + settle beside {} rows"),
        )
    ),
    Figure("postgresql.bytes", f"PostgreSQL: table size a finished job, indexes and attempt{BESIDE}", RATIO, _most(1)),
    Figure("postgresql.reader.dead", f"PostgreSQL: dead rows a job, under an open snapshot{BESIDE}", RATIO, _most(1)),
    Figure("postgresql.reader.size", f"PostgreSQL: table size a job, under an open snapshot{BESIDE}", RATIO, _most(1)),
    Figure("postgresql.reader.last", f"PostgreSQL: the last claims + settles under it{BESIDE}", RATIO, _most(1)),
]
_SCHEDULES = [
    Figure("schedules.cpu", "CPU of the maintenance process, 10k schedules, 100 fires a minute", "%", _most(2)),
    Figure("schedules.start.p50", "from due to the command's first moment, p50", "ms"),
    Figure("schedules.start.p99", "from due to the command's first moment, p99", "ms", _most(1000)),
    Figure("schedules.burst", "5,000 fires due in the same second, all decided", "s", _most(5)),
    Figure("schedules.lock.p50", "of it the write lock, held by one transaction, p50", "ms"),
    Figure("schedules.lock.longest", "the same, the longest", "ms", _most(50)),
]
_REST = [
    Figure("submit.alone", "submit form, 303 received, one client, p50", "ms", _most(15)),
    Figure("submit.crowd", "submit form, 16 clients beside 2 working workers", "jobs/s", _least(300)),
    Figure("cli.enqueue", "`manage.py enqueue`, of a bare Python's durable INSERT", RATIO, _most(5)),
    Figure("cli.import", "`import flask_sqlalchemy` alone, of the same", RATIO),
    Figure("start.cold", "`up` on a fresh home, until the console answers", "s"),
    Figure("start.warm", "`up` again", "s"),
    Figure("start.memory", "RSS of the console", "MiB"),
]
FIGURES = {
    figure.key: figure
    for group in (_DRAIN, _PICKUP, _IDLE, _ENQUEUE, _GROWTH, _CONSOLE, _POSTGRESQL, _SCHEDULES, _REST)
    for figure in group
}
