"""Health checks for load balancers and monitors, without sign-in."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from tests.console.conftest import Browser
from tests.factories import make_worker
from webapp.db.engines import writing


def test_a_console_that_can_store_jobs_is_ready_and_counts_workers(anonymous: Browser) -> None:
    make_worker()
    make_worker(state="stopped")
    answer = anonymous.client.get("/readyz")
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert answer.text == "database: ok\ndisk: ok\nworkers: 1\n"


def test_missing_workers_fail_only_the_check_that_asks_for_them(anonymous: Browser) -> None:
    assert anonymous.client.get("/readyz").status_code == 200
    answer = anonymous.client.get("/readyz?workers")
    assert (answer.status_code, answer.text.splitlines()[-1]) == (503, "workers: 0")
    make_worker()
    assert anonymous.client.get("/readyz?workers").status_code == 200


@pytest.mark.parametrize("host", ["", "10.0.0.7:8080", "evil.example", "a b", "x" * 300, "a..b", "[", "\u00e9"])
def test_a_probe_works_with_any_host_header_and_reveals_nothing_else(anonymous: Browser, host: str) -> None:
    def ask(url: str) -> tuple[int, str]:
        answer = anonymous.client.get(url, environ_overrides={"HTTP_HOST": host, "SERVER_PROTOCOL": "HTTP/1.0"})
        return answer.status_code, answer.text

    assert ask("/healthz") == (200, "ok\n")
    assert ask("/readyz") == (200, "ok\n")
    assert ask("/readyz?workers") == (503, "unavailable\n")
    assert ask("/login")[0] == 400


@pytest.mark.only("sqlite")  # its disk is local
def test_a_full_disk_fails_the_check(anonymous: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    answer = anonymous.client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database: ok\ndisk: full\n")


def test_a_locked_database_fails_the_check(anonymous: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.web.health.LOCK_TIMEOUT_SECONDS", 0.05)
    with writing() as session:
        session.execute(text("UPDATE control SET pulse = pulse + 1"))
        answer = anonymous.client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database: cannot be written\n")
