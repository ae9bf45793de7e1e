"""Workers and settings in a real Chromium: draining, stopping, scaling, previewing, reverting."""

from __future__ import annotations

from typing import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched
from tests.console.browser.page_faults import faults_of
from tests.factories import make_job, make_supervisor, make_worker
from webapp.db.engines import reading
from webapp.db.models import Supervisor, Worker
from webapp.jobs import settings
from webapp.lib import clock

Open = Callable[..., Page]


def wanted() -> int:
    with reading() as session:
        return session.get_one(Supervisor, "s1").wanted


def requested_state_of(worker_id: str) -> str:
    with reading() as session:
        return session.get_one(Worker, worker_id).requested_state


def value_of(key: str) -> object:
    with reading() as session:
        return getattr(settings.load(session), key)


def test_a_supervisor_is_scaled_by_buttons_and_to_zero_after_confirmation(page: Page) -> None:
    make_supervisor(id="s1", wanted=1)
    make_worker(id="w1", supervisor_id="s1")
    page.goto("/workers")
    page.get_by_role("button", name="Add one worker to supervisor s1").click()
    expect(page.locator("#toasts")).to_contain_text("from 1 to 2 workers")
    expect(page.locator("#supervisor-s1")).to_contain_text("1 to start")
    fewer = page.get_by_role("button", name="Remove one worker from supervisor s1")
    fewer.click()
    expect(page.locator("#supervisor-s1 .stepper")).to_contain_text("1 worker")
    fewer.click()
    dialog = page.locator("#dialog")
    expect(dialog).to_contain_text("Scale down to 0 workers?")
    dialog.get_by_role("button", name="Cancel").click()
    assert wanted() == 1
    fewer.click()
    dialog.get_by_role("button", name="Scale down to 0").click()
    expect(page.locator("#supervisor-s1")).to_contain_text("1 to stop")
    expect(fewer).to_have_count(0)
    assert wanted() == 0


@pytest.mark.full
def test_a_supervisor_is_scaled_to_a_number_by_keyboard(page: Page, watched: Watched) -> None:
    watched.expect("status of 422")
    make_supervisor(id="s1", wanted=1)
    page.goto("/workers")
    page.get_by_role("link", name="1 worker, change the number").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Workers", exact=True)).to_be_focused()
    page.keyboard.press("Control+A")
    page.keyboard.type("300")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("from 0 to 256")
    page.keyboard.press("Control+A")
    page.keyboard.type("12")
    page.keyboard.press("Enter")
    expect(page.locator("#toasts")).to_contain_text("to 12 workers")
    expect(page.get_by_role("heading", name="Workers", exact=True)).to_be_visible()


@pytest.mark.full
def test_the_last_worker_is_stopped_only_after_confirmation(page: Page) -> None:
    make_supervisor(id="s1", wanted=2)
    for name in ("w1", "w2"):
        make_worker(id=name, supervisor_id="s1")
    make_job("processing", id="job1", command="echo last", worker_id="w2")
    page.goto("/workers")
    page.get_by_role("button", name="Stop worker w1").click()
    expect(page.get_by_role("button", name="Stop worker w1")).to_have_count(0)
    page.get_by_role("button", name="Stop worker w2").click()
    expect(page.locator("#dialog")).to_contain_text("Stop the last worker?")
    expect(page.locator("#dialog")).to_contain_text("echo last")
    assert requested_state_of("w2") == "run"
    page.locator("#dialog").get_by_role("button", name="Stop worker").click()
    expect(page.get_by_role("button", name="Stop worker w2")).to_have_count(0)
    assert (requested_state_of("w2"), wanted()) == ("stop", 0)


def test_a_value_is_previewed_saved_and_reverted(page: Page) -> None:
    make_job("failed")
    page.goto("/config/backoff_base")
    page.fill("#value", "3")
    expect(page.locator("#consequence .differs")).to_have_count(3)
    expect(page.locator("#consequence")).to_contain_text("1 job is waiting for a retry. Its start time does not change")
    assert value_of("backoff_base") == 2
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#toasts")).to_contain_text("Saved: backoff_base = 3")
    page.locator(".changes-of").get_by_role("button", name="Revert to 2").click()
    expect(page.locator("#toasts")).to_contain_text("Saved: backoff_base = 2 (default)")
    expect(page.locator(".changes-of li")).to_have_count(2)
    expect(page.locator(".changes-of li").first).to_contain_text("reverted")


@pytest.mark.full
def test_a_shorter_retention_warns_before_it_is_saved(page: Page) -> None:
    for days in (5, 9):
        make_job("completed", finished_at=clock.now() - days * clock.DAY)
    page.goto("/config/keep_completed")
    page.fill("#value", "4")
    expect(page.locator("#consequence .warn")).to_contain_text("Saving deletes 2 completed jobs")
    page.fill("#value", "0")
    expect(page.locator("#consequence")).to_contain_text("All completed jobs are kept")
    expect(page.locator("#consequence .warn")).to_have_count(0)


@pytest.mark.full
def test_two_users_change_a_setting_and_the_second_is_warned(open_browser: Open, watched: Watched) -> None:
    watched.expect("status of 409")
    ana, ben = open_browser("admin", name="ana"), open_browser("admin", name="ben")
    settings.set_setting("backoff_base", 9, "person:ana")
    for page in (ana, ben):
        page.goto("/config/backoff_base")
    ben.locator(".changes-of").get_by_role("button", name="Revert to 2").click()
    expect(ben.locator("#toasts")).to_contain_text("(default)")
    ana.fill("#value", "5")
    ana.get_by_role("button", name="Save").click()
    expect(ana.get_by_role("alert")).to_contain_text("ben changed it to 2 (default)")
    expect(ana.locator("#value")).to_have_value("5")
    assert value_of("backoff_base") == 2
    ana.get_by_role("button", name="Save").click()
    expect(ana.locator("#toasts")).to_contain_text("backoff_base = 5")
    ben.locator(".changes-of").get_by_role("button", name="Revert to 9").click()
    expect(ben.get_by_role("alert")).to_contain_text("ana changed it to 5. Not reverted.")
    assert value_of("backoff_base") == 5


@pytest.mark.full
def test_workers_and_settings_work_without_javascript(open_browser: Open) -> None:
    make_supervisor(id="s1", wanted=1)
    make_worker(id="w1", supervisor_id="s1")
    page = open_browser("admin", java_script_enabled=False)
    page.goto("/workers")
    page.get_by_role("button", name="Add one worker to supervisor s1").click()
    expect(page.locator("#toasts")).to_contain_text("from 1 to 2 workers")
    page.get_by_role("link", name="2 workers, change the number").click()
    page.get_by_label("Workers", exact=True).fill("0")
    page.get_by_role("button", name="Scale").click()
    page.get_by_role("button", name="Scale down to 0").click()
    expect(page).to_have_url(page.url.split("/supervisor")[0])
    assert wanted() == 0
    page.get_by_role("button", name="Stop worker w1").click()
    page.get_by_role("button", name="Stop worker").click()
    expect(page.locator("#toasts")).to_contain_text("Worker w1 is stopping")
    page.goto("/config/backoff_base")
    page.fill("#value", "3")
    page.get_by_role("button", name="Preview").click()
    expect(page.locator("#consequence .differs")).to_have_count(3)
    expect(page.get_by_text("Not saved yet. The current value is 2.")).to_be_visible()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("#toasts")).to_contain_text("backoff_base = 3")
    page.locator(".changes-of").get_by_role("button", name="Revert to 2").click()
    expect(page.locator("#toasts")).to_contain_text("(default)")


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_axe_finds_no_violation_on_a_busy_workers_page_and_changed_settings(
    open_browser: Open, scheme: str, width: int
) -> None:
    later = clock.now() + clock.seconds(600)
    for number, (host, count) in enumerate((("web-1.example.org", 3), ("web-1.example.org", 0), ("batch-" * 12, 4))):
        make_supervisor(id=f"s{number}", host=host, wanted=count and count + 1, slots=2, queues='["mail", "default"]')
        for place in range(count):
            worker = make_worker(
                id=f"worker-{number}-{place}", supervisor_id=f"s{number}", host=host, slots=2, seen_at=later,
                requested_state=("run", "quiet", "stop")[place % 3], cpu_time=10**12, memory=10**10,
            )  # fmt: skip
            make_job("processing", worker_id=worker.id, command="python3 " + "a-very-long-name " * 30)
    make_worker(id="silent", supervisor_id="s0", host="web-1.example.org", seen_at=1)
    make_worker(state="expired", stopped_at=clock.now())
    for value in (3, 5):
        settings.set_setting("backoff_base", value, "person:" + "b" * 60)
    make_job("dead", finished_at=clock.now() - 9 * clock.DAY)
    page = open_browser("admin", color_scheme=scheme, viewport={"width": width, "height": 800})
    faults: list[str] = []
    for url in ("/workers", "/supervisor/s0", "/config/backoff_base", "/config/keep_dead", "/config/lease"):
        page.goto(url)
        if url == "/workers":
            page.locator("#ended summary").click()
        if url == "/config/keep_dead":
            page.fill("#value", "3")
            expect(page.locator("#consequence .warn")).to_be_visible()
        faults += faults_of(page)
    assert faults == []


@pytest.mark.full
def test_a_refresh_of_unchanged_workers_is_a_304(page: Page) -> None:
    make_supervisor(id="s1", wanted=3, seen_at=clock.now() + clock.seconds(600))
    for _ in range(3):
        make_worker(supervisor_id="s1", seen_at=clock.now() + clock.seconds(600))
    page.goto("/workers")
    with page.expect_response("**/workers") as answer:
        page.locator("#tick").select_option("1")
    assert answer.value.status == 304
