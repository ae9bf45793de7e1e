"""Migrations: they produce the models, concurrent starts are safe, a newer schema is refused."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.orm import Session

from tests.deadline import DEADLINE
from tests.factories import change_job, make_attempt, make_job
from webapp.config import CHECKOUT, Config, ConfigError
from webapp.core.storage import schema
from webapp.core.storage.database import Database
from webapp.core.storage.sqlite import library as sqlite
from webapp.core.storage.transaction import Connection
from webapp.db import engines as db
from webapp.db import failure_keys, migrations, models
from webapp.db.application import create_core
from webapp.lib import clock
from webapp.lib.error_key import error_key, old_error_keys
from worker.maintenance import chores

pytestmark = pytest.mark.postgresql

# Each goes back behind one migration, and behind all later ones.
BEFORE_HALF_HOURS = ("ALTER TABLE command_hours DROP COLUMN durations", "DROP INDEX ix_events_changes")
BEFORE_EDITS = (
    *BEFORE_HALF_HOURS,
    "ALTER TABLE jobs DROP COLUMN prior_fields",
    "ALTER TABLE attempts DROP COLUMN output_times",
    "ALTER TABLE output_chunks DROP COLUMN times",
)
BEFORE_CAUSES = (
    *BEFORE_EDITS,
    "DROP TABLE group_actions",
    "DROP INDEX ix_failure_groups_last_at",
    *(f"ALTER TABLE failure_groups DROP COLUMN {name}" for name in ("first_at", "last_at", "deaths")),
    *(f"ALTER TABLE failure_groups DROP COLUMN {name}" for name in ("error", "merged_into")),
    *(f"ALTER TABLE acts DROP COLUMN {name}" for name in ("canary_count", "canary_rule")),
)
# SQLite drops a column only if no index names it. The CHECK of the state stays as it is.
BEFORE_FLOW = (
    *BEFORE_CAUSES,
    *(f"DROP TABLE {name}" for name in ("batch_callbacks", "batches", "dependencies", "limit_starts", "limits")),
    "DROP TABLE reports",
    *(f"DROP INDEX ix_jobs_{name}" for name in ("limited", "limited_first", "unique", "followed", "blocked")),
    *(f"DROP INDEX ix_jobs_{name}" for name in ("batch_state", "claim", "first", "lone", "unique_key")),
    *(f"ALTER TABLE jobs DROP COLUMN {name}" for name in ("limits", "unique_key", "unique_while", "unique_until")),
    *(f"ALTER TABLE jobs DROP COLUMN {name}" for name in ("followed", "retry")),
    "ALTER TABLE queues DROP COLUMN retry",
    *(f"ALTER TABLE {name} DROP COLUMN queue_order" for name in ("workers", "supervisors")),
    "CREATE INDEX ix_jobs_claim ON jobs (queue, requires) WHERE state = 'pending'",
    "CREATE INDEX ix_jobs_first ON jobs (priority) WHERE state = 'pending'",
    "CREATE INDEX ix_jobs_lone ON jobs (priority) WHERE state = 'pending'",
)
BEFORE_SCHEDULES = (
    *BEFORE_FLOW,
    *(f"DROP TABLE {name}" for name in ("job_watches", "deliveries", "alerts", "notices")),
    *(f"DROP TABLE {name}" for name in ("notification_rules", "channels")),
    "DROP INDEX ix_jobs_system",
    "DROP TABLE fires",
    "DROP TABLE schedules",
    "DROP INDEX ix_jobs_schedule",
    "DROP INDEX ix_jobs_scheduled",
    "ALTER TABLE jobs DROP COLUMN schedule",
)


@pytest.fixture
def migrated() -> bool:
    """An empty database, because the tests here check its migration."""
    return False


def test_head_names_the_newest_revision() -> None:
    scripts = ScriptDirectory(str(Path(migrations.__file__).parent))
    assert scripts.get_current_head() == schema.HEAD


@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
def test_the_migrations_produce_the_models(app: Flask) -> None:
    models.load_all()
    with db.read_engine().connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})
        differences = compare_metadata(context, models.Job.metadata)
    if db.is_sqlite():  # SQLite cannot compare an index with DESC; PostgreSQL checks it for both
        differences = [
            one
            for one in differences
            if getattr(one[1], "name", "")
            not in {"ix_jobs_claim", "ix_jobs_first", "ix_jobs_lone", "ix_jobs_limited", "ix_jobs_limited_first"}
        ]
    assert differences == []


def test_batches_of_old_jobs_are_filled_in(app: Flask, config: Config) -> None:
    digest = "0123456789abcdef" * 2
    keys: dict[Optional[str], Optional[str]] = {
        digest: None,
        f"{digest}x12": f"{digest}x12",
        f"{digest}x12.3": f"{digest}x12",
        "api:1:" + digest[:24]: None,
        "api:123456789:" + digest[:24] + ".1": None,
    }
    for key in keys:
        make_job(form_key=key)
    make_job()
    with db.writing() as session:
        for statement in (
            *BEFORE_SCHEDULES,
            "DROP INDEX ix_jobs_first",
            "DROP INDEX ix_jobs_batch",
            "ALTER TABLE jobs DROP COLUMN batch",
            "ALTER TABLE queues DROP COLUMN removed_at",
            "DROP TABLE retention_marks",
            "UPDATE alembic_version SET version_num = '0004'",
            *([] if db.is_sqlite() else ["DROP FUNCTION audit_loses_old_lines_only CASCADE"]),  # of schema 0006
        ):
            session.execute(text(statement))
    migrations.ensure_current(config)
    with db.reading() as session:
        found = dict(session.execute(select(models.Job.form_key, models.Job.batch)).tuples().all())
    assert found == {**keys, None: None}


def test_an_upgrade_copies_the_old_database_and_tells_running_workers(app: Flask, config: Config) -> None:
    with db.writing() as session:
        for statement in (*BEFORE_SCHEDULES, "UPDATE alembic_version SET version_num = '0009'"):
            session.execute(text(statement))
        before = session.execute(text("SELECT revision FROM control")).scalar_one()
    migrations.ensure_current(config)
    with db.reading() as session:
        assert session.execute(text("SELECT revision FROM control")).scalar_one() > before
    if config.is_sqlite:
        copy = config.sqlite_path.with_name(f"queue.db.before-{schema.HEAD}")
        with closing(sqlite.connect(str(copy))) as connection:
            assert connection.execute(schema.REVISION).fetchone() == ("0009",)


def test_dead_letters_without_a_group_get_the_group_of_new_failures(
    app: Flask, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "working directory /gone does not exist"
    for number, name in enumerate(("last", "middle", "first")):
        job = make_job("dead", id=name, error_key=None, last_error=error, finished_at=10 - number)
        make_attempt(job, 1, reason="cwd", error=error, error_key=None)
    make_job("dead", id="of a group")
    make_job("completed", id="completed", error_key=None)
    _go_back_to("0008", "DROP TABLE retention_marks", *BEFORE_SCHEDULES)
    monkeypatch.setattr(failure_keys, "FIRST", 2)
    migrations.ensure_current(config)
    new = error_key(error, "echo hello")
    keys: dict[str, Optional[str]] = {"last": new, "middle": new, "first": None, "of a group": "exit:1"}
    assert _error_keys() == {**keys, "completed": None}  # bounded, because it holds the write lock
    while chores.Chores(config, retains=False).do_some():
        pass
    assert _error_keys() == {**keys, "completed": None, "first": new}


def test_groups_of_earlier_versions_become_parts_of_their_cause(
    app: Flask, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = "exit code 3: no route to host"
    commands = {"a": "curl a", "b": "curl b", "c": "wget c", "d": "sync d"}
    olds = {name: old_error_keys(error, command)[0] for name, command in commands.items()}
    new = error_key(error, "any")
    for name, command in commands.items():
        job = make_job("dead", id=name, command=command, last_error=error, error_key=olds[name])
        make_attempt(job, 1, error=error, error_key=olds[name])
    change_job("d", state="completed")  # its group is empty, and has an alert
    _go_back_to("0012", *BEFORE_CAUSES)
    with db.writing() as session:
        for at, (name, owner) in enumerate({"a": "ana", "b": "ben"}.items()):
            said = {"key": olds[name], "note": f"ask {owner}", "owner": owner, "acknowledged_at": 1}
            _insert(session, "failure_groups", **said, changed_at=at, changed_by="person:ana")
        stamps = {"created_at": 1, "created_by": "", "changed_at": 1, "changed_by": ""}
        _insert(session, "channels", id=1, name="c", kind="mail", target="{}", hourly_cap=1, **stamps)
        _insert(session, "notification_rules", id=1, name="r", channel_id=1, events=",job-dead,", spec="{}", **stamps)
        told = {"rule_id": 1, "event": "job-dead", "told": 1, "told_count": 1, "flapping": 0, "count": 1}
        for name in ("a", "b", "d"):
            seq = session.scalar(select(models.Job.seq).where(models.Job.id == name))
            _insert(session, "alerts", **told, key=f"group:{olds[name]}", opened_at=1, last_at=1, job_seq=seq)
        named = json.dumps({"state": "dead", "group": olds["c"]})
        places = {"highest_seq": 9, "cursor_seq": 0, "created_at": 1, "lease_until": 1, "moved": 0, "skipped": 0}
        _insert(session, "acts", verb="requeue", filter=named, actor="person:ana", state="waiting", **places)
    migrations.ensure_current(config)
    keys = {name: key for name, key in _error_keys().items() if name != "d"}
    assert keys == {"a": new, "b": new, "c": olds["c"]}  # an action waits for c
    with db.writing() as session:
        session.execute(text("UPDATE acts SET state = 'done'"))
    while chores.Chores(config, retains=False).do_some():
        pass
    assert _error_keys()["c"] == new
    with db.reading() as session:
        group = session.get_one(models.Group, new)
        assert sorted(group.note.split("\n\n"))[1:] == ["ask ana", "ask ben"]
        assert "Owner of a part of this group" in group.note
        assert {session.get_one(models.Group, olds[name]).merged_into for name in ("a", "b", "c", "d")} == {new}
        assert (group.acknowledged_at, group.deaths, group.error) == (None, 0, error)
        alerts = session.execute(text("SELECT key, closed_at IS NULL FROM alerts ORDER BY 2")).all()
    assert [(key, bool(is_open)) for key, is_open in alerts] == [(f"group:{new}", False)] * 2 + [(f"group:{new}", True)]


def _insert(session: Session, table: str, **values: Any) -> None:
    """With the columns of the old schema."""
    parameters = ", ".join(f":{name}" for name in values)
    session.execute(text(f"INSERT INTO {table} ({', '.join(values)}) VALUES ({parameters})"), values)


def _go_back_to(revision: str, *statements: str) -> None:
    with db.writing() as session:
        for statement in (*statements, f"UPDATE alembic_version SET version_num = '{revision}'"):
            session.execute(text(statement))


def test_the_half_hours_of_queues_are_summed_up_from_their_minutes(app: Flask, config: Config) -> None:
    half, minute = 1800 * clock.SECOND, 60 * clock.SECOND
    start = clock.now() // half * half - 4 * half
    sums = {"failed": 1, "dead": 0, "lost": 2, "waits": '{"3":2}', "runs": '{"3":1,"9":1}'}
    with db.writing() as session:
        session.add(models.CommandHour(at=start, shape="true", runs=1, failures=0, run_time=5))
        for at, queue in ((start, "mail"), (start + 29 * minute, "mail"), (start + 30 * minute, "mail"), (start, "*1")):
            session.add(models.Minute(at=at, queue=queue, completed=3, **sums))
    with db.writing() as session:
        for statement in (*BEFORE_HALF_HOURS, "UPDATE alembic_version SET version_num = '0014'"):
            session.execute(text(statement))
    migrations.ensure_current(config)
    with db.reading() as session:
        rows = session.execute(select(models.Minute).where(models.Minute.queue.like("*30 %"))).scalars()
        found = {(row.at, row.queue): (row.completed, row.lost, row.waits, row.runs) for row in rows}
        assert session.scalars(select(models.CommandHour.durations)).one() == "{}"
    assert found == {
        (start, "*30 mail"): (6, 4, '{"3":4}', '{"3":2,"9":2}'),
        (start + half, "*30 mail"): (3, 2, '{"3":2}', '{"3":1,"9":1}'),
    }


def _error_keys() -> dict[str, Optional[str]]:
    with db.reading() as session:
        return dict(session.execute(select(models.Job.id, models.Job.error_key)).tuples().all())


def test_both_claim_indexes_exist(app: Flask) -> None:
    statement = (
        "SELECT sql FROM sqlite_master WHERE name = 'ix_jobs_claim'"
        if db.is_sqlite()
        else "SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_jobs_claim'"
    )
    with db.read_engine().connect() as connection:
        sql = connection.execute(text(statement)).scalar_one()
    assert "queue, requires, limits, priority DESC, run_at, seq" in sql
    assert "pending" in sql


@pytest.mark.parametrize("count", [3, pytest.param(8, marks=pytest.mark.full)])
def test_processes_started_at_once_create_one_database(config: Config, count: int) -> None:
    code = "import sys; sys.path.insert(0, sys.argv[1]); from webapp.db.application import create_core; create_core()"
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(CHECKOUT)], stderr=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    errors = [process.communicate(timeout=DEADLINE)[1] for process in started]
    assert [process.returncode for process in started] == [0] * count, errors
    app = create_core(config)
    with app.app_context(), db.read_engine().connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM control")).scalar_one() == 1


def test_a_database_of_a_newer_version_is_refused_and_left_alone(app: Flask, config: Config) -> None:
    with db.writing() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(ConfigError, match="schema 9999, made by a newer queuectl"):
        create_core(config)


def test_a_file_that_is_no_database_is_refused_and_left_alone(home: Path) -> None:
    home.mkdir()
    (home / "queue.db").write_bytes(b"these are somebody's notes" * 200)
    with pytest.raises(ConfigError, match="file is not a database"):
        create_core(Config(home=home, database_url=None, public_url=None))
    assert (home / "queue.db").read_bytes() == b"these are somebody's notes" * 200


def test_the_home_and_its_files_are_private(sqlite_app: Flask, home: Path) -> None:
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    modes = {entry.name: stat.S_IMODE(entry.stat().st_mode) for entry in os.scandir(home)}
    assert {"queue.db", "queue.lock"} <= modes.keys()
    assert set(modes.values()) == {0o600}


def test_sqlite_is_configured_for_many_processes(sqlite_app: Flask) -> None:
    def pragma(role: str, name: str) -> object:
        with closing(Connection(Database(db.database().config, role))) as connection:
            return connection.scalar(f"PRAGMA {name}")

    assert pragma("write", "journal_mode") == "wal"
    assert pragma("write", "auto_vacuum") == 2
    assert pragma("write", "synchronous") == 2
    assert pragma("worker", "synchronous") == 1
    assert pragma("read", "query_only") == 1
    assert pragma("write", "foreign_keys") == 1


def test_a_reader_cannot_write(app: Flask) -> None:
    from sqlalchemy.exc import DBAPIError

    with pytest.raises(DBAPIError, match=r"readonly|read-only"), db.reading() as session:
        session.execute(text("UPDATE control SET revision = 99"))


def test_a_failed_write_leaves_nothing(app: Flask) -> None:
    def write_and_raise() -> None:
        with db.writing() as session:
            session.execute(text("WITH one AS (SELECT 99 AS r) UPDATE control SET revision = (SELECT r FROM one)"))
            raise LookupError

    with pytest.raises(LookupError):
        write_and_raise()
    with db.reading() as session:
        assert session.execute(text("SELECT revision FROM control")).scalar() != 99
