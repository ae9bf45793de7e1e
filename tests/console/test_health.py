"""What a load balancer or a watchman is told without log-in."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import pytest
from sqlalchemy import text

from tests.console.conftest import Browser
from tests.factories import make_worker
from webapp.db.engines import writing


def test_a_console_that_can_store_jobs_is_ready_and_says_how_many_workers_it_sees(stranger: Browser) -> None:
    make_worker()
    make_worker(state="stopped")
    answer = stranger.client.get("/readyz")
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    assert answer.text == "database: ok\ndisk: ok\nworkers: 1\n"


def test_that_nobody_works_is_red_for_those_who_ask_for_it(stranger: Browser) -> None:
    assert stranger.client.get("/readyz").status_code == 200
    answer = stranger.client.get("/readyz?workers")
    assert (answer.status_code, answer.text.splitlines()[-1]) == (503, "workers: 0")
    make_worker()
    assert stranger.client.get("/readyz?workers").status_code == 200


@pytest.mark.parametrize("host", ["", "10.0.0.7:8080", "evil.example", "a b", "x" * 300, "a..b", "[", "\u00e9"])
def test_a_probe_gets_its_answer_under_any_host_and_nothing_else(stranger: Browser, host: str) -> None:
    def ask(url: str) -> tuple[int, str]:
        answer = stranger.client.get(url, environ_overrides={"HTTP_HOST": host, "SERVER_PROTOCOL": "HTTP/1.0"})
        return answer.status_code, answer.text

    assert ask("/healthz") == (200, "ok\n")
    assert ask("/readyz") == (200, "ok\n")
    assert ask("/readyz?workers") == (503, "unavailable\n")
    assert ask("/login")[0] == 400


@pytest.mark.only("sqlite")  # whose disk we see
def test_a_full_disk_is_red(stranger: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=1))
    answer = stranger.client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database: ok\ndisk: full\n")


def test_a_database_that_others_hold_is_red(stranger: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("webapp.web.health.LOCK_TIMEOUT_SECONDS", 0.05)
    with writing() as session:
        session.execute(text("UPDATE control SET pulse = pulse + 1"))
        answer = stranger.client.get("/readyz")
    assert (answer.status_code, answer.text) == (503, "database: cannot be written\n")
