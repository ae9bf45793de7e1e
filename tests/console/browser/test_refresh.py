"""The refresh control: its intervals, what pauses it, and relative times that update by themselves."""

from __future__ import annotations

import re
import time
from typing import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched
from tests.factories import make_attempt, make_job, make_queue, make_worker
from webapp.lib import clock

COUNT = "window.ticks = 0; document.addEventListener('tick', () => { window.ticks += 1; })"


class Watch:
    """Counts the refreshes of a page. Its clock moves only when the test advances it."""

    def __init__(self, page: Page) -> None:
        self.page = page
        page.add_init_script(COUNT)
        page.clock.install()

    def open(self, url: str) -> Page:
        self.page.goto(url)
        self.page.clock.pause_at(time.time() + 60)
        return self.page

    def in_the_next(self, seconds: int) -> int:
        before = int(self.page.evaluate("ticks"))
        self.page.clock.run_for(seconds * 1000)
        return int(self.page.evaluate("ticks")) - before


@pytest.fixture
def watch(page: Page) -> Watch:
    make_worker(seen_at=clock.now() + clock.seconds(3600))
    make_job("dead", id="job1", command="charge-card 17")
    return Watch(page)


@pytest.mark.parametrize(("pace", "times"), [pytest.param("0", 0, marks=pytest.mark.full), ("2", 15)])
def test_a_page_refreshes_at_the_chosen_interval_and_remembers_it(watch: Watch, pace: str, times: int) -> None:
    page = watch.open("/")
    page.locator("#tick").select_option(pace)
    assert watch.in_the_next(30) == times
    page.goto("/jobs")
    expect(page.locator("#tick")).to_have_value(pace)
    assert watch.in_the_next(30) == times


def test_a_hidden_tab_does_not_refresh_until_it_is_visible(watch: Watch) -> None:
    page = watch.open("/")
    page.evaluate("Object.defineProperty(document, 'hidden', {configurable: true, get: () => true})")
    assert watch.in_the_next(20) == 0
    page.evaluate("delete document.hidden")
    with page.expect_request(lambda request: request.headers.get("hx-request-type") == "partial"):
        page.evaluate("document.dispatchEvent(new Event('visibilitychange'))")


def test_a_refresh_waits_while_text_is_selected_and_says_so(watch: Watch) -> None:
    page = watch.open("/")
    for selected in ("document.querySelector('#live h2')", "document.body"):  # a part of the region, then all of it
        page.evaluate(f"getSelection().selectAllChildren({selected})")
        assert watch.in_the_next(12) == 0
        expect(page.locator("#fresh")).to_have_text("Paused while text is selected")
        page.evaluate("getSelection().removeAllRanges()")
        assert watch.in_the_next(2) == 1
        expect(page.locator("#fresh")).to_have_text("Live")


def test_a_refresh_waits_while_a_user_types_in_the_region(watch: Watch) -> None:
    page = watch.open("/")
    page.evaluate(
        "document.querySelector('#live').append(Object.assign(document.createElement('input'), {id: 'typed'}))"
    )
    page.locator("#typed").press_sequentially("abc")
    assert watch.in_the_next(12) == 0
    expect(page.locator("#fresh")).to_have_text("Paused while you are typing")
    expect(page.locator("#typed")).to_have_value("abc")
    page.locator("#typed").blur()
    assert watch.in_the_next(2) == 1


@pytest.mark.full
def test_times_are_relative_update_by_themselves_and_show_the_exact_time_on_hover(watch: Watch) -> None:
    page = watch.open("/dead")
    died = page.locator("tr:has-text('charge-card') time").first
    expect(died).to_have_text(re.compile(r"^1 min ago$"))
    expect(died).to_have_attribute("title", re.compile(r"^\d+ [A-Z][a-z]{2} \d{4}, \d\d:\d\d:\d\d \S+$"))
    page.locator("#tick").select_option("0")
    page.clock.run_for(125_000)
    expect(died).to_have_text("3 min ago")


@pytest.mark.full
def test_a_refresh_keeps_the_chosen_range_and_an_open_table(watch: Watch) -> None:
    job = make_job("completed", command="send-invoice 3")
    make_attempt(job, 1, "completed", started_at=clock.now() - clock.seconds(2), finished_at=clock.now())
    page = watch.open("/")
    page.get_by_role("link", name="24 hours").click()
    expect(page.get_by_role("heading", name="The last 24 hours")).to_be_visible()
    page.get_by_text("Show data table").click()
    expect(page.get_by_role("row", name="1 0 0 0")).to_be_visible()
    expect(page.get_by_role("group", name="Throughput: 1 run completed")).to_be_visible()
    make_attempt(job, 2, "completed", started_at=clock.now() - clock.seconds(2), finished_at=clock.now())
    assert watch.in_the_next(5) == 1
    expect(page.get_by_role("row", name="2 0 0 0")).to_be_visible()
    expect(page.get_by_role("heading", name="The last 24 hours")).to_be_visible()


@pytest.mark.full
def test_every_page_shows_badges_for_problems(open_browser: Callable[..., Page], watched: Watched) -> None:
    page = open_browser("viewer")
    page.goto("/jobs")
    expect(page.locator("#badge-workers")).to_have_class(re.compile("alarm"))
    expect(page.locator("#badge-workers")).to_contain_text("0")
    expect(page.locator("#warning")).to_contain_text(
        "Jobs will not start. Start a worker: python3 manage.py worker start"
    )
    expect(page.locator("#badge-dead")).to_be_hidden()
    expect(page.locator("#badge-paused")).to_be_hidden()
    make_worker(seen_at=clock.now() + clock.seconds(3600))
    make_job("dead")
    make_queue("mail", paused_by="person:ana")
    page.evaluate("document.dispatchEvent(new Event('tick'))")
    expect(page.locator("#badge-dead")).to_have_class(re.compile("warn"))
    expect(page.locator("#badge-dead")).to_contain_text("1")
    expect(page.locator("#badge-paused")).to_have_class(re.compile("warn"))
    expect(page.locator("#badge-workers")).to_be_hidden()
    expect(page.locator("#warning")).to_be_hidden()
