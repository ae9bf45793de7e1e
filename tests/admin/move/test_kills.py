"""A move killed before any of its writes is completed by the next run, or undone."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Callable, Optional

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from tests import full_database
from tests.admin.move.moves import contents_of
from tests.conftest import configuration, opened
from tests.databases import postgresql_database
from webapp.admin.move import Side, marker
from webapp.config import Config, ConfigError
from webapp.core.storage.relocated import Relocated
from webapp.db import engines
from webapp.db.application import create_core

KILLER = Path(__file__).with_name("killer.py")
LEAST_WRITES = 25  # of a move: fewer would mean that the killer sees none
PARTS = 4  # a test looks at every fourth write, each of another remainder
pytestmark = [pytest.mark.full, pytest.mark.only("postgresql")]


class Killer:
    """See killer.py."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, source: Config, *argv: str, kill_at: Optional[int] = None) -> dict[str, Any]:
        environment = {**os.environ, "QUEUECTL_HOME": str(source.home), "QUEUECTL_DATABASE_URL": url_of(source)}
        order = {"argv": ["db", "move", *argv], "environment": environment, "kill_at": kill_at}
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


@pytest.fixture
def killer() -> Iterator[Killer]:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, str(KILLER)], **pipes) as process:
        yield Killer(process)


def url_of(config: Config) -> str:
    return config.database_url or f"sqlite:///{config.sqlite_path}"


@pytest.fixture(params=["sqlite", "postgresql"])
def pair(request: pytest.FixtureRequest, home: Path, tmp_path: Path) -> Iterator[Callable[[], Any]]:
    """Creates a full queue and an empty database of the other kind, new for each call."""
    server: URL = request.getfixturevalue("postgresql_server")
    home.mkdir(mode=0o700)
    numbers = iter(range(1000))
    with ExitStack() as stack:
        if request.param == "sqlite":
            template = stack.enter_context(rich_sqlite(tmp_path / "template"))
        else:
            template = stack.enter_context(rich_postgresql(server, home))

        @contextmanager
        def make() -> Iterator[tuple[Config, Config]]:
            folder = tmp_path / str(next(numbers))
            folder.mkdir()
            file = configuration(folder)
            if request.param == "sqlite":
                shutil.copy(template, file.sqlite_path)
                with postgresql_database(server) as url:
                    yield file, configuration(folder, url)
            else:
                with postgresql_database(server, template) as url:
                    yield configuration(folder, url), Config(folder, url_of(file), None)

        yield make


@contextmanager
def rich_sqlite(folder: Path) -> Iterator[str]:
    config = configuration(folder)
    for _ in opened(create_core(config)):
        full_database.fill(large=1000)
    assert not Path(f"{config.sqlite_path}-wal").exists(), "the file alone is not the whole database"
    yield str(config.sqlite_path)


@contextmanager
def rich_postgresql(server: URL, home: Path) -> Iterator[str]:
    with postgresql_database(server) as url:
        for _ in opened(create_core(configuration(home, url))):
            full_database.fill(large=1000)
        yield str(url.database)


@pytest.mark.parametrize(("pair", "part"), [("sqlite", 0), ("postgresql", 2)], indirect=["pair"])
def test_a_move_killed_at_any_write_is_completed_by_the_next_run(
    pair: Callable[[], Any], killer: Killer, part: int
) -> None:
    kill_at = part + 1
    while True:
        with pair() as (source, target):
            before = contents_of(source)
            killed = killer.run(source, "--to", url_of(target), kill_at=kill_at)
            if killed["code"] != -9:
                break
            assert not both_take_writes(source, target)
            again = killer.run(source, "--to", url_of(target))
            assert again["code"] == 0, f"killed at write {kill_at}: {again['said']}"
            assert_arrived(before, source, target)
        kill_at += PARTS
    assert killed["code"] == 0, killed["said"]
    assert kill_at > LEAST_WRITES


def test_a_move_killed_at_any_write_can_be_undone(pair: Callable[[], Any], killer: Killer) -> None:
    kill_at, undone = 2, 0
    while True:
        with pair() as (source, target):
            before = contents_of(source)
            if killer.run(source, "--to", url_of(target), kill_at=kill_at)["code"] != -9:
                break
            back = killer.run(source, "--to", url_of(target), "--undo")
            assert back["code"] == 0, f"killed at write {kill_at}: {back['said']}"
            left = contents_of(source)
            same = [table for table in before if table not in ("audit", "control")]
            assert {table: left[table] for table in same} == {table: before[table] for table in same}
            assert takes_writes(source)
            assert not (is_begun(target) and takes_writes(target))
        kill_at, undone = kill_at + PARTS + 1, undone + 1
    assert undone > LEAST_WRITES / (PARTS + 2)


@pytest.mark.parametrize("then", ["undo", "move"])
def test_after_an_undo_killed_at_any_write_the_undo_or_the_move_is_completed(
    pair: Callable[[], Any], killer: Killer, then: str
) -> None:
    kill_at = 1
    while True:
        with pair() as (source, target):
            before = contents_of(source)
            moved = killer.run(source, "--to", url_of(target))
            assert moved["code"] == 0, moved["said"]
            killed = killer.run(source, "--to", url_of(target), "--undo", kill_at=kill_at)
            if killed["code"] != -9:
                break
            assert not both_take_writes(source, target)
            again = killer.run(source, "--to", url_of(target), *(["--undo"] if then == "undo" else []))
            decided = "is being undone. Complete the undo with --undo" in again["said"]
            if decided:
                assert again["code"] == 1
                again = killer.run(source, "--to", url_of(target), "--undo")
            assert again["code"] == 0, f"killed at write {kill_at}: {again['said']}"
            if then == "undo" or decided:
                assert takes_writes(source)
                assert not takes_writes(target)
            else:
                assert_arrived(before, source, target)
        kill_at += 1
    assert killed["code"] == 0, killed["said"]
    assert kill_at > 3


class NotKept(Exception):
    """Rolls back a write that is only a trial."""


def takes_writes(config: Config) -> bool:
    try:
        for _ in opened(create_core(config)):
            with engines.writing() as session:
                session.execute(text("UPDATE control SET pulse = pulse + 1"))
                raise NotKept
    except NotKept:
        return True
    except (ConfigError, Relocated):
        return False
    raise AssertionError


def both_take_writes(source: Config, target: Config) -> bool:
    return is_begun(target) and takes_writes(target) and takes_writes(source)


def is_begun(target: Config) -> bool:
    """Whether the move may have reached the database, checked before a read could create its tables."""
    if target.is_sqlite and not target.sqlite_path.exists():
        return False
    with Side.at(target) as side, side.reading() as connection:
        return bool(marker.moves(connection, "to"))


def assert_arrived(before: dict[str, Any], source: Config, target: Config) -> None:
    left = contents_of(source)
    assert contents_of(target) == left
    same = [table for table in before if table not in ("audit", "control", "events")]
    assert {table: left[table] for table in same} == {table: before[table] for table in same}
    assert takes_writes(target)
    assert not takes_writes(source)
