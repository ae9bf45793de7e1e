"""The environment of jobs: `manage.py` inside a job reaches the job's own queue."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Callable

import pytest
from sqlalchemy.engine import make_url

from tests.worker.conftest import Fleet, Queue
from webapp.config import CHECKOUT, Config
from worker.runner import environment

Start = Callable[..., Fleet]
MANAGE = shlex.join([sys.executable, str(CHECKOUT / "manage.py")])
PASSWORD = "s3cret/:@%"


def test_jobs_get_the_environment_of_the_worker_without_its_own_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUEUECTL_SECRET_OF_OURS", "hush")
    for name in ("WATCHDOG_USEC", "TRACEPARENT", "TRACESTATE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("THEIRS", "seen")
    monkeypatch.setenv("QUEUECTL_PYTHONHOME", "/usr")
    monkeypatch.delenv("QUEUECTL_VENV", raising=False)
    found = environment.of_jobs(Config(tmp_path, None, "https://queue.example.org"))
    assert (found["THEIRS"], found["PYTHONHOME"]) == ("seen", "/usr")
    assert {"WATCHDOG_USEC", "TRACEPARENT", "TRACESTATE"} & set(found) == set()
    assert {name: value for name, value in found.items() if name.startswith("QUEUECTL_")} == {
        "QUEUECTL_HOME": str(tmp_path),
        "QUEUECTL_DATABASE_URL": "",
    }
    monkeypatch.setenv("QUEUECTL_VENV", "relative/to/the/checkout")
    assert environment.of_jobs(Config(tmp_path, None, None))["QUEUECTL_VENV"] == sys.prefix


def test_python_programs_write_unbuffered_unless_set_otherwise(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(tmp_path, None, None)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    assert environment.of_jobs(config)["PYTHONUNBUFFERED"] == "1"
    monkeypatch.setenv("PYTHONUNBUFFERED", "")
    assert environment.of_jobs(config)["PYTHONUNBUFFERED"] == ""


def test_the_database_url_is_passed_on_without_its_password_in_a_variable(tmp_path: Path) -> None:
    def passed_on(url: str) -> str:
        return environment.of_jobs(Config(tmp_path, url, None))["QUEUECTL_DATABASE_URL"]

    assert passed_on("sqlite:////srv/queue.db") == "sqlite:////srv/queue.db"
    assert passed_on("postgresql+psycopg://ana@db/q") == "postgresql://ana@db/q"
    address = passed_on("postgresql+psycopg://ana:s3cret@db/q")
    assert address.startswith("file:///proc/")
    file = Path(address[len("file://") :])
    assert (file.read_text(), file.stat().st_mode & 0o777) == ("postgresql://ana:s3cret@db/q", 0o600)


def test_without_files_in_memory_no_password_is_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr("os.memfd_create")
    assert "QUEUECTL_DATABASE_URL" not in environment.of_jobs(Config(tmp_path, "postgresql+psycopg://a:b@db/q", None))


@pytest.mark.postgresql
def test_a_job_that_enqueues_a_job_reaches_its_own_queue(
    queue: Queue, fleet: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = queue.config.database_url
    if url is not None:
        with_password = make_url(url).set(password=PASSWORD).render_as_string(hide_password=False)
        monkeypatch.setenv("QUEUECTL_DATABASE_URL", with_password)
    fleet()
    # Its own HOME and password are for its own programs.
    job_id = queue.enqueue(
        f"env; cd /; {MANAGE} enqueue --id nested --command 'echo done'",
        env={"HOME": "/nonexistent", "PGPASSWORD": "of another database"},
    )
    queue.reaches(job_id, "completed")
    queue.reaches("nested", "completed")
    assert b"s3cret" not in queue.attempts(job_id)[0].output


def test_a_job_that_lost_the_address_of_its_queue_is_refused(queue: Queue, fleet: Start) -> None:
    fleet()
    job_id = queue.enqueue(f"unset QUEUECTL_HOME; {MANAGE} enqueue --command true", max_retries=0)
    job = queue.reaches(job_id, "dead")
    assert "runs in job" in (job.last_error or "")
    assert "without QUEUECTL_HOME" in (job.last_error or "")
