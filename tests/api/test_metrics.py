"""`/metrics`: for programs on this machine, and for others with a token."""

from __future__ import annotations

import gzip
from collections.abc import Iterator
from typing import Any, Callable, Optional

import pytest
from flask import Flask
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from werkzeug.test import TestResponse

from tests.api.conftest import Program
from tests.web.test_metrics import samples
from webapp.db.models import SCOPES
from webapp.insight import job_counts
from webapp.web import request_counts

PROMETHEUS = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)


@pytest.fixture(autouse=True)
def _no_thread_stays(whole: Flask) -> Iterator[None]:
    yield
    job_counts.of_app().join()


@pytest.fixture
def scrape(whole: Flask) -> Callable[..., TestResponse]:
    def ask(peer: str = "127.0.0.1", host: str = "localhost:8000", **headers: str) -> TestResponse:
        sent = {"Host": host, **{name.replace("_", "-"): value for name, value in headers.items()}}
        return whole.test_client().get("/metrics", headers=sent, environ_overrides={"REMOTE_ADDR": peer})

    return ask


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1:8000", "[::1]:8000"])
def test_a_program_on_this_machine_needs_no_token(scrape: Callable[..., TestResponse], peer: str, host: str) -> None:
    response = scrape(peer, host)
    assert (response.status_code, response.mimetype) == (200, "text/plain")
    assert response.headers["Cache-Control"] == "no-store"
    assert samples(response.text)["queuectl_dead_jobs_total"] == 0


@pytest.mark.parametrize(
    ("peer", "headers"),
    [
        ("10.0.0.5", {}),
        ("::ffff:10.0.0.5", {}),
        ("", {}),
        *(
            ("127.0.0.1", {name: value})
            for name, value in (
                ("X_Forwarded_For", "10.0.0.5"),
                ("X_Forwarded_For", "127.0.0.1"),  # a stranger behind a proxy may say so
                ("X_Forwarded_Host", "localhost"),
                ("X_Forwarded_Proto", "https"),
                ("X_Real_IP", "127.0.0.1"),
                ("Forwarded", "for=127.0.0.1"),
                ("Via", "1.1 proxy"),
            )
        ),
    ],
)
def test_others_and_proxies_need_one(scrape: Callable[..., TestResponse], peer: str, headers: dict[str, str]) -> None:
    response = scrape(peer, **headers)
    assert (response.status_code, response.mimetype) == (401, "application/problem+json")
    assert response.headers["WWW-Authenticate"] == 'Bearer realm="queuectl"'
    assert "queuectl_" not in response.text


def test_a_page_of_another_site_that_points_its_name_here_gets_nothing(scrape: Callable[..., TestResponse]) -> None:
    assert scrape(host="evil.example").status_code == 400


@pytest.mark.postgresql
@pytest.mark.parametrize("scope", SCOPES)
def test_a_token_of_any_scope_is_enough(
    scrape: Callable[..., TestResponse], program: Callable[[str], Program], scope: str
) -> None:
    bearer = program(scope).headers["Authorization"]
    response = scrape("10.0.0.5", X_Forwarded_For="1.2.3.4", Authorization=bearer, Accept=PROMETHEUS)
    assert response.status_code == 200
    assert scrape("10.0.0.5", Authorization="Bearer qctl_wrong").status_code == 401
    assert scrape("10.0.0.5", Authorization=bearer, Accept="text/html").status_code == 406


def test_prometheus_gets_the_format_that_it_prefers_compressed(scrape: Callable[..., TestResponse]) -> None:
    response = scrape(Accept=PROMETHEUS, Accept_Encoding="gzip")
    assert response.mimetype == "application/openmetrics-text"
    written = response.data
    if response.headers.get("Content-Encoding") == "gzip":
        written = gzip.decompress(written)
    parsed = text_string_to_metric_families(written.decode())  # type: ignore[no-untyped-call]
    families = {family.name for family in parsed}
    assert families > {"queuectl_jobs_counted_timestamp_seconds", "queuectl_attempts", "queuectl_run_seconds"}


def test_requests_are_counted_as_they_were_answered(whole: Flask, scrape: Callable[..., TestResponse]) -> None:
    def counted() -> dict[str, float]:
        found = samples(scrape().text)
        return {
            status: found[f'queuectl_http_requests_total{{status="{status}"}}'] for status in request_counts.CLASSES
        }

    before = counted()
    for path in ("/readyz?workers", "/login", "/jobs", "/api/v1/jobs", "/nowhere.txt"):
        whole.test_client().get(path)
    after = counted()
    assert {status: after[status] - before[status] for status in after} == {"2xx": 2, "3xx": 2, "4xx": 1, "5xx": 0}


def test_without_the_first_count_the_other_figures_are_served(
    scrape: Callable[..., TestResponse], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_counts.JobCounter, "current", _none)
    found = samples(scrape().text)
    assert "queuectl_jobs_counted_timestamp_seconds" not in found
    assert "queuectl_oldest_pending_seconds" in found


def _none(_counter: Any) -> Optional[Any]:
    return None
