"""Charts in a browser: a tooltip, a drag that chooses the window, and long values on a narrow screen."""

from __future__ import annotations

import re
from typing import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.page_faults import faults_of
from tests.factories import make_attempt, make_job, make_worker
from webapp.lib import clock
from webapp.lib.clock import MINUTE


def ended(minutes: int, took: int = 1, **values: object) -> None:
    at = clock.now() - minutes * MINUTE
    job = make_job("completed", finished_at=at, **values)
    start = at - clock.seconds(took)
    make_attempt(job, 1, "completed", started_at=start, finished_at=at, due_at=start - clock.seconds(took))


def test_a_bar_has_a_tooltip_and_a_drag_across_the_chart_chooses_the_window(page: Page) -> None:
    make_worker(seen_at=clock.now() + clock.DAY)
    for minutes in (10, 30, 50):
        ended(minutes)
    page.goto("/?metric=run")
    page.wait_for_load_state("load")
    chart = page.locator(".drawn")
    box = chart.bounding_box()
    assert box is not None

    def drag(*, to: float) -> None:
        page.mouse.move(box["x"] + box["width"] * 0.1, box["y"] + 100)
        page.mouse.down()
        page.mouse.move(box["x"] + box["width"] * to, box["y"] + 60, steps=4)

    page.locator(".drawn .step").first.hover()
    expect(page.locator("#tip")).to_contain_text("p50 1 s")
    drag(to=0.6)
    expect(page.locator(".chosen")).to_have_count(1)
    page.keyboard.press("Escape")
    page.mouse.up()
    expect(page.locator(".chosen")).to_have_count(0)
    assert page.url.endswith("/?metric=run")
    drag(to=0.6)
    page.mouse.up()
    page.wait_for_url(re.compile(r"/\?metric=run&from=.*&to="))
    expect(page.locator(".drawn .step")).to_have_count(2)
    expect(page.get_by_role("heading", level=2).first).to_contain_text("\N{EN DASH}")
    page.locator(".window-menu summary").click()
    expect(page.get_by_label("From")).not_to_have_value("")
    page.keyboard.press("Escape")
    page.get_by_role("link", name="1 hour").click()
    expect(page.locator(".drawn .step")).to_have_count(3)


@pytest.mark.full
@pytest.mark.parametrize("width", [360, 390])
def test_long_values_fit_on_a_narrow_screen(open_browser: Callable[..., Page], width: int) -> None:
    make_worker(id="w" * 100, host="h" * 100, seen_at=clock.now() + clock.DAY)
    for minutes in range(2, 50):
        ended(minutes, 170, queue="q" * 100, command="c" * 300)
    for number in range(3):
        make_job("dead", error_key=f"e{number}", last_error="e" * 200, command="d" * 300, finished_at=clock.now())
    make_job("processing", worker_id="w" * 100, command="r" * 300)
    page = open_browser("admin", viewport={"width": width, "height": 800})
    page.goto("/")
    expect(page.locator(".latency")).to_contain_text("p99 2 min 50 s")
    faults: list[str] = []
    for url in ("/", "/?metric=wait&split=1", "/?over=7d", "/queues", f"/queue/{'q' * 100}", f"/command/{'c' * 119}…"):
        page.goto(url)
        faults += faults_of(page, only_looks=True)
    assert faults == []
