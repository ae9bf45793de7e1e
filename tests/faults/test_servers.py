"""Nothing is lost when the PostgreSQL server fails, and everything continues by itself when it is back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import make_url

from tests.conftest import configuration, opened
from tests.faults import schedules, servers
from tests.faults.cluster import DATABASE, Server
from tests.faults.conftest import SEED, closed_afterwards
from tests.faults.served import ServedRig
from tests.postgresql import folder_of_servers
from webapp.config import Config
from webapp.db import engines
from webapp.db.application import create_core

pytestmark = pytest.mark.full


@pytest.fixture(scope="session")
def migrated_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A stopped server with a current database, to copy."""
    with folder_of_servers() as folder:
        server = Server.made(folder / "migrated")
        server.start()
        server.say(f"CREATE DATABASE {DATABASE}", dbname="postgres")
        url = server.url.replace("postgresql:", "postgresql+psycopg:")
        app = create_core(Config(home=tmp_path_factory.mktemp("home"), database_url=url, public_url=None))
        with app.app_context():
            engines.disconnect()
        server.stop()
        yield server


@pytest.fixture
def server(migrated_server: Server) -> Iterator[Server]:
    """A server for one test, with an empty queue."""
    with folder_of_servers() as folder:
        one = Server.copied(migrated_server, folder / "data")
        try:
            one.start()
            yield one
        finally:
            one.end()


@pytest.fixture
def standby(server: Server) -> Iterator[Server]:
    """A synchronous standby of the server."""
    one = Server.standby_of(server, server.folder.with_name("standby"))
    try:
        yield one
    finally:
        one.end()


@pytest.fixture
def served(tmp_path: Path, server: Server) -> Iterator[ServedRig]:
    yield from closed_afterwards(lambda: ServedRig(tmp_path, SEED, server))


@pytest.fixture
def served_by_two(tmp_path: Path, server: Server, standby: Server) -> Iterator[ServedRig]:
    yield from closed_afterwards(lambda: ServedRig(tmp_path, SEED, server, standby))


def test_a_server_restarted_twice_under_load_loses_no_job_and_needs_no_help(served: ServedRig) -> None:
    servers.restart(served, 2, mode="fast")
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_a_server_that_crashes_twice_under_load_loses_no_job_and_needs_no_help(served: ServedRig) -> None:
    servers.restart(served, 2, mode="immediate")
    assert served.judge(may_repeat=True) == []
    assert served.losses() == served.expiries() == 0


def test_sessions_ended_by_an_administrator_are_reopened(served: ServedRig) -> None:
    servers.terminate_everybody(served, 4)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_after_a_crash_right_after_a_claim_no_job_runs_twice_at_the_same_time(served: ServedRig) -> None:
    servers.crash_after_a_claim(served, 3)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_after_a_crash_right_after_an_end_the_attempt_can_run_again(served: ServedRig) -> None:
    servers.crash_after_an_end(served, 3)
    assert served.judge(may_repeat=True) == []
    assert served.losses() == served.expiries() == 0


def test_with_durable_settles_a_crash_right_after_an_end_repeats_nothing(served: ServedRig) -> None:
    served.environment["QUEUECTL_DURABLE_SETTLES"] = "1"
    servers.crash_after_an_end(served, 3)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_a_reader_idle_in_a_transaction_blocks_no_process(served: ServedRig) -> None:
    servers.leave_a_reader_idle(served, 2)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_without_a_connection_commands_continue_and_settle_later_and_users_are_informed(served: ServedRig) -> None:
    servers.take_all_connections(served, 1)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_a_server_away_past_the_lease_marks_no_living_worker_lost(served: ServedRig) -> None:
    servers.stay_away_past_the_lease(served, 1)
    assert served.judge() == []
    assert served.losses() == served.expiries() == 0


def test_when_the_primary_dies_its_standby_has_all_acknowledged_data_and_work_continues(
    served_by_two: ServedRig,
) -> None:
    servers.fail_over(served_by_two)
    assert served_by_two.judge(may_repeat=True) == []
    assert served_by_two.losses() == served_by_two.expiries() == 0


def test_a_server_that_stops_and_crashes_while_schedules_fire_has_each_fire_once(
    served: ServedRig, tmp_path: Path
) -> None:
    url = make_url(served.url).set(drivername="postgresql+psycopg")
    for _ in opened(create_core(configuration(tmp_path / "here", url))):
        schedules.crash_servers(served, 4)
        assert schedules.violations() == []
        ran = {line.job_id for line in served.ledger.lines()}
        assert ran == {job_id for (job_id,) in served.query("SELECT id FROM jobs")}


def test_a_standby_alone_is_not_taken_for_a_database(served: ServedRig, standby: Server) -> None:
    served.submit()
    served.environment["QUEUECTL_DATABASE_URL"] = standby.url
    [found] = [one for one in json.loads(served.run("doctor", "--json").out) if one["check"] == "database"]
    assert found["result"] == "fail"
    assert f":{standby.port} is a read-only standby" in found["detail"]
    answer = served.run("enqueue", "--command", "true")
    assert (answer.code, answer.out) == (6, "")
    assert "takes no writes" in answer.err
