"""Undo of actions in a real Chromium."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched, press
from tests.console.browser.test_flows import state_of
from tests.factories import change_job, make_job, make_worker
from webapp.jobs import actions, canary
from webapp.jobs.filters import JobFilter


def test_a_toast_offers_an_undo_that_restores_the_job(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/jobs?state=dead")
    page.get_by_role("button", name="Requeue job1").click()
    expect(page.locator("#live tbody tr")).to_have_count(0)
    assert state_of("job1") == "pending"
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page.locator("#toasts")).to_contain_text("Restored 1 job.")
    expect(page.locator("#toasts").get_by_role("button", name="Undo")).to_have_count(0)
    expect(page.locator("#live tbody tr")).to_have_count(1)
    assert state_of("job1") == "dead"


@pytest.mark.full
def test_a_late_undo_is_refused_with_the_reason(page: Page, watched: Watched) -> None:
    watched.expect("status of 409")
    make_job("dead", id="job1")
    page.goto("/job/job1")
    page.get_by_role("button", name="Requeue job1").click()
    undo = page.locator("#toasts").get_by_role("button", name="Undo")
    expect(undo).to_be_visible()
    change_job("job1", attempts=2)  # a worker has claimed it
    undo.click()
    expect(page.locator("#toasts")).to_contain_text("Nothing to undo")


@pytest.mark.full
def test_activity_shows_a_running_canary_and_can_undo_it(page: Page) -> None:
    make_worker()
    for number in range(3):
        make_job("dead", id=f"job{number}")
    actions.apply("cancel", [make_job("pending").id], "person:ana")
    canary.start(JobFilter(state="dead"), "person:ana", "job1")
    page.goto("/")
    press(page, "g", "a")
    page.get_by_role("link", name="Canary retry").click()
    expect(page.locator("#live")).to_contain_text("2 dead letters wait for its result.")
    page.get_by_role("button", name="Undo (1)").click()
    expect(page.locator("#toasts")).to_contain_text("Restored 1 job.")
    expect(page.locator("#live h1")).to_contain_text("stopped")
    assert {state_of(f"job{number}") for number in range(3)} == {"dead"}


@pytest.mark.full
def test_a_bulk_action_is_undone_from_activity(page: Page) -> None:
    for number in range(5):
        make_job("failed", id=f"job{number}")
    actions.apply("cancel", JobFilter(state="failed"), "person:ana")
    page.goto("/activity")
    page.get_by_role("button", name="Undo action 1").click()
    expect(page.locator("#toasts")).to_contain_text("Restored 5 jobs.")
    expect(page.locator("#live tbody tr")).to_have_count(2)
    assert {state_of(f"job{number}") for number in range(5)} == {"failed"}
