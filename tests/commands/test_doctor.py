"""`db` and `doctor`: checks of the database and of the machine."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import Any

import pytest
import time_machine
from flask import Flask

from tests.commands.conftest import Cli
from tests.factories import make_event, make_job, make_supervisor, make_worker
from tests.notifications.factories import channel_named, make_channel, make_delivery
from webapp.admin import doctor
from webapp.config import Config
from webapp.core.events import SHORT
from webapp.core.storage.schema import HEAD
from webapp.db.engines import db
from webapp.jobs.flow import limits
from webapp.lib import clock
from worker.maintenance import outgoing_heartbeat
from worker.maintenance.outgoing_heartbeat import LastPing


@pytest.fixture
def migrated(request: pytest.FixtureRequest) -> bool:
    """Only a test with an application starts with a database; the others start with none, or a broken one."""
    return bool({"app", "sqlite_app"} & set(request.fixturenames))


def test_upgrade_creates_a_database_and_then_finds_it_up_to_date(home: Path, cli: Cli) -> None:
    assert cli("db", "upgrade").out == f"Database upgraded from empty to schema {HEAD}.\n"
    assert cli("db", "upgrade").out == f"The database is up to date (schema {HEAD}).\n"


def test_a_sound_database_is_reported_as_sound(app: Flask, cli: Cli) -> None:
    make_job()
    assert cli("db", "check").code == 0


def test_a_dangling_reference_is_found(sqlite_app: Flask, cli: Cli) -> None:
    job = make_job("completed", id="a")
    with db.engine.connect() as connection:
        connection.exec_driver_sql("COMMIT")
        connection.exec_driver_sql("PRAGMA foreign_keys=OFF")
        connection.exec_driver_sql("UPDATE jobs SET queue = 'nowhere'")
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("BEGIN")
    result = cli("db", "check")
    assert (result.code, result.lines) == (1, [f"jobs, row {job.seq}: refers to a missing row of queues"])
    assert "damaged" in result.err


def test_a_file_that_is_no_database_is_one_line_and_left_alone(home: Path, cli: Cli) -> None:
    home.mkdir(mode=0o700)
    (home / "queue.db").write_bytes(b"this is no database" * 1000)
    for argv in (["db", "check"], ["db", "upgrade"], ["status"], ["enqueue", '{"command":"true"}']):
        result = cli(*argv)
        assert (result.code, result.out, result.err.count("\n")) == (6, "", 1)
        assert result.err.startswith("Error: cannot read the database")
    assert (home / "queue.db").read_bytes() == b"this is no database" * 1000


def test_the_doctor_checks_everything_and_finds_this_machine_sound(app: Flask, cli: Cli) -> None:
    result = cli("doctor", "--json")
    assert result.code == 0
    found = {one["check"]: one for one in result.json}
    assert set(found) >= {"Python", "time zones", "home folder", "database", "disk space", "clock", "workers", "people"}
    assert found["job limits"]["detail"].startswith("set here: memory by ")
    assert {one["result"] for one in found.values()} <= {"ok", "warn"}
    assert all(one["advice"] for one in found.values() if one["result"] == "warn" and one["check"] != "file system")
    assert [line.split()[0] for line in cli("doctor").lines] == [one["result"] for one in result.json]


def test_the_doctor_names_a_remedy_if_jobs_wait_without_a_worker(app: Flask, cli: Cli) -> None:
    make_job()
    (workers,) = [one for one in cli("doctor", "--json").json if one["check"] == "workers"]
    assert workers["result"] == "warn"
    assert "manage.py worker start" in workers["advice"]


def test_the_doctor_names_workers_short_of_resources(app: Flask, cli: Cli) -> None:
    make_supervisor(id="s1", slots=40)
    make_worker(id="w1", supervisor_id="s1", slots=12)
    make_event(SHORT, "worker:w1", "worker:w1", text="runs at most 12 of 40 jobs at a time: `ulimit -n` is 64")
    [found] = [one for one in cli("doctor", "--json").json if one["check"] == "machine limits"]
    assert found["result"] == "warn"
    assert found["detail"] == "worker w1 on a-host runs at most 12 of 40 jobs at a time: `ulimit -n` is 64."
    assert "LimitNOFILE" in found["advice"]


def test_the_doctor_names_limits_that_hold_jobs_back_for_ever(app: Flask, cli: Cli) -> None:
    limits.set_limit("closed", 0, None, None, "person:ana")
    make_job("pending", limits="closed")
    make_job("pending", limits="gone")
    assert "1 job can never start, because these limits are 0: closed" in cli("doctor").out
    limits.set_limit("closed", 1, None, None, "person:ana")
    assert "pending jobs name keys whose limit was removed, so they are not limited: gone" in cli("doctor").out


def test_the_doctor_names_channels_that_fail_and_messages_that_nobody_sends(app: Flask, cli: Cli) -> None:
    hour_ago = clock.now() - clock.seconds(3600)
    make_delivery(make_channel("good"), "sent")
    failed = make_channel("failed")
    make_delivery(failed, "sent", ended_at=hour_ago)
    make_delivery(failed, "failed", answer="410 Gone")
    trying = make_channel("trying")
    make_delivery(trying, "waiting", tries=2, answer="no connection", created_at=hour_ago, not_before=hour_ago)
    make_delivery(trying, "waiting", not_before=hour_ago)  # it waits for the one before
    make_channel("letters", to="ana@example.org")
    found = {one["check"]: one for one in cli("doctor", "--json").json}
    assert found["channels"]["result"] == "warn"
    first, *others = found["channels"]["detail"].split("; ")
    assert re.fullmatch(r"failed: a message failed \d+ s ago: 410 Gone\.", first)
    assert others == [
        "letters: no mail server is configured. Set QUEUECTL_SMTP_URL in .env, and restart the workers.",
        "trying: a message of 1 h ago is not sent yet: no connection.",
    ]
    assert "messages" not in found
    make_delivery(channel_named("good"), "waiting", not_before=hour_ago)
    found = {one["check"]: one for one in cli("doctor", "--json").json}
    assert found["messages"]["detail"] == "1 message should have been sent more than 10 min ago."


def test_the_doctor_says_whether_the_last_ping_of_the_heartbeat_worked(
    app: Flask, config: Config, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found() -> Any:
        return [(one["result"], one["detail"]) for one in cli("doctor", "--json").json if one["check"] == "heartbeat"]

    assert found() == []
    monkeypatch.setenv("QUEUECTL_HEARTBEAT_URL", "https://hc.example/secret")
    assert found() == [("warn", "https://hc.example/… was never pinged.")]
    monkeypatch.setattr(outgoing_heartbeat, "age", lambda ping: float(ping.at))
    for age, error, expected in (
        (5, None, ("ok", "pinged https://hc.example/… 5 s ago")),
        (5, "timed out", ("warn", "the ping of https://hc.example/… 5 s ago failed: timed out.")),
        (7200, None, ("warn", "last pinged https://hc.example/… 2 h ago.")),
    ):
        ping = LastPing(age, "https://hc.example/…", error)
        outgoing_heartbeat._store(outgoing_heartbeat.path_of(config), ping)
        assert found() == [expected]
    monkeypatch.delenv("QUEUECTL_HEARTBEAT_URL")
    assert found() == []


@pytest.mark.parametrize(
    ("encoding", "named", "result"),
    [
        ("utf-8", "C.UTF-8", "ok"),
        ("utf-8", "C", "ok"),
        ("utf-8", "de_DE.ISO-8859-1", "warn"),  # it is not installed here, so Python has UTF-8
        ("iso8859-1", "de_DE", "warn"),
    ],
)
def test_the_doctor_names_a_locale_that_is_not_utf8(
    monkeypatch: pytest.MonkeyPatch, encoding: str, named: str, result: str
) -> None:
    monkeypatch.setenv("LC_ALL", named)
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: encoding)
    found, detail, _ = doctor.locale()
    assert found == result
    assert f"LC_ALL={named}" in detail


@pytest.mark.only("sqlite")
def test_the_doctor_detects_a_clock_that_was_set_back(app: Flask, cli: Cli) -> None:
    make_worker(seen_at=clock.now() + clock.seconds(3600))
    (finding,) = [one for one in cli("doctor", "--json").json if one["check"] == "clock"]
    assert finding["result"] == "warn"
    assert "was set back by 3,6" in finding["detail"] or "was set back by 3,5" in finding["detail"]


@pytest.mark.only("postgresql")
def test_the_doctor_on_postgresql_checks_notifications_and_the_machine_clock(
    app: Flask, config: Config, cli: Cli
) -> None:
    found = {one["check"]: one for one in cli("doctor", "--json").json}
    assert found["wake-up"]["result"] == "ok"
    assert found["clock"]["result"] == "ok"
    with time_machine.travel(time.time() + 3600):
        [clock_] = [one for one in doctor.examine() if one.check == "clock"]
    assert clock_.result == "warn"
    assert "differs by 3,6" in clock_.detail or "differs by 3,5" in clock_.detail


def test_the_doctor_survives_a_broken_database_and_ends_with_1(home: Path, cli: Cli) -> None:
    home.mkdir(mode=0o700)
    (home / "queue.db").write_bytes(b"this is no database" * 1000)
    result = cli("doctor")
    assert result.code == 1
    assert result.lines[-1].split()[:2] == ["fail", "database"]


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ("3.44.5", True),
        ("3.44.6", False),
        ("3.45.1", True),
        ("3.50.6", True),
        ("3.50.7", False),
        ("3.51.2", True),
        ("3.51.3", False),
        ("3.53.0", False),
    ],
)
def test_the_doctor_knows_which_sqlite_can_damage_a_wal(version: str, affected: bool) -> None:
    result, _, _ = doctor.sqlite_library(version)
    assert result == ("warn" if affected else "ok")


def test_an_sqlite_without_returning_is_a_failure() -> None:
    result, _, _ = doctor.sqlite_library("3.34.1")
    assert result == "fail"


@pytest.mark.parametrize(
    ("kind", "result"),
    [("nfs4", "fail"), ("cifs", "fail"), ("9p", "warn"), ("tmpfs", "warn"), ("ext4", "ok"), ("", "ok")],
)
def test_the_kind_of_file_system_decides(
    kind: str, result: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "file_system_of", lambda _: kind)
    found, _, advice = doctor.file_system(tmp_path)
    assert found == result
    assert advice or result != "fail"


def test_the_file_system_of_a_folder_is_that_of_its_nearest_mount() -> None:
    assert doctor.file_system_of(Path("/proc/self")) == "proc"


def test_too_little_space_is_a_failure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 50 * 1024**2}))
    result, _, advice = doctor.disk_space(tmp_path)
    assert (result, advice) == ("fail", "Free up disk space.")
