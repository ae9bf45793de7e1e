"""Figures of the queue in the format of Prometheus, for `/metrics` and `manage.py metrics`.

All are read at the scrape, in a few milliseconds for any number of jobs: numbers of jobs come from
`insight/job_counts.py`, counters and histograms from one row of the roll-ups. Jobs of SYSTEM_QUEUE are left out, but
occupy slots.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from typing import Optional

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from sqlalchemy import Row, func, select, text
from sqlalchemy.orm import Session

from webapp.config import Config
from webapp.core.states import STATES
from webapp.db import engines
from webapp.db.engines import reading
from webapp.db.models import Job, Minute, Worker
from webapp.insight import rollups
from webapp.insight.job_counts import JobCounts
from webapp.insight.rollups import TOTAL, Sum
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.jobs.worker_actions import RUNNING
from webapp.lib import clock, histograms
from webapp.lib.histograms import Histogram
from webapp.lib.version import __version__
from webapp.schedules import views as schedules

# Upper bounds in seconds. The roll-ups are accurate to 5 %, so a time close to a bound may count on its other side.
BOUNDS = (0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60, 180, 600, 1800, 3600, 10800, 43200, 86400)
WORKER_STATES = {"run": "running", "quiet": "draining", "stop": "stopping"}  # by what was requested
LOST = "not_responding"  # its heartbeat is late
_PREFIX = "queuectl_"


def exposition(
    counts: Optional[JobCounts], *, requests: Optional[Mapping[str, int]] = None, accept: str = ""
) -> tuple[bytes, str]:
    """The figures in the format that the header Accept prefers, and its content type.

    Args:
        counts: None: jobs have not been counted yet.
        requests: answered requests by class of status; None: this process serves none.

    Needs an application context. Raises DBAPIError.
    """
    encode, content_type = choose_encoder(accept)
    registry = CollectorRegistry()
    registry.register(_Figures(counts, requests))
    return encode(registry), content_type


class _Figures(Collector):
    def __init__(self, counts: Optional[JobCounts], requests: Optional[Mapping[str, int]]) -> None:
        self._counts = counts
        self._requests = requests

    def describe(self) -> list[Metric]:
        """Nothing: the registry would collect once more to find the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        database = engines.database()
        info = {"version": __version__, "database": "sqlite" if database.is_sqlite else "postgresql"}
        yield InfoMetricFamily(_PREFIX + "build", "The version of queuectl and the kind of its database.", info)
        with reading() as session:
            yield from _jobs(session, self._counts)
            yield from _attempts(_total(session))
            yield from _workers(session)
            yield from _schedules(session)
            yield from _storage(session, database.config)
        if self._requests is not None:
            yield _by_label(
                CounterMetricFamily(
                    _PREFIX + "http_requests",
                    "Requests by class of status, without health checks, since the console started.",
                    labels=["status"],
                ),
                self._requests,
            )


def _jobs(session: Session, counts: Optional[JobCounts]) -> Iterator[Metric]:
    if counts is not None:
        jobs = GaugeMetricFamily(
            _PREFIX + "jobs",
            "Jobs by state, of the largest queues and of all others together.",
            labels=["state", "queue"],
        )
        for queue, numbers in counts.queues.items():
            for state in STATES:
                jobs.add_metric([state, queue], numbers[state])
        yield jobs
        yield _gauge(
            "jobs_counted_timestamp_seconds", "When the jobs were counted, as Unix time.", counts.at / clock.SECOND
        )
    waited = queries.waited(queries.oldest_pending(session), clock.now())
    yield _gauge(
        "oldest_pending_seconds", "How long the oldest pending job has been due; 0 if none is pending.", waited or 0.0
    )


def _total(session: Session) -> Sum:
    """All attempts that were folded into the roll-ups."""
    row = session.scalar(select(Minute).where(Minute.at == TOTAL[0], Minute.queue == TOTAL[1]))
    return Sum() if row is None else rollups.sum_of(row)


def _attempts(total: Sum) -> Iterator[Metric]:
    yield _by_label(
        CounterMetricFamily(
            _PREFIX + "attempts",
            "Ended attempts by result. Cancelled and released ones are left out.",
            labels=["result"],
        ),
        {"completed": total.completed, "failed": total.failed, "lost": total.lost},
    )
    yield CounterMetricFamily(_PREFIX + "dead_jobs", "Jobs that moved to the dead letters.", value=total.dead)
    yield _histogram("wait_seconds", "From the time when an attempt was due to its start.", total.waits)
    yield _histogram("run_seconds", "Run time of attempts that completed or failed.", total.runs)


def _workers(session: Session) -> Iterator[Metric]:
    fresh = clock.now() - clock.seconds(settings.load(session).lease)
    columns = Worker.requested_state, Worker.seen_at, Worker.slots
    rows: list[Row[tuple[str, int, int]]] = list(session.execute(select(*columns).where(RUNNING)).all())
    states = dict.fromkeys([*WORKER_STATES.values(), LOST], 0)
    for row in rows:
        states[WORKER_STATES[row.requested_state] if row.seen_at >= fresh else LOST] += 1
    yield _by_label(GaugeMetricFamily(_PREFIX + "workers", "Worker processes by state.", labels=["state"]), states)
    slots = sum(row.slots for row in rows if row.seen_at >= fresh)
    yield _gauge("slots", "Jobs that the responding workers can run at the same time.", slots)
    used = session.scalar(select(func.count()).select_from(Job).where(in_state("processing"))) or 0
    yield _gauge("slots_used", "Running jobs, including jobs of queuectl itself.", used)


def _schedules(session: Session) -> Iterator[Metric]:
    number, problems = schedules.count_problems(session)
    yield _gauge("schedules", "Schedules.", number)
    about = "Schedules that are late, failing, broken, or whose job runs longer than usual."
    yield _by_label(GaugeMetricFamily(_PREFIX + "schedules_with_problem", about, labels=["problem"]), problems)


def _storage(session: Session, config: Config) -> Iterator[Metric]:
    path = config.sqlite_path if config.is_sqlite else config.home
    if config.is_sqlite:
        log = path.with_name(path.name + "-wal")
        size, wal = path.stat().st_size, log.stat().st_size if log.exists() else 0
        yield _gauge("database_wal_bytes", "Size of SQLite's write-ahead log.", wal)
    else:
        size = session.scalar(text("SELECT pg_database_size(current_database())")) or 0
    yield _gauge("database_bytes", "Size of the database's files, with free space in them.", size)
    free = shutil.disk_usage(path.parent if config.is_sqlite else path).free
    yield _gauge("disk_free_bytes", "Free space on the disk of the database file, or of QUEUECTL_HOME.", free)


def _gauge(name: str, about: str, value: float) -> Metric:
    return GaugeMetricFamily(_PREFIX + name, about, value=value)


def _by_label(family: GaugeMetricFamily | CounterMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _histogram(name: str, about: str, histogram: Histogram) -> Metric:
    """Cumulative buckets. The sum is made from the values of the buckets, so it is accurate to 5 % too."""
    times = [(histograms.seconds(number), count) for number, count in sorted(histogram.items())]
    bounds = [(str(float(bound)), bound) for bound in BOUNDS] + [("+Inf", float("inf"))]
    buckets = [(text_, float(sum(count for value, count in times if value <= bound))) for text_, bound in bounds]
    total = sum(value * count for value, count in times)
    return HistogramMetricFamily(_PREFIX + name, about, buckets=buckets, sum_value=total)
