"""A job with label requirements, as a user submits it: a typo, then offered labels, then a matching worker."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched
from tests.factories import make_worker
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.lib import clock


@pytest.fixture(autouse=True)
def _wrong_inputs_are_expected(watched: Watched) -> None:
    watched.expect("Failed to load resource: the server responded with a status of 422")


def test_labels_are_mistyped_corrected_and_matched_by_a_new_worker(page: Page) -> None:
    later = clock.now() + clock.seconds(600)
    make_worker(host="web-1", labels='["gpu"]', seen_at=later)
    make_worker(host="web-2", labels='["ssd"]', seen_at=later)
    page.goto("/submit")
    page.fill("#command", "./train.sh")
    page.locator("details.options summary").click()
    page.fill("#requires", "gpu, no!")
    page.locator("#requires").blur()
    expect(page.locator("#requires-problem")).to_contain_text(
        "'no!' is not a valid label; expected 1 to 128 characters"
    )
    expect(page.locator("#takers:empty")).to_have_count(1)
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_role("alert")).to_contain_text("Fix this field")
    expect(page.locator("#requires")).to_be_focused()
    expect(page.locator("#requires")).to_have_value("gpu, no!")
    expect(page.locator("#command")).to_have_value("./train.sh")

    gpu, ssd = (page.get_by_role("button", name=name, exact=True) for name in ("gpu", "ssd"))
    expect(gpu).to_have_attribute("aria-pressed", "true")
    page.fill("#requires", "")
    expect(gpu).to_have_attribute("aria-pressed", "false")
    gpu.click()
    expect(page.locator("#requires-problem:empty")).to_have_count(1)
    expect(page.locator("#takers:empty")).to_have_count(1)
    ssd.click()
    expect(page.locator("#requires")).to_have_value("gpu, ssd")
    expect(page.locator("#takers")).to_contain_text("needs one worker with labels gpu and ssd")
    expect(page.locator("#takers")).to_contain_text("worker start --label gpu --label ssd")
    ssd.click()
    expect(page.locator("#requires")).to_have_value("gpu")
    expect(page.locator("#takers:empty")).to_have_count(1)
    ssd.press("Enter")
    page.get_by_role("button", name="Submit job").click()

    page.locator("#tick").select_option("1")
    expect(page.locator(".why-box")).to_contain_text("Waiting for one worker with labels gpu and ssd.")
    with reading() as session:
        assert session.query(Job).one().requires == "gpu,ssd"
    make_worker(host="web-3", labels='["gpu", "ssd"]', seen_at=later)
    expect(page.locator(".why-box")).to_contain_text("Next in line for gpu and ssd workers")
    page.locator(".facts .chip", has_text="ssd").click()
    expect(page.locator("#search")).to_have_value("requires:ssd")
    expect(page.locator("#live .chip")).to_have_text(["gpu", "ssd"])
    page.get_by_role("link", name="./train.sh").click()
    page.locator(".more-acts summary").click()
    page.get_by_role("link", name="Duplicate…").click()
    expect(page.locator("#requires")).to_have_value("gpu, ssd")
