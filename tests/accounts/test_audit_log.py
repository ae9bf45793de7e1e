"""The contents of the audit trail and their retention: shortened commands, and deletion of old entries."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, Optional

import pytest
from sqlalchemy import insert, select, text
from sqlalchemy.exc import DBAPIError

from tests.conftest import opened
from webapp.config import Config
from webapp.core import audit_lines, job_spec
from webapp.core.settings import Settings
from webapp.db import backup
from webapp.db.application import create_core
from webapp.db.engines import reading, writing
from webapp.db.models import Audit
from webapp.jobs import actions, deletion, settings
from webapp.lib import clock
from worker.maintenance import retention
from worker.maintenance.retention import Retention

DAY = clock.DAY
WORDS = "the audit trail is append-only"


def write_lines(*days_ago: float, detail: Optional[str] = None) -> list[int]:
    """Write entries of these days ago, in this order. Returns their ids."""
    line: dict[str, Any] = {"actor": "person:ana", "verb": "pause", "subject": "queue:mail", "outcome": "done"}
    with writing() as session:
        rows = [
            {**line, "face": "console", "at": clock.now() - round(days * DAY), "detail": detail} for days in days_ago
        ]
        return list(session.scalars(insert(Audit).returning(Audit.id, sort_by_parameter_order=True), rows))


def lines() -> list[Audit]:
    with reading() as session:
        return list(session.scalars(select(Audit).order_by(Audit.id)))


def prune(**values: int) -> None:
    """Run a whole round of retention with the stored settings."""
    for key, value in values.items():
        settings.set_setting(key, value, "rule:test")
    with reading() as session:
        stored = settings.load(session)
    some = Retention(5.0)
    while some.resume(stored):
        pass


def delete(which: str = "TRUE") -> None:
    with writing() as session:
        session.execute(text(f"DELETE FROM audit WHERE {which}"))


# --- commands --------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
def test_a_long_command_is_shortened_and_identified_by_its_hash() -> None:
    command = f"./import.sh {'x' * 100} --secret hunter2"
    actions.enqueue([job_spec.parse({"id": "job1", "command": command})], "person:ana")
    actions.apply("discard", ["job1"], "person:ana")
    enqueued, _ = lines()
    after = json.loads(enqueued.detail or "")["after"]
    assert after["command"] == command[:80] + "…"
    assert after["command_sha256"] == hashlib.sha256(command.encode()).hexdigest()[:16]
    assert "hunter2" not in "".join(line.detail or "" for line in lines())


@pytest.mark.parametrize("command", ["true", "x" * 80])
def test_a_short_command_is_kept_whole(command: str) -> None:
    assert audit_lines.command_in_brief(command) == {"command": command}


def test_a_command_with_any_characters_has_a_hash() -> None:
    assert len(audit_lines.command_in_brief("é\udcff" * 50)["command_sha256"]) == 16


# --- retention -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
def test_old_entries_are_deleted_and_one_entry_records_how_many_and_until_when() -> None:
    write_lines(400, 380, 367.1)
    kept = write_lines(364, 10, 0)
    prune()
    assert [line.id for line in lines()[:-1]] == kept
    told = lines()[-1]
    assert (told.actor, told.verb, told.subject, told.face) == ("rule:retention", "prune", "audit", "worker")
    before = (clock.now() - 365 * DAY) // DAY * DAY
    assert json.loads(told.detail or "") == {"lines": 3, "before": clock.to_iso(before)}


@pytest.mark.usefixtures("app")
def test_a_second_pruning_on_the_same_day_writes_no_entry() -> None:
    write_lines(400)
    prune()
    # Older than 365 days, but of the day that is not over yet: it goes tomorrow.
    [late] = write_lines(365 + (clock.now() % DAY) / DAY / 2)
    prune()
    assert [(line.id, line.verb) for line in lines()] == [(late - 1, "prune"), (late, "pause")]


@pytest.mark.usefixtures("app")
def test_nothing_is_deleted_if_the_setting_is_never() -> None:
    old = write_lines(5000)
    prune(keep_audit=0)
    assert [line.id for line in lines()] == old


@pytest.mark.usefixtures("app")
def test_many_entries_are_deleted_in_several_transactions_with_an_entry_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deletion, "BYTES", 1000)
    write_lines(*range(410, 400, -1), detail=json.dumps({"command": "x" * 300}))
    write_lines(399, detail=json.dumps({"command": "x" * 5000}))
    prune()
    assert [json.loads(line.detail or "")["lines"] for line in lines()] == [3, 3, 3, 1, 1]


@pytest.mark.usefixtures("app")
def test_an_entry_dated_in_the_future_does_not_block_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "RECORDS", 2)
    future = write_lines(-5000)
    write_lines(400, 399, 398)
    prune()
    assert [line.id for line in lines() if line.verb == "pause"] == future


# --- the guard -------------------------------------------------------------------------------------------------------


def announce(**values: Any) -> None:
    """Write the entry that retention writes before it deletes."""
    with writing() as session:
        row = {"at": clock.now(), "actor": "rule:retention", "verb": "prune", "subject": "audit", "outcome": "done"}
        session.execute(insert(Audit).values(**{**row, "face": "worker", **values}))


@pytest.mark.usefixtures("app")
@pytest.mark.postgresql
def test_even_an_old_entry_cannot_be_deleted_without_a_pruning_entry() -> None:
    write_lines(400)
    with pytest.raises(DBAPIError, match=WORDS):
        delete()
    for values in ({"at": clock.now() - 120 * clock.SECOND}, {"actor": "person:eve"}, {"verb": "pause"}):
        announce(**values)
        with pytest.raises(DBAPIError, match=WORDS):
            delete("verb = 'pause'")
    assert len(lines()) == 4


@pytest.mark.usefixtures("app")
@pytest.mark.postgresql
def test_with_a_pruning_entry_only_old_entries_can_be_deleted() -> None:
    old, young = write_lines(366, 364)
    announce()
    for which in ("TRUE", f"id = {young}", f"id >= {young}"):
        with pytest.raises(DBAPIError, match=WORDS):
            delete(which)
    delete(f"id = {old}")
    assert [line.id for line in lines()] == [young, young + 1]
    with pytest.raises(DBAPIError, match=WORDS):
        delete(f"id = {young}")


@pytest.mark.usefixtures("app")
def test_the_guard_follows_the_setting() -> None:
    [line] = write_lines(40)
    announce()
    for days in (41, 0):
        settings.set_setting("keep_audit", days, "rule:test", confirmed=True)
        with pytest.raises(DBAPIError, match=WORDS):
            delete(f"id = {line}")
    settings.set_setting("keep_audit", 39, "rule:test", confirmed=True)
    delete(f"id = {line}")


@pytest.mark.usefixtures("app")
def test_without_a_stored_setting_the_guard_uses_the_default() -> None:
    days = Settings().keep_audit
    old, young = write_lines(days + 0.1, days - 0.1)
    announce()
    delete(f"id = {old}")
    with pytest.raises(DBAPIError, match=WORDS):
        delete(f"id = {young}")


# --- elsewhere -------------------------------------------------------------------------------------------------------


def test_a_backup_has_the_guard(sqlite_app: object, sqlite_config: Config, tmp_path: Path) -> None:
    write_lines(400, 10)
    backup.make(sqlite_config, tmp_path / "copy.db")
    again = Config(home=tmp_path / "restored", database_url=None, public_url=None)
    backup.restore(again, tmp_path / "copy.db", "person:test")
    for _ in opened(create_core(again)):
        with pytest.raises(DBAPIError, match=WORDS):
            delete()
        prune()
        assert [line.verb for line in lines()] == ["pause", "prune"]
