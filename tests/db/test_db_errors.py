"""Errors of the database are told apart from our own errors, with a message for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import pytest
from flask import Flask
from sqlalchemy import select, text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError

from tests.conftest import configuration, opened
from tests.databases import execute
from webapp.config import Config
from webapp.core.storage import db_errors
from webapp.core.storage.transaction import transaction_on
from webapp.db import engines, out_of_reach
from webapp.db.application import create_core
from webapp.db.engines import reading, writing
from webapp.db.models import Control

pytestmark = pytest.mark.postgresql

WRITE, PID, END = (
    "UPDATE control SET pulse = pulse + 1",
    "SELECT pg_backend_pid()",
    "SELECT pg_terminate_backend({}, 5000)",
)


@pytest.fixture
def postgresql_app(postgresql_config: Config) -> Iterator[Flask]:
    yield from opened(create_core(postgresql_config))


@pytest.fixture
def serverless(home: Path) -> Iterator[Flask]:
    """The application with an address without a server."""
    url = URL.create("postgresql+psycopg", host="127.0.0.1", port=1, database="queue")
    yield from opened(create_core(configuration(home, url), migrate=False))


@pytest.mark.usefixtures("serverless")
def test_if_no_server_answers_the_database_is_unreachable_and_nothing_was_done() -> None:
    with pytest.raises(DBAPIError) as caught, writing() as session:
        session.scalar(select(Control.pulse))
    assert out_of_reach.is_out_of_reach(caught.value)
    assert not out_of_reach.may_have_been_done(caught.value)


@pytest.fixture(params=["writing", "plain SQL"])
def lose_the_session(
    request: pytest.FixtureRequest, postgresql_app: Flask, postgresql_server: URL
) -> Callable[[bool], None]:
    """Write, let the server end the session, query again (True) or not, and commit."""
    del postgresql_app

    def by_session(ask: bool) -> None:
        with writing(wakes_workers=False) as session:
            session.execute(text(WRITE))
            execute(postgresql_server, END.format(session.scalar(text(PID))))
            if ask:
                session.scalar(text(PID))

    def by_plain_statements(ask: bool) -> None:
        with engines.raising_as_sqlalchemy(), transaction_on(engines.database()) as transaction:
            transaction.execute(WRITE)
            execute(postgresql_server, END.format(transaction.execute(PID).fetchone()[0]))
            if ask:
                transaction.execute(PID)

    return by_session if request.param == "writing" else by_plain_statements


def test_a_session_that_ends_before_its_commit_has_done_nothing(
    lose_the_session: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DBAPIError) as caught:
        lose_the_session(True)
    assert out_of_reach.is_out_of_reach(caught.value)
    assert not out_of_reach.may_have_been_done(caught.value)
    assert not caplog.records


def test_the_result_of_a_commit_without_an_answer_is_unknown(
    lose_the_session: Callable[[bool], None], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(DBAPIError) as caught:
        lose_the_session(False)
    assert out_of_reach.may_have_been_done(caught.value)
    assert not caplog.records


@pytest.mark.usefixtures("app")
def test_an_invalid_statement_is_our_error_and_not_one_of_the_database() -> None:
    with pytest.raises(DBAPIError) as caught, reading() as session:
        session.execute(text("SELECT nothing FROM nowhere"))
    assert db_errors.explain(caught.value) is None
    assert not out_of_reach.is_out_of_reach(caught.value)


@pytest.mark.usefixtures("postgresql_app")
def test_a_read_only_server_is_reported_as_such() -> None:
    with pytest.raises(DBAPIError) as caught, reading() as session:
        session.execute(text("UPDATE control SET pulse = 1"))
    assert db_errors.explain(caught.value) is not None
    assert "takes no writes" in str(db_errors.explain(caught.value))
