"""Chains and batches in a real Chromium: their buttons, and that their pages have no fault."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.page_faults import faults_of
from tests.console.browser.test_flows import state_of
from tests.console.test_flow import submit
from tests.factories import change_job, make_worker
from webapp.lib import clock


@pytest.mark.full
def test_what_is_below_a_dead_job_is_cancelled_restored_and_follows_its_requeue(page: Page) -> None:
    make_worker()
    submit({"id": "a"}, {"id": "b", "after": ["a"]}, {"id": "c", "after": ["b"]}, batch={"name": "n", "open": True})
    change_job("a", state="dead", finished_at=clock.now(), last_error="exit code 1", error_key="k")
    for url in ("/batches", "/batch/n", "/job/b"):
        page.goto(url)
        assert faults_of(page) == []
    page.goto("/job/a")
    page.get_by_role("button", name="Cancel 2 jobs below…").click()
    page.get_by_role("button", name="Cancel 2 jobs", exact=True).click()
    expect(page.locator("#toasts")).to_contain_text("Cancelled 2 jobs.")
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page.locator("#toasts")).to_contain_text("Restored 2 jobs.")
    page.goto("/job/b")
    page.get_by_role("button", name="Requeue a").click()
    expect(page.locator(".why-box")).to_contain_text("Waits for 1 job: a is pending.")
    assert (state_of("a"), state_of("b")) == ("pending", "blocked")
    page.goto("/batch/n")
    page.get_by_role("button", name="Close batch").click()
    expect(page.locator("h1 + .badge")).to_have_text("running")
