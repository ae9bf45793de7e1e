"""The figures for Prometheus: what they say, and that they read little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from flask import Flask
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import event, text

from tests.factories import make_attempt, make_job, make_jobs, make_worker
from webapp.config import Config
from webapp.core.notices import SYSTEM_QUEUE
from webapp.db import engines
from webapp.insight import job_counts, rollups
from webapp.lib import clock
from webapp.lib.version import __version__
from webapp.web import metrics

Figures = Mapping[str, float]


def read(**more: Any) -> Figures:
    """The samples, by name and labels as in the text."""
    written, _ = metrics.exposition(job_counts.count(), **more)
    return samples(written.decode())


def samples(written: str) -> Figures:
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(written):
        for one in family.samples:
            labels = ",".join(f'{name}="{value}"' for name, value in sorted(one.labels.items()))
            found[f"{one.name}{{{labels}}}" if labels else one.name] = one.value
    return found


@pytest.mark.usefixtures("app")
def test_an_empty_queue_has_all_counters_at_zero() -> None:
    found = read(requests={"2xx": 3, "5xx": 0})
    zero = ('queuectl_attempts_total{result="failed"}', "queuectl_dead_jobs_total", "queuectl_run_seconds_count",
            "queuectl_oldest_pending_seconds", 'queuectl_workers{state="running"}', "queuectl_slots_used",
            'queuectl_schedules_with_problem{problem="late"}')  # fmt: skip
    assert [found[name] for name in zero] == [0.0] * len(zero)
    assert found['queuectl_http_requests_total{status="2xx"}'] == 3
    assert [name for name in found if name.startswith("queuectl_jobs{")] == []


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_jobs_are_counted_by_state_and_queue_and_the_oldest_is_as_old_as_its_wait() -> None:
    now = clock.now()
    make_jobs([{"queue": "mail", "run_at": now - clock.seconds(90), "priority": 3}, {"queue": "mail"}])
    make_job("dead", queue="media")
    make_job(queue=SYSTEM_QUEUE, run_at=now - clock.seconds(4000))
    make_job(queue=SYSTEM_QUEUE, run_at=now - clock.seconds(4000), losses=1)
    found = read()
    assert found['queuectl_jobs{queue="mail",state="pending"}'] == 2
    assert found['queuectl_jobs{queue="media",state="dead"}'] == 1
    assert found['queuectl_jobs{queue="media",state="pending"}'] == 0
    assert not any(SYSTEM_QUEUE in name for name in found)
    assert 90 <= found["queuectl_oldest_pending_seconds"] < 4000
    assert found["queuectl_jobs_counted_timestamp_seconds"] == pytest.approx(now / clock.SECOND, abs=100)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_counters_and_histograms_are_those_of_the_roll_ups() -> None:
    now = clock.now()
    for state, seconds in (("completed", 0.0005), ("completed", 2), ("failed", 40), ("lost", 5), ("cancelled", 1)):
        ended = now - 2 * rollups.FOLD_DELAY
        started = ended - clock.seconds(seconds)
        job = make_job("dead" if state == "failed" else "completed")
        make_attempt(job, 1, state, due_at=started - clock.seconds(20), started_at=started, finished_at=ended)
    assert read()['queuectl_attempts_total{result="completed"}'] == 0, "not folded yet"
    rollups.fold()
    found = read()
    results = {
        result: found[f'queuectl_attempts_total{{result="{result}"}}'] for result in ("completed", "failed", "lost")
    }
    assert results == {"completed": 2, "failed": 1, "lost": 1}
    assert found["queuectl_dead_jobs_total"] == 1
    buckets = [
        found[f'queuectl_run_seconds_bucket{{le="{bound}"}}'] for bound in ("0.01", "1.0", "3.0", "60.0", "+Inf")
    ]
    assert buckets == [1, 1, 2, 3, 3]
    assert found["queuectl_run_seconds_sum"] == pytest.approx(42, rel=0.05)
    assert (found["queuectl_run_seconds_count"], found["queuectl_wait_seconds_count"]) == (3, 5)


@pytest.mark.usefixtures("app")
def test_workers_count_by_state_and_only_those_that_respond_have_slots() -> None:
    for requested in ("run", "run", "quiet", "stop"):
        make_worker(requested_state=requested, slots=4)
    make_worker(slots=100, seen_at=1)
    make_worker(state="stopped", slots=100)
    make_jobs([{"state": "processing"}, {"state": "processing", "queue": SYSTEM_QUEUE}])
    found = read()
    states = {
        name: found[f'queuectl_workers{{state="{name}"}}']
        for name in ("running", "draining", "stopping", "not_responding")
    }
    assert states == {"running": 2, "draining": 1, "stopping": 1, "not_responding": 1}
    assert (found["queuectl_slots"], found["queuectl_slots_used"]) == (16, 2)


@pytest.mark.postgresql
def test_sizes_are_those_of_the_files(app: Flask, config: Config) -> None:
    found = read()
    assert found["queuectl_database_bytes"] > 100_000
    assert found["queuectl_disk_free_bytes"] > 0
    assert ("queuectl_database_wal_bytes" in found) == config.is_sqlite
    kind = "sqlite" if config.is_sqlite else "postgresql"
    assert found[f'queuectl_build_info{{database="{kind}",version="{__version__}"}}'] == 1


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_a_scrape_sends_the_same_statements_for_any_number_of_jobs_and_scans_no_table_of_jobs() -> None:
    """What is not read by an index would take a second beside a million jobs."""
    few = _statements()
    make_jobs([{"state": state, "queue": f"q{number}"} for number in range(30) for state in ("pending", "dead")])
    make_worker()
    assert _statements() == few
    for statement, plan in few.items():
        bad = [line for line in plan if ("SCAN jobs" in line and "INDEX" not in line) or "Seq Scan on jobs" in line]
        assert bad == [], statement
        assert not any("TEMP B-TREE" in line for line in plan), statement
        assert "attempts" not in statement.replace("jobs.attempts", "")


def _statements() -> dict[str, list[str]]:
    """The statements of a scrape with their plans."""
    counts, plans = job_counts.count(), dict[str, list[str]]()
    explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN (COSTS OFF) "

    def see(connection: Any, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        if statement.startswith(("SELECT", "\nWITH", "WITH")) and statement not in plans:
            plans[statement] = []
            if not engines.is_sqlite():
                connection.execute(text("SET LOCAL enable_seqscan = off"))
            rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()
            plans[statement] = [str(row[-1]) for row in rows]

    event.listen(engines.read_engine(), "before_cursor_execute", see)
    try:
        metrics.exposition(counts)
    finally:
        event.remove(engines.read_engine(), "before_cursor_execute", see)
    assert len(plans) > 5
    return plans
