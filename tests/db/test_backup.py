"""Backups: complete or absent, and restored only while no process uses the queue."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import select

from tests import flow_example
from tests.worker_connection import worker_connection
from webapp.config import CHECKOUT, Config
from webapp.core import job_spec
from webapp.db import backup, engines
from webapp.db.application import create_core
from webapp.db.backup import BackupError
from webapp.db.engines import reading
from webapp.db.models import Queue
from webapp.jobs import actions, job_detail, queue_actions


def enqueue(job_id: str) -> None:
    actions.enqueue([job_spec.parse({"id": job_id, "command": "true"})], "person:test")


def ids(config: Config) -> list[str]:
    app = create_core(config)
    with app.app_context(), reading() as session:
        from sqlalchemy import select

        from webapp.db.models import Job

        found = list(session.scalars(select(Job.id).order_by(Job.seq)))
    leave(app)
    return found


def leave(app: Flask) -> None:
    """Release the database, as an ended process does."""
    with app.app_context():
        engines.disconnect()
    os.close(app.extensions["queuectl_database"].in_use)


@pytest.fixture
def home_config(home: Path) -> Config:
    return Config(home=home, database_url=None, public_url=None)


def test_a_backup_of_a_busy_queue_is_complete_and_private(sqlite_app: Flask, home: Path, tmp_path: Path) -> None:
    config: Config = sqlite_app.extensions["queuectl_config"]
    stop = threading.Event()

    def go_on_working() -> None:
        with sqlite_app.app_context():
            while not stop.is_set():
                actions.enqueue([job_spec.parse({"command": "true"})] * 20, "person:test")

    worker = threading.Thread(target=go_on_working)
    worker.start()
    try:
        for number in range(5):
            assert backup.make(config, tmp_path / f"{number}.db") > 0
            backup.verify(tmp_path / f"{number}.db")
    finally:
        stop.set()
        worker.join()
    assert (tmp_path / "0.db").stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == [f"{number}.db" for number in range(5)]


def test_a_backup_replaces_no_file_unless_asked_and_never_the_database(
    sqlite_app: Flask, home: Path, tmp_path: Path
) -> None:
    config: Config = sqlite_app.extensions["queuectl_config"]
    (tmp_path / "notes").write_text("keep me")
    with pytest.raises(BackupError, match="notes exists"):
        backup.make(config, tmp_path / "notes")
    with pytest.raises(BackupError, match="is the database itself"):
        backup.make(config, home / "queue.db", replace=True)
    with pytest.raises(BackupError, match="does not exist"):
        backup.make(config, tmp_path / "no" / "folder")
    assert (tmp_path / "notes").read_text() == "keep me"


def test_a_restored_backup_becomes_the_database_and_the_old_one_is_kept(home_config: Config, tmp_path: Path) -> None:
    app = create_core(home_config)
    with app.app_context():
        enqueue("then")
        backup.make(home_config, tmp_path / "copy.db")
        enqueue("later")
    leave(app)
    aside, _ = backup.restore(home_config, tmp_path / "copy.db", "person:test")
    assert ids(home_config) == ["then"]
    old = Config(home=home_config.home, database_url=f"sqlite:///{aside}", public_url=None)
    assert ids(old) == ["then", "later"]


def test_a_restore_pauses_all_queues_except_removed_ones(home_config: Config, tmp_path: Path) -> None:
    app = create_core(home_config)
    with app.app_context():
        for name in ("mail", "old", "reports"):
            actions.enqueue([job_spec.parse({"command": "true", "queue": name, "id": name})], "person:test")
        actions.apply("cancel", ["old"], "person:test")
        queue_actions.remove_queue("old", "person:test")
        queue_actions.pause_queue("reports", "person:before")
        backup.make(home_config, tmp_path / "copy.db")
    leave(app)
    _, paused = backup.restore(home_config, tmp_path / "copy.db", "person:test")
    assert paused == ["default", "mail"]
    app = create_core(home_config)
    with app.app_context(), reading() as session:
        by = {row.name: row.paused_by for row in session.execute(select(Queue.name, Queue.paused_by))}
    leave(app)
    assert (by["mail"], by["reports"]) == ("person:test", "person:before")
    assert backup.restore(home_config, tmp_path / "copy.db", "person:test", run=True)[1] == []
    _sql(tmp_path / "copy.db", "ALTER TABLE queues DROP COLUMN removed_at")  # as in schema 0007
    assert backup.restore(home_config, tmp_path / "copy.db", "person:test")[1] == ["default", "mail", "old"]


def test_the_flow_of_jobs_goes_on_after_a_restore(home_config: Config, tmp_path: Path) -> None:
    app = create_core(home_config)
    with app.app_context():
        flow_example.submit()
        backup.make(home_config, tmp_path / "copy.db")
    leave(app)
    backup.restore(home_config, tmp_path / "copy.db", "person:test", run=True)
    app = create_core(home_config)
    with app.app_context():
        connection = worker_connection()
        flow_example.goes_on(connection)
        connection.close()
    leave(app)


def test_a_restored_database_uses_wal_and_is_private(home_config: Config, tmp_path: Path) -> None:
    app = create_core(home_config)
    backup.make(home_config, tmp_path / "copy.db")
    leave(app)
    backup.restore(home_config, tmp_path / "copy.db", "person:test")
    app = create_core(home_config)
    with app.app_context():
        enqueue("new")
        with engines.write_engine().connect() as connection:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        with reading() as session:
            assert job_detail.find(session, "new") is not None
    assert (home_config.home / "queue.db").stat().st_mode & 0o777 == 0o600
    leave(app)


def test_a_restore_is_refused_while_anything_runs(sqlite_app: Flask, tmp_path: Path) -> None:
    config: Config = sqlite_app.extensions["queuectl_config"]
    enqueue("here")
    backup.make(config, tmp_path / "copy.db")
    with pytest.raises(BackupError, match="the queue is in use"):
        backup.restore(config, tmp_path / "copy.db", "person:test")
    with reading() as session:
        assert job_detail.find(session, "here") is not None


@pytest.mark.parametrize("damage", ["text", "middle", "foreign", "newer"])
def test_an_invalid_backup_is_refused_and_nothing_changes(home_config: Config, tmp_path: Path, damage: str) -> None:
    app = create_core(home_config)
    with app.app_context():
        for number in range(300):
            enqueue(f"job{number}")
    copy = tmp_path / "copy.db"
    backup.make(home_config, copy)
    leave(app)
    if damage == "text":
        copy.write_text("these are notes")
    elif damage == "middle":
        data = bytearray(copy.read_bytes())
        data[len(data) // 2 :] = os.urandom(len(data) - len(data) // 2)
        copy.write_bytes(data)
    elif damage == "foreign":
        copy.unlink()
        _sql(copy, "CREATE TABLE somebody_elses (x)")
    else:
        _sql(copy, "UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(BackupError, match=r"not a queuectl database|is damaged|which this queuectl does not know"):
        backup.restore(home_config, copy, "person:test")
    assert len(ids(home_config)) == 300


def _sql(path: Path, statement: str) -> None:
    from webapp.core.storage.sqlite import library as sqlite

    connection = sqlite.connect(str(path), isolation_level=None)
    connection.execute(statement)
    connection.close()


def test_a_killed_backup_leaves_no_file_with_the_final_name(sqlite_app: Flask, home: Path, tmp_path: Path) -> None:
    actions.enqueue([job_spec.parse({"command": "x" * 60_000})] * 300, "person:test")
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "from webapp import config\nfrom webapp.db import backup\n"
        "from webapp.db import backup\n"
        "def stop(path): print('copied', flush=True); sys.stdin.read()\n"
        "backup.verify = stop\n"
        "backup.make(config.load(), Path(sys.argv[2]))"
    )
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", code, str(CHECKOUT), str(tmp_path / "copy.db")], **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "copied\n"
        process.kill()
    assert not (tmp_path / "copy.db").exists()
    backup.make(sqlite_app.extensions["queuectl_config"], tmp_path / "copy.db")


def test_the_next_backup_removes_remains_of_a_killed_one_but_not_of_a_running_one(
    sqlite_app: Flask, tmp_path: Path
) -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = tmp_path / f".copy.db.partial-{dead.pid}-abcd"
    running = tmp_path / f".copy.db.partial-{os.getppid()}-abcd"
    for file in (left, running):
        file.write_bytes(b"half")
    backup.make(sqlite_app.extensions["queuectl_config"], tmp_path / "copy.db")
    assert not left.exists()
    assert running.exists()
