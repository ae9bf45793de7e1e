"""The list of jobs in a real Chromium: filter, search, saved views, export, actions on all matches."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched
from tests.console.browser.page_faults import faults_of
from tests.console.browser.test_flows import url_with
from tests.factories import make_job, make_jobs
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import filters


@pytest.fixture(autouse=True)
def _refusals_are_expected(watched: Watched) -> None:
    watched.expect("Failed to load resource: the server responded with a status of 422")


def shown(page: Page) -> Any:
    return page.locator("#live td.job .id")


def test_choosing_a_queue_filters_the_list(page: Page) -> None:
    make_job("dead", id="a", queue="mail", exit_code=7)
    make_job("dead", id="b", queue="media", exit_code=7)
    page.goto("/jobs?state=dead")
    page.fill("#search", "exit:7")
    page.get_by_label("Queue", exact=True).select_option("mail")
    expect(page).to_have_url(url_with("/jobs?state=dead&queue=mail&q=exit%3A7"))
    expect(shown(page)).to_have_text(["a"])
    expect(page.locator("#search")).to_have_value("exit:7")


@pytest.mark.full
def test_without_javascript_a_button_filters_the_list(open_browser: Callable[..., Page]) -> None:
    make_job("dead", id="a", queue="mail")
    make_job("dead", id="b", queue="media")
    page = open_browser("viewer", java_script_enabled=False)
    page.goto("/jobs?state=dead")
    page.get_by_label("Queue", exact=True).select_option("mail")
    expect(shown(page)).to_have_count(2)
    page.get_by_role("button", name="Search", exact=True).click()
    expect(shown(page)).to_have_text(["a"])
    page.get_by_role("link", name="Finished").click()
    expect(page).to_have_url(url_with("queue=mail&sort=oldest"))


@pytest.mark.full
def test_an_invalid_search_is_corrected_in_place(page: Page) -> None:
    make_job("dead", id="a", command="docker run redis:7")
    make_job("completed", id="b", command="docker run redis:7")
    page.goto("/jobs")
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.type("redis:7 state:dead")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text('quote it: "redis:7"')
    expect(page.locator("#search")).to_be_focused()
    expect(page.locator("#search")).to_have_value("redis:7 state:dead")
    page.fill("#search", '"redis:7" state:dead')
    page.keyboard.press("Enter")
    expect(page).to_have_url(url_with("/jobs?state=dead&q=%22redis%3A7%22"))
    expect(shown(page)).to_have_text(["a"])
    expect(page.locator(".tabs [aria-current]")).to_contain_text("dead")


@pytest.mark.full
def test_a_search_is_saved_as_a_view_renamed_and_removed(page: Page) -> None:
    make_job("dead", id="a", exit_code=7)
    page.goto("/jobs?state=dead&q=exit:7")
    page.get_by_text("Save view").click()
    page.get_by_label("View name").fill("sevens")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("View “sevens” saved.")
    page.goto("/jobs?state=failed")
    page.get_by_role("navigation", name="Saved views").get_by_role("link", name="sevens").click()
    expect(shown(page)).to_have_text(["a"])
    page.get_by_text("Edit view").click()
    page.get_by_label("View name").fill("x" * 60)
    page.get_by_role("button", name="Rename").click()
    expect(page.locator(".view[aria-current]")).to_have_text("x" * 60)
    page.goto("/jobs?state=failed")
    page.get_by_text("Save view").click()
    page.get_by_label("View name").fill("X" * 60)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("alert")).to_contain_text("already")
    expect(page.get_by_label("View name")).to_be_focused()
    page.goto("/jobs?state=dead&q=exit%3A7")
    page.get_by_text("Edit view").click()
    page.get_by_role("button", name="Delete view").click()
    expect(page.locator(".view")).to_have_count(0)
    expect(page).to_have_url(url_with("/jobs?state=dead&q=exit%3A7"))


@pytest.mark.full
def test_the_list_is_exported_as_a_file(page: Page, tmp_path: Path) -> None:
    make_jobs([{"state": "dead", "id": f"d{n}", "command": "=1+1"} for n in range(3)])
    page.goto("/jobs?state=dead&q=id:d1")
    page.get_by_text("Export").click()
    with page.expect_download() as taken:
        page.get_by_role("link", name="CSV (spreadsheets)").click()
    assert taken.value.suggested_filename.startswith("queuectl-jobs-dead-")
    taken.value.save_as(tmp_path / "jobs.csv")
    text = (tmp_path / "jobs.csv").read_text()
    assert text.count("\n") == 2
    assert "'=1+1" in text
    with page.expect_download() as taken:
        page.get_by_role("link", name="JSON Lines (programs)").click()
    taken.value.save_as(tmp_path / "jobs.jsonl")
    assert json.loads((tmp_path / "jobs.jsonl").read_text())["id"] == "d1"


def test_all_matching_jobs_are_moved_beyond_the_page_and_the_cap(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 60)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"state": "dead", "id": f"d{n}", "command": "needle" if n % 2 else "hay"} for n in range(150)])
    page.goto("/jobs?state=dead&q=needle")
    expect(page.get_by_text("This page is full.")).to_be_visible()  # the search went on by itself
    expect(shown(page)).to_have_count(50)
    page.get_by_label("Select all on this page").check()
    page.get_by_label("Select all matching jobs").check()
    page.locator("#bulk").get_by_role("button", name="Discard").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("and 70 more")
    expect(dialog.locator(".id")).to_have_text([f"d{n}" for n in (149, 147, 145, 143, 141)])
    dialog.get_by_role("button", name="Discard 75 jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Discarded 75 jobs.")
    with reading() as session:
        assert {job.command for job in session.query(Job)} == {"hay"}


@pytest.mark.full
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_violation_in_opened_menus(open_browser: Callable[..., Page], width: int, scheme: str) -> None:
    make_job("dead", id="a", exit_code=7)
    page = open_browser("viewer", color_scheme=scheme, viewport={"width": width, "height": 800})
    page.goto("/jobs?state=dead&q=exit:7")
    for number in range(8):
        page.get_by_text("Save view").click()
        page.get_by_label("View name").fill(f"a view with a long name, number {number}")
        page.keyboard.press("Enter")
        expect(page.locator(".view[aria-current]")).to_be_visible()
        page.goto(f"/jobs?state=dead&q=exit:{number + 8}")
    for name in ("Save view", "Export", "?"):
        summary = page.locator("main summary").filter(has_text=name)
        summary.click()
        expect(summary.locator("xpath=..")).to_have_attribute("open", "")
        assert faults_of(page) == []
        sheet = summary.locator("xpath=../div").bounding_box()
        assert sheet is not None
        assert sheet["x"] >= 0
        assert sheet["x"] + sheet["width"] <= width
        page.keyboard.press("Escape")
        expect(summary).to_be_focused()
