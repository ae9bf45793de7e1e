"""Flows by keyboard alone, with a visible focus everywhere."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import press
from tests.console.browser.page_faults import faults_of
from tests.console.browser.test_flows import state_of
from tests.console.browser.test_pages import PAGES, fill
from tests.factories import make_job
from webapp.accounts import users

MOST_STOPS = 400  # presses of the tab key on one page

# Returns the element with the focus, and how it is marked.
FOCUS = """() => {
  const one = document.activeElement;
  if (!one || one === document.body) return null;
  const style = getComputedStyle(one), box = one.getBoundingClientRect();
  window.stops = window.stops || [];
  const before = window.stops.indexOf(one);
  if (before < 0) window.stops.push(one);
  const stays = window.last === one;  // a field of several parts, such as a time
  window.last = one;
  const marked = style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2;
  const seen = box.width > 0 && box.height > 0;
  return {again: before >= 0 && !stays, marked, seen, html: one.outerHTML.slice(0, 120)};
}"""


def tab_to(page: Page, name: str, role: str = "button") -> None:
    """Press the tab key until the element with this role and name has the focus."""
    wanted = page.get_by_role(role, name=name, exact=True)  # type: ignore[arg-type]
    expect(wanted.first).to_be_visible()
    for _ in range(MOST_STOPS):
        if any(one.evaluate("one => one === document.activeElement") for one in wanted.all()):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"the tab key does not reach {role} {name!r}")


@pytest.mark.full
def test_the_tab_key_reaches_every_control_and_the_focus_is_visible(
    open_browser: Callable[..., Page], watched: Any
) -> None:
    watched.expect("status of 404")
    watched.expect("status of 422")
    fill()
    page = open_browser("admin")
    faults: list[Any] = []
    for url in [*PAGES, "/job/dead", "/job/completed"]:
        page.goto(url)
        page.locator("body").evaluate("body => { body.tabIndex = -1; body.focus(); body.removeAttribute('tabindex'); }")
        for _ in range(MOST_STOPS):
            page.keyboard.press("Tab")
            at = page.evaluate(FOCUS)
            if at is None or at["again"]:
                break
            if not at["marked"] or not at["seen"]:
                faults.append((url, at))
        else:
            faults.append((url, "has no end"))
        missed = page.evaluate(
            """() => [...document.querySelectorAll("a[href], button, input:not([type=hidden]), select, textarea")]
                 .filter((one) => one.checkVisibility({visibilityProperty: true}) && !one.disabled && one.tabIndex >= 0)
                 .filter((one) => !(one.type === "radio" && !one.checked))
                 .filter((one) => !window.stops.includes(one)).map((one) => one.outerHTML.slice(0, 120))"""
        )
        faults += [(url, "never reached", one) for one in missed]
    assert faults == []


def test_a_user_signs_in_submits_and_cancels_by_keyboard(open_browser: Callable[..., Page]) -> None:
    users.add("ben", "a horse eats blue staples", "operator", "person:test")
    page = open_browser(None)
    page.goto("/")
    page.keyboard.type("ben")
    page.keyboard.press("Tab")
    page.keyboard.type("a horse eats blue staples")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    press(page, "n")
    expect(page.locator("#command")).to_be_focused()
    page.keyboard.type("sleep 100")
    tab_to(page, "Submit job")
    page.keyboard.press("Enter")
    expect(page.get_by_text(" submitted.")).to_be_visible()
    press(page, "g", "j")
    expect(page.get_by_role("heading", name="Jobs", exact=True)).to_be_visible()
    press(page, "j", "Enter")
    expect(page).to_have_url(re.compile("/job/"))
    job_id = page.url.rpartition("/")[2]
    tab_to(page, f"Cancel {job_id}")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text(f"{job_id} cancelled.")
    tab_to(page, "Undo")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("Restored 1 job.")
    assert state_of(job_id) == "pending"


def test_rows_are_selected_and_requeued_by_keyboard(page: Page) -> None:
    for number in range(3):
        make_job("dead", id=f"job{number}")
    page.goto("/jobs?state=dead")
    for _ in range(2):
        press(page, "j", "x")
    expect(page.locator("#ticked")).to_have_text("2 selected")
    bulk = page.locator("#bulk").get_by_role("button", name="Requeue")
    for _ in range(MOST_STOPS):
        if bulk.evaluate("one => one === document.activeElement"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()
    page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    expect(bulk).to_be_focused()
    page.keyboard.press("Enter")
    expect(dialog).to_contain_text("Requeue 2 jobs?")
    page.keyboard.press("Tab")
    expect(dialog.get_by_role("button", name="Requeue 2 jobs")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("Requeued 2 jobs.")
    expect(page.locator("#live tbody tr")).to_have_count(1)


def test_the_palette_acts_and_leads_by_keyboard(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/workers")
    press(page, "Control+k")
    expect(page.get_by_role("link", name="Page Overview")).to_be_visible()
    page.keyboard.type("requeue job1")
    page.keyboard.press("Enter")  # before the results are there: the first one for this text
    expect(page.locator("#toasts")).to_contain_text("job1 requeued.")
    expect(page.locator("#palette")).not_to_be_visible()
    assert state_of("job1") == "pending"
    press(page, "Control+k")
    page.keyboard.type("job1")
    expect(page.get_by_role("link", name="Job job1")).to_be_visible()
    assert faults_of(page) == []
    for _ in range(2):
        page.keyboard.press("ArrowDown")
    expect(page.get_by_role("button", name="Action Cancel job1")).to_be_focused()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile("/job/job1$"))


EARLY = """
  const {setTimeout} = window;  // htmx starts in a timeout of its own
  window.setTimeout = (call, ...more) => setTimeout(call, ...(more.length ? more : [1000]));
  document.addEventListener("DOMContentLoaded", () => document.body.dispatchEvent(
    new KeyboardEvent("keydown", {key: "k", ctrlKey: true, bubbles: true})));
"""


def test_a_palette_that_opens_before_htmx_has_started_is_not_empty(page: Page) -> None:
    page.add_init_script(EARLY)
    page.goto("/workers")
    expect(page.get_by_role("link", name="Page Overview")).to_be_visible()


def test_the_search_box_completes_words_by_keyboard(page: Page) -> None:
    make_job("dead", id="a")
    make_job("completed", id="b")
    page.goto("/jobs")
    press(page, "/")
    page.keyboard.type("echo -sta")
    expect(page.locator("#suggestions")).to_contain_text("-state:")
    assert faults_of(page) == []
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#search")).to_have_value("echo -state:")
    page.keyboard.type("com")
    page.get_by_role("button", name="-state:completed").click()
    expect(page.locator("#search")).to_have_value("echo -state:completed ")
    page.keyboard.press("Enter")
    expect(page.locator("#live td.job .id")).to_have_text(["a"])
