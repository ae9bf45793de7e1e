"""Connections to PostgreSQL: their settings, and messages about a server that blocks."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any, Callable

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError

from tests.factories import change_job, make_job
from tests.worker_connection import worker_connection
from webapp.config import Config
from webapp.core.job_spec import JobSpec
from webapp.core.storage import postgresql
from webapp.core.storage.locks import Busy
from webapp.db import engines as db
from webapp.db.application import create_core
from webapp.db.engines import reading, writing
from webapp.db.models import Job
from webapp.jobs import actions
from webapp.jobs.settings import bump_revision

pytestmark = [pytest.mark.only("postgresql"), pytest.mark.postgresql]


def test_the_server_ends_a_silent_transaction_and_frees_its_rows(
    config: Config, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setattr(postgresql, "IDLE_TRANSACTION_SECONDS", 1)
    with create_core(config, migrate=False).app_context():
        job = make_job("pending")
        silent = db.write_engine().connect()
        silent.execute(select(Job.seq).where(Job.id == job.id).with_for_update())

        def is_free() -> bool:
            with reading() as session:
                waiting = text("SELECT count(*) FROM pg_stat_activity WHERE state = 'idle in transaction'"
                               " AND datname = current_database()")  # fmt: skip
                return bool(session.execute(waiting).scalar_one() == 0)

        eventually(is_free)
        change_job(job.id, priority=7)
        with pytest.raises(DBAPIError):
            silent.execute(text("SELECT 1"))
        silent.invalidate()
        silent.close()
        db.disconnect()


def test_a_short_timeout_reports_a_locked_row_as_busy(app: Flask) -> None:
    job = make_job("pending")
    with db.write_engine().begin() as holder:
        holder.execute(select(Job.seq).where(Job.id == job.id).with_for_update())
        with pytest.raises(Busy), writing(0.2) as session:
            session.execute(select(Job.seq).where(Job.id == job.id).with_for_update())


def test_jobs_for_a_new_queue_do_not_block_changes_of_settings(app: Flask) -> None:
    heard = []

    def stored(number: int) -> None:
        with writing(0.5) as session:
            bump_revision(session)
        heard.append(number)

    actions.enqueue([JobSpec(command="true", queue="new", requires=("gpu",))] * 30, "person:ana", stored=stored)
    assert heard == [30]


def test_a_page_sees_one_snapshot_despite_later_commits(app: Flask) -> None:
    with reading() as session:
        count = text("SELECT count(*) FROM jobs")
        assert session.execute(count).scalar_one() == 0
        make_job("pending")
        assert session.execute(count).scalar_one() == 0
    with reading() as session:
        assert session.execute(count).scalar_one() == 1


@pytest.mark.parametrize("role", ["read", "worker"])
def test_jit_and_sequential_scans_are_off_for_pages_and_workers(config: Config, role: str) -> None:
    """With scans disabled, PostgreSQL up to 17 would use JIT for every query without an index."""
    with closing(postgresql.connect(config, role)) as connection:
        assert connection.execute("SHOW jit").fetchone() == ("off",)
        assert connection.execute("SHOW enable_seqscan").fetchone() == ("off",)


def test_a_reader_cannot_write(app: Flask) -> None:
    with pytest.raises(DBAPIError, match="read-only transaction"), reading() as session:
        session.execute(text("UPDATE control SET pulse = 1"))


@pytest.mark.parametrize("table", ["jobs", "output_chunks", "workers", "supervisors", "control"])
def test_tables_with_many_dead_rows_are_vacuumed_more_often_than_by_default(app: Flask, table: str) -> None:
    with reading() as session:
        options = session.execute(text("SELECT reloptions FROM pg_class WHERE relname = :name"), {"name": table})
        found = dict(option.split("=") for option in options.scalar_one())
    assert int(found["autovacuum_vacuum_threshold"]) <= 5000
    assert float(found["autovacuum_vacuum_scale_factor"]) <= 0.01


@pytest.mark.parametrize("code", ["55P03", "40P01"])
def test_a_failed_lock_is_reported_as_busy(app: Flask, code: str) -> None:
    """A lock timeout, or a deadlock."""
    with pytest.raises(Busy), writing() as session:
        session.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{code}'; END $$"))


def test_limits_in_the_url_take_precedence(app: Flask, config: Config) -> None:
    url = make_url(config.database_url or "").update_query_dict({"tcp_user_timeout": "1000"})
    address = url.render_as_string(hide_password=False)
    with closing(postgresql.connect(replace(config, database_url=address), "worker")) as connection:
        given = connection.info.get_parameters()
    assert given["tcp_user_timeout"] == "1000"
    assert given["keepalives_idle"] == "10"


def test_a_claim_and_an_enqueue_wait_for_no_common_row(app: Flask) -> None:
    """Both transactions are open at once, and neither waits."""
    from webapp.core import job_spec
    from webapp.core.labels import LabelSet
    from webapp.core.settings import Settings
    from webapp.jobs import actions
    from worker.loop.claims import Claims

    make_job("pending", id="first")
    connection = worker_connection()
    with Claims(connection, "w1") as turn:
        turn.read_state()
        [claim] = turn.claim([LabelSet("default")], 1, Settings())
        assert actions.enqueue([job_spec.parse({"command": "true"})], "person:test")
        assert claim.id == "first"
    connection.close()
