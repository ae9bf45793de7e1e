"""Undo of a move: nothing is lost, and never do both databases accept writes."""

from __future__ import annotations

from pathlib import Path
from typing import Optional

import pytest
from flask import Flask
from sqlalchemy import select, update
from sqlalchemy.engine import URL

from tests import full_database
from tests.admin.move.moves import Interrupted, back, contents_of, go, stop_at
from tests.conftest import configuration, opened
from tests.databases import postgresql_database
from tests.factories import make_job
from webapp.admin.move import MoveError
from webapp.config import Config, ConfigError
from webapp.core.storage.relocated import Relocated
from webapp.db.application import create_core
from webapp.db.engines import reading, writing
from webapp.db.models import Alert, Channel, Notice


def test_a_move_can_be_undone_while_the_copy_is_unchanged(app: Flask, target: Config) -> None:
    full_database.fill(large=10)
    go(target)
    before = full_database.contents()
    back(target)
    make_job(id="here-again")
    assert len(full_database.contents()["jobs"]) == len(before["jobs"]) + 1
    with pytest.raises(ConfigError, match="this copy of the queue was given up"):
        create_core(target)


def test_a_move_can_be_undone_after_a_dispatcher_looked_at_the_copy(app: Flask, target: Config) -> None:
    full_database.fill(large=10)
    go(target)
    for _ in opened(create_core(target)):
        with writing() as session:
            session.execute(update(Notice).values(taken_at=1))
            session.execute(update(Alert).values(next_at=1))
            session.execute(update(Channel).values(sender_job="a-job"))
    back(target)
    with reading() as session:
        assert session.scalars(select(Notice.taken_at)).all() == [None]


def test_changes_in_the_copy_are_given_up_only_with_force(app: Flask, target: Config) -> None:
    full_database.fill(large=10)
    go(target)
    there = create_core(target)
    for _ in opened(there):
        make_job(id="theirs")
    with pytest.raises(MoveError, match=r"was used since: jobs \(9 rows here, 10 there\).*use --force"):
        back(target)
    with there.app_context():
        make_job(id="goes-on")
    with pytest.raises(Relocated):
        make_job()
    back(target, force=True)
    make_job(id="here-again")
    with (
        there.app_context(),
        pytest.raises(Relocated, match=r"this copy of the queue was given up .* the queue is at "),
    ):
        make_job()


def test_a_move_can_be_undone_with_force_when_the_target_is_lost(
    app: Flask, home: Path, postgresql_server: URL
) -> None:
    with postgresql_database(postgresql_server) as url:
        target = configuration(home, url)
        go(target)
    with pytest.raises(MoveError, match="cannot be read"):
        back(target)
    with pytest.raises(Relocated):
        make_job()
    back(target, force=True)
    make_job()


@pytest.mark.full
@pytest.mark.parametrize("stopped", ["queues", "audit", None])
def test_a_move_can_be_repeated_after_an_undo(
    app: Flask, target: Config, stopped: Optional[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    full_database.fill(large=10)
    if stopped is None:
        go(target)
    else:
        stop_at(monkeypatch, stopped)
        with pytest.raises(Interrupted):
            go(target)
        monkeypatch.undo()
    back(target)
    make_job(id="new")
    go(target)
    assert contents_of(target) == full_database.contents()


def test_a_queue_can_move_there_and_back(app: Flask, target: Config, tmp_path: Path) -> None:
    full_database.fill(large=1000)
    go(target)
    for _ in opened(create_core(target)):
        make_job(id="meanwhile")
        home = Config(target.home, f"sqlite:///{tmp_path}/back.db", None)
        go(home)
        left = full_database.contents()
    assert contents_of(home) == left
    assert "meanwhile" in {row[1] for row in left["jobs"]}
    for _ in opened(create_core(home)):
        make_job()


def test_a_queue_that_was_not_moved_cannot_be_moved_back(app: Flask, target: Config) -> None:
    with pytest.raises(MoveError, match="was not moved"):
        back(target)


def test_a_second_run_after_the_end_finds_nothing_to_do(app: Flask, target: Config) -> None:
    go(target)
    for _ in opened(create_core(target)):
        make_job(id="theirs")
    go(target)
    assert [row[1] for row in contents_of(target)["jobs"]] == ["theirs"]
