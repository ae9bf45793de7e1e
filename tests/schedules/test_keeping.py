"""Retention of the ledger, and schedules in a restored backup."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from sqlalchemy import func, insert, select

from tests.commands.conftest import ENTRY
from webapp.core.settings import Settings
from webapp.core.storage import sqlite
from webapp.db.engines import reading, writing
from webapp.db.models import Fire
from webapp.lib import clock
from webapp.schedules import actions, spec, views
from worker.maintenance.retention import Retention


def add(name: str = "nightly", **fields: object) -> None:
    actions.add(spec.parse({"name": name, "cron": "30 2 * * *", "job": {"command": "true"}, **fields}), "person:ana")


@pytest.mark.postgresql
def test_old_fires_are_deleted_by_their_own_setting(app: object) -> None:
    add()
    with reading() as session:
        schedule_id = views.find(session, "nightly").id
    now = clock.now()
    row = {"schedule_id": schedule_id, "outcome": "skipped", "reason": "paused", "job_id": None}
    ages = [*range(100, 100 + 600), 1]
    with writing() as session:
        session.execute(insert(Fire), [{**row, "due_at": n, "decided_at": now - n * clock.DAY} for n in ages])
    retention = Retention(1.0)
    while retention.resume(Settings({"keep_fires": "90"})):
        pass
    with reading() as session:
        assert session.scalars(select(Fire.due_at)).all() == [1]
    while retention.resume(Settings({"keep_fires": "0"})):
        pass
    with reading() as session:
        assert session.scalar(select(func.count()).select_from(Fire)) == 1


@pytest.mark.full
@pytest.mark.only("sqlite")
def test_a_restored_schedule_skips_what_was_due(home: Path) -> None:
    """In processes of their own, because a restore is refused while a process uses the queue."""

    def run(*argv: str) -> str:
        done = subprocess.run([sys.executable, str(ENTRY), *argv], capture_output=True, text=True, check=True)
        return done.stdout

    run("schedule", "add", "nightly", "--cron", "30 2 * * *", "--command", "true")
    run("db", "backup", str(home / "copy.db"))
    before = clock.now()
    run("db", "restore", str(home / "copy.db"), "--run")
    with closing(sqlite.library.connect(str(home / "queue.db"))) as connection:
        (row,) = connection.execute("SELECT paused_by, paused_until FROM schedules").fetchall()
    assert row[0] == "rule:restore"
    assert before < row[1] <= clock.now() + 1
    assert '"enabled": true' in run("schedule", "show", "nightly", "--json")
