"""The rules of a queue and the report of a job in a browser: what a person types, sees and saves."""

from __future__ import annotations

import json
from typing import Any

import pytest
from playwright.sync_api import expect

from tests.console.browser.page_faults import faults_of
from tests.faces.test_unique_and_retry import failed_attempts
from tests.factories import make_job, make_worker
from webapp.db.engines import reading, writing
from webapp.db.models import Report
from webapp.jobs import queue_actions

pytestmark = [pytest.mark.browser, pytest.mark.full]


@pytest.mark.parametrize("width", [1280, 390])
def test_rules_are_previewed_mended_and_saved(open_browser: Any, watched: Any, width: int) -> None:
    watched.expect("status of 422")
    failed_attempts()
    page = open_browser("admin", viewport={"width": width, "height": 900})
    page.goto("/queue/default/retry")
    page.fill("#retry", "exit 0: bury")
    page.click("text=Preview")
    expect(page.locator("#retry-problem")).to_contain_text("0 is not an exit code above 0")
    assert faults_of(page) == []
    page.fill("#retry", "exit 1: bury\noutput no such host: bury")
    page.click("text=Preview")
    expect(page.locator("#preview")).to_contain_text(
        "1 of the last 4 failed attempts would have had a different result"
    )
    assert faults_of(page) == []
    page.click("text=Save rules")
    expect(page.locator("body")).to_contain_text("Retry rules of queue default saved.")
    with reading() as session:
        rules = queue_actions.retry_rules_of(session, "default")
    assert rules.lines == ["exit 1: bury", "output no such host: bury"]


@pytest.mark.parametrize("width", [1280, 390])
def test_a_report_moves_while_the_job_runs(open_browser: Any, width: int) -> None:
    make_worker(id="w1")
    running = make_job("processing", id="run", attempts=1, worker_id="w1", unique_key="k", unique_while="unfinished")
    with writing() as session:
        found = {"note": "page 4", "result": json.dumps({"rows": 5}), "fault": "it is not a file.", "retry_after": 30}
        session.add(Report(job_seq=running.seq, attempt=1, progress=0.4, updated_at=1, **found))
    page = open_browser("admin", viewport={"width": width, "height": 900})
    page.goto("/job/run")
    expect(page.locator(".report")).to_contain_text("40 %")
    assert faults_of(page) == []
    with writing() as session:
        session.query(Report).update({"progress": 0.5})
    expect(page.locator(".report")).to_contain_text("50 %", timeout=20_000)
    page.goto("/jobs?state=processing")
    expect(page.locator("#job-1")).to_contain_text("50 %")
    assert faults_of(page) == []
