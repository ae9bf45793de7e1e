"""Refusals of a PostgreSQL server are explained with the statement that helps, and that statement works."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Optional

import pytest
from sqlalchemy.engine import URL
from sqlalchemy.exc import ProgrammingError

from tests.commands.conftest import Cli, Result
from tests.databases import execute, postgresql_database
from webapp.core.storage import db_errors

pytestmark = [pytest.mark.only("postgresql"), pytest.mark.postgresql]


Run = Callable[..., Result]


@dataclass(frozen=True)
class Place:
    """A database with roles: `owner` owns it, `guest` may only connect."""

    server: URL
    database: URL
    owner: str
    guest: str

    def address(self, role: str) -> str:
        return self.database.set(username=role).render_as_string(hide_password=False)

    def run(self, statement: str) -> None:
        execute(self.database, *statement.split(";"))


@pytest.fixture
def place(postgresql_server: URL) -> Iterator[Place]:
    end = uuid.uuid4().hex[:8]
    owner, guest = f"owner-{end}", f"guest-{end}"
    with postgresql_database(postgresql_server, "template0") as database:
        made = Place(postgresql_server, database, owner, guest)
        made.run(f'CREATE ROLE "{owner}" LOGIN; CREATE ROLE "{guest}" LOGIN')
        # PostgreSQL 15 and newer do this by themselves.
        made.run("REVOKE CREATE ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO postgres")
        yield made
        made.run(f'DROP OWNED BY "{owner}", "{guest}" CASCADE; DROP ROLE "{owner}", "{guest}"')


@pytest.fixture
def run(place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command as a role of the server."""

    def as_role(role: str, *argv: str, database: Optional[str] = None) -> Result:
        url = place.database.set(username=role, database=database or place.database.database)
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", url.render_as_string(hide_password=False))
        return cli(*argv)

    return as_role


def statement(text: str) -> str:
    [found] = re.findall("`([^`]+)`", text)
    return str(found)


@pytest.fixture
def migrated() -> bool:
    return False


def test_a_role_that_cannot_create_tables_gets_the_grant_statement(place: Place, run: Run) -> None:
    refused = run(place.owner, "enqueue", "--command", "true")
    assert (refused.code, refused.err.count("\n")) == (6, 1)
    assert statement(refused.err) == f'GRANT ALL ON SCHEMA public TO "{place.owner}"'
    place.run(statement(refused.err))
    assert run(place.owner, "enqueue", "--command", "true").code == 0


@pytest.mark.parametrize(
    ("granted", "argv"),
    [("nothing", ["status"]), ("rows", ["enqueue", "--command", "true"]), ("rows", ["config", "set", "lease", "40"])],
)
def test_a_role_that_does_not_own_the_tables_gets_the_statement_to_share_them(
    place: Place, run: Run, granted: str, argv: list[str]
) -> None:
    place.run(f'GRANT ALL ON SCHEMA public TO "{place.owner}"')
    assert run(place.owner, "db", "upgrade").code == 0
    if granted == "rows":
        place.run(f'GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO "{place.guest}"')
    refused = run(place.guest, *argv)
    assert (refused.code, refused.err.count("\n")) == (6, 1)
    place.run(statement(refused.err).replace("OWNER", place.owner))
    assert run(place.guest, *argv).code == 0


def test_a_missing_database_role_or_connect_right_is_reported(place: Place, run: Run) -> None:
    missing = run(place.owner, "status", database="nowhere")
    assert statement(missing.err) == (f"createdb --encoding=UTF8 --template=template0 --owner={place.owner} nowhere")
    assert statement(run("no-one", "status").err) == "createuser --pwprompt no-one"
    name = place.database.database
    place.run(f'REVOKE CONNECT ON DATABASE "{name}" FROM PUBLIC')
    assert statement(run(place.guest, "status").err) == f'GRANT CONNECT ON DATABASE "{name}" TO "{place.guest}"'


def test_a_move_names_the_grant_before_anything_changes(
    place: Place, cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("QUEUECTL_DATABASE_URL", f"sqlite:///{tmp_path}/queue.db")
    refused = cli("db", "move", "--to", place.address(place.owner), "--dry-run")
    assert (refused.code, statement(refused.out)) == (1, f'GRANT ALL ON SCHEMA public TO "{place.owner}"')
    place.run(statement(refused.out))
    assert cli("db", "move", "--to", place.address(place.owner), "--dry-run").code == 0


def test_the_console_reports_what_is_missing_without_names(place: Place) -> None:
    with pytest.raises(ProgrammingError) as caught:
        execute(place.database.set(username=place.guest), "CREATE TABLE jobs (id int)")
    sentence = db_errors.explain(caught.value)
    assert sentence == (
        "the database user lacks a permission: permission denied for schema public. See: manage.py doctor"
    )
