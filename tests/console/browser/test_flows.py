"""Complete user flows in a real Chromium."""

from __future__ import annotations

import re
from typing import Callable, Optional

import pytest
from flask import Flask
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched, press
from tests.factories import change_job, make_attempt, make_chunk, make_job, make_queue, make_worker
from webapp.accounts import users
from webapp.db.engines import reading, writing
from webapp.db.models import Attempt, Job, OutputChunk
from webapp.jobs import job_detail, settings
from webapp.lib import clock


def state_of(job_id: str) -> Optional[str]:
    with reading() as session:
        job = job_detail.find(session, job_id)
        return job.state if job is not None else None


def test_the_set_up_link_creates_an_admin_who_can_sign_out_and_in(open_browser: Callable[..., Page]) -> None:
    token = users.new_setup_link()
    page = open_browser(None)
    page.goto("/jobs?state=dead")
    expect(page).to_have_url(url_with("/login?next="))
    page.goto(f"/setup/{token}")
    page.fill("#name", "ana")
    page.fill("#password", "short")
    page.fill("#again", "short")
    with page.expect_response("**/setup/*") as answer:
        page.get_by_role("button", name="Create admin account").click()
    assert answer.value.status == 422
    expect(page.locator("#password-problem")).to_contain_text("expected 10 to 1000")
    expect(page.locator("#name")).to_have_value("ana")
    page.fill("#password", "a long enough secret")
    page.fill("#again", "a long enough secret")
    page.get_by_role("button", name="Create admin account").click()
    expect(page.get_by_text("Welcome, ana.")).to_be_visible()
    page.locator(".menu.user summary").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.goto("/jobs?state=dead")
    page.fill("#name", "ana")
    page.fill("#password", "not the secret")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_contain_text("Wrong user name or password")
    page.fill("#password", "a long enough secret")
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(url_with("/jobs?state=dead"))


def url_with(part: str) -> re.Pattern[str]:
    return re.compile(re.escape(part))


@pytest.fixture(autouse=True)
def _wrong_inputs_are_expected(watched: Watched) -> None:
    for status in ("422", "409"):  # Chromium reports each such response as an error
        watched.expect(f"Failed to load resource: the server responded with a status of {status}")


def test_a_job_is_submitted_after_corrections(page: Page) -> None:
    page.goto("/submit")
    page.locator("details.options summary").click()
    page.fill("#priority", "900")
    page.locator("#priority").blur()
    expect(page.locator("#priority-problem")).to_contain_text("-100 to 100")
    page.fill("#max_retries", "2")
    page.locator("#max_retries").blur()
    expect(page.locator("#plan tbody tr")).to_have_count(2)
    expect(page.locator("#max_retries-problem:empty")).to_have_count(1)
    page.get_by_role("button", name="Submit job").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Fix these 2 fields")
    expect(page.locator("#command")).to_be_focused()
    expect(page.locator("#priority")).to_have_value("900")
    page.fill("#command", "echo one\necho two")
    page.fill("#priority", "5")
    page.locator("#command").press("Control+Enter")
    expect(page.get_by_text(" submitted.")).to_be_visible()
    expect(page.locator(".command-card")).to_contain_text("echo two")
    with reading() as session:
        job = session.query(Job).one()
    assert (job.command, job.priority, job.max_retries) == ("echo one\necho two", 5, 2)


def test_a_dead_letter_is_requeued_in_place(page: Page) -> None:
    make_worker()
    job = make_job("dead", id="job1")
    make_job("dead", id="job2")
    page.goto("/dead/exit:1")
    expect(page.locator("#badge-dead")).to_contain_text("2")
    page.get_by_role("button", name="Requeue job1").click()
    expect(page.locator("#toasts")).to_contain_text("job1 requeued.")
    expect(page.locator(f"#job-{job.seq}")).to_have_count(0)
    expect(page.locator("#badge-dead")).to_contain_text("1")
    assert state_of("job1") == "pending"


@pytest.mark.full
def test_a_stale_action_is_reported_and_nothing_happens_twice(open_browser: Callable[..., Page]) -> None:
    make_job("dead", id="job1")
    first, second = open_browser("operator", name="ana"), open_browser("operator", name="ben")
    for page in (first, second):
        page.goto("/job/job1")
        page.locator("#tick").select_option("0")
    first.get_by_role("button", name="Requeue job1").click()
    expect(first.locator("#toasts")).to_contain_text("requeued")
    second.get_by_role("button", name="Requeue job1").click()
    expect(second.locator("#toasts")).to_contain_text("job1 is pending")
    expect(second.locator(".job-head .badge")).to_have_text("pending")
    with reading() as session:
        job = job_detail.find(session, "job1")
        assert job is not None
        assert [event.verb for event in job_detail.events(session, job)] == ["requeue"]


@pytest.mark.full
def test_a_discard_asks_first_and_cancel_keeps_the_job(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/job/job1")
    page.locator(".more-acts summary").click()
    page.get_by_role("button", name="Discard job1").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("This cannot be undone")
    dialog.get_by_role("button", name="Cancel").click()
    expect(dialog).to_be_hidden()
    assert state_of("job1") == "dead"
    page.locator(".more-acts summary").click()
    page.get_by_role("button", name="Discard job1").click()
    dialog.get_by_role("button", name="Discard job").click()
    expect(page).to_have_url(url_with("/jobs"))
    expect(page.get_by_text("job1 discarded.")).to_be_visible()
    assert state_of("job1") is None


@pytest.mark.full
def test_selected_jobs_are_requeued_after_confirmation(page: Page) -> None:
    for number in range(4):
        make_job("dead", id=f"job{number}")
    page.goto("/jobs?state=dead")
    expect(page.locator("#bulk")).to_be_hidden()
    for number in range(3):
        page.get_by_label(f"Select job{number}").check()
    expect(page.locator("#ticked")).to_have_text("3 selected")
    page.locator("#bulk").get_by_role("button", name="Requeue").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Requeue 3 jobs?")
    change_job("job0", state="cancelled")
    dialog.get_by_role("button", name="Requeue 3 jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Requeued 3 jobs.")
    expect(page.locator("#live tbody tr")).to_have_count(1)
    expect(page.locator("#bulk")).to_be_hidden()


@pytest.mark.full
def test_all_matching_jobs_are_moved_beyond_the_page(page: Page) -> None:
    for number in range(60):
        make_job("dead", id=f"job{number}", command="true" if number % 2 else "false")
    make_job("dead", id="other")
    page.goto("/jobs?state=dead&q=job")
    page.locator("#tick-all").check()
    expect(page.locator("#ticked")).to_have_text("50 selected")
    page.locator("#all").check()
    page.locator("#bulk").get_by_role("button", name="Requeue").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Requeue 60 jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Requeued 60 jobs.")
    assert state_of("other") == "dead"
    assert state_of("job3") == "pending"


@pytest.mark.full
def test_a_refresh_waits_while_rows_are_selected_and_then_continues(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/dead/exit:1")
    page.locator("#tick").select_option("1")
    page.get_by_label("Select job1").check()
    expect(page.locator("#fresh")).to_have_text("Paused while rows are selected")
    later = make_job("dead", id="job2")
    expect(page.locator("#fresh")).to_be_visible()
    assert page.locator(f"#job-{later.seq}").count() == 0
    page.locator("#untick").click()
    expect(page.locator(f"#job-{later.seq}")).to_be_visible()


WATCH = """() => { window.seen = [];
    new MutationObserver(all => window.seen.push(...all
        .filter(one => ![one.target, one.target.parentNode].some(node => node?.nodeName === 'TIME') &&
            !/^(class|data-htmx-powered)$/.test(one.attributeName))
        .map(one => one.type + ' of ' + one.target.nodeName + ' ' + (one.attributeName || one.target.textContent))))
    .observe(document.body, {subtree: true, childList: true, attributes: true, characterData: true}) }"""
TICK = """() => new Promise(done => {
    document.addEventListener('htmx:finally:request', () => setTimeout(done), {once: true});
    document.dispatchEvent(new CustomEvent('tick')) })"""


def test_a_refresh_without_changes_touches_no_element(page: Page) -> None:
    make_worker(seen_at=clock.now() + clock.seconds(600))
    job = make_job("dead", id="job1", finished_at=clock.now() - clock.seconds(7000))
    ended = clock.now() - clock.seconds(7000)  # too old for recent figures, which change with time
    make_attempt(job, 1, output=b"hello\n", started_at=ended - clock.SECOND, finished_at=ended)
    pages = "/ /jobs /dead /dead/exit:1 /job/job1 /workers /queues /config /people /tokens"
    for url in pages.split():
        page.goto(url)
        page.locator("#tick").select_option("0")
        page.evaluate(WATCH)
        for known in (True, False):
            if not known:  # the same again, but with a full response that is morphed
                page.evaluate("""document.addEventListener('htmx:before:request', ({detail: {ctx}}) =>
                    delete ctx.request.headers['If-None-Match'])""")
            with page.expect_response(lambda answer: answer.request.headers.get("hx-request") == "true") as answer:
                page.evaluate(TICK)
            assert answer.value.status == (304 if known else 200), url
            assert page.evaluate("window.seen") == [], url


def test_a_refresh_keeps_unchanged_rows_and_open_details(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/dead/exit:1")
    page.locator("#tick").select_option("0")
    page.evaluate("document.querySelector('#live tbody tr').dataset.mark = 'same'")
    page.locator("#live .what").focus()
    make_job("dead", id="job2")
    page.evaluate(TICK)
    expect(page.locator("#live tbody tr")).to_have_count(2)
    expect(page.locator("#live tbody tr").nth(1).locator(".what")).to_be_focused()
    expect(page.locator("#badge-dead")).to_contain_text("2")


@pytest.mark.full
def test_if_the_focused_row_disappears_the_next_row_gets_the_focus(page: Page) -> None:
    for number in (1, 2, 3):
        make_job("dead", id=f"job{number}", finished_at=clock.now() - clock.seconds(number))
    page.goto("/dead/exit:1")
    page.get_by_role("button", name="Requeue job2").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Requeue job3")).to_be_focused()


def test_output_is_followed_until_the_attempt_ends(page: Page) -> None:
    make_worker(id="w1")
    job = make_job("processing", id="job1", worker_id="w1")
    make_chunk(job, b"\x1b[31mone\x1b[0m\n10 %\r20 %")
    page.goto("/job/job1")
    expect(page.locator("#out .f1")).to_have_text("one")
    expect(page.locator("#open")).to_have_text("20 %")
    make_chunk(job, b"\rdone\ntwo\n", position=len(b"\x1b[31mone\x1b[0m\n10 %\r20 %"))
    expect(page.locator("#out > div")).to_have_text(["one", "done", "two"])
    expect(page.locator("#open")).to_have_text("")
    settle(job, b"\x1b[31mone\x1b[0m\n10 %\r20 %\rdone\ntwo\nthree\n")
    expect(page.locator("#out > div")).to_have_text(["one", "done", "two", "three"])
    expect(page.locator("#tail[hx-get]")).to_have_count(0)
    expect(page.locator(".job-head .badge")).to_have_text("completed")


def settle(job: Job, output: bytes) -> None:
    """Write what a worker writes at the end of an attempt."""
    now = clock.now()
    with writing() as session:
        session.query(OutputChunk).delete()
        session.add(
            Attempt(
                job_seq=job.seq, number=1, state="completed", reason="exit", worker_id="w1", started_at=now,
                finished_at=now, exit_code=0, output=output, output_runs=str(len(output)), output_dropped=0,
            )
        )  # fmt: skip
        session.query(Job).filter(Job.seq == job.seq).update(
            {"state": "completed", "token": None, "worker_id": None, "finished_at": now, "exit_code": 0}
        )


@pytest.mark.full
def test_earlier_lines_are_loaded_on_request(page: Page) -> None:
    job = make_job("completed", id="job1")
    make_attempt(job, 1, "completed", output=b"".join(b"line %d\n" % number for number in range(2500)))
    page.goto("/job/job1")
    expect(page.locator("#pane div.earlier > div, #out > div")).to_have_count(1000)
    page.get_by_role("link", name="Earlier").click()
    expect(page.locator("#pane div.earlier > div, #out > div")).to_have_count(2000)
    page.get_by_role("link", name="Earlier").click()
    expect(page.locator("#pane div.earlier > div, #out > div")).to_have_count(2500)
    expect(page.locator("#pane div.earlier > div").first).to_have_text("line 0")
    expect(page.get_by_role("link", name="Earlier")).to_have_count(0)


@pytest.mark.full
def test_on_a_phone_the_selection_bar_is_visible_and_the_menu_shows_alarms(
    open_browser: Callable[..., Page],
) -> None:
    for name in ("a", "b", "c"):
        make_job("dead", id=name)
    page = open_browser("operator", viewport={"width": 390, "height": 700}, has_touch=True)
    page.goto("/jobs?state=dead")
    page.get_by_label("Select a", exact=True).tap()
    page.get_by_label("Select b", exact=True).tap()
    expect(page.get_by_text("Paused while rows are selected")).to_be_visible()
    page.locator("#bulk").get_by_role("button", name="Requeue").tap()
    page.get_by_role("button", name="Requeue 2 jobs").tap()
    expect(page.get_by_text("Requeued 2 jobs.")).to_be_visible()
    page.locator("details.narrow summary").tap()
    expect(page.locator("#badge-dead-menu")).to_contain_text("1")


@pytest.mark.full
def test_a_setting_is_changed_after_its_effect_is_shown(page: Page) -> None:
    page.goto("/config/backoff_base")
    page.fill("#value", "900")
    expect(page.locator("#value-problem")).to_contain_text("from 1 to 100")
    page.fill("#value", "3")
    expect(page.locator("#consequence .differs")).to_have_count(3)
    expect(page.locator("#value-problem:empty")).to_have_count(1)  # otherwise the field would stay marked as invalid
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_text("backoff_base = 3")).to_be_visible()
    expect(page.locator(".timeline")).to_contain_text("2 default → 3")
    page.fill("#value", "4")
    page.press("#value", "Enter")  # Enter presses the first button of a form, which must not be Reset
    expect(page.get_by_text("backoff_base = 4")).to_be_visible()
    page.get_by_role("button", name="Reset to default (2)", exact=True).click()
    expect(page.get_by_text("(default)")).to_be_visible()
    with reading() as session:
        assert settings.load(session).backoff_base == 2


@pytest.mark.full
def test_a_worker_is_drained_and_a_queue_is_paused(page: Page) -> None:
    make_worker(id="w1")
    make_queue("mail")
    page.goto("/workers")
    page.get_by_role("button", name="Drain worker w1").click()
    expect(page.get_by_role("button", name="Resume worker w1")).to_be_visible()
    page.goto("/queues")
    page.get_by_role("button", name="Pause queue mail").click()
    expect(page.locator("#badge-paused")).to_contain_text("1")
    expect(page.get_by_role("button", name="Resume queue mail")).to_be_visible()


def test_everything_works_without_javascript(open_browser: Callable[..., Page]) -> None:
    make_job("dead", id="job1")
    make_job("dead", id="job2")
    make_job("dead", id="job3")
    page = open_browser("operator", java_script_enabled=False)
    page.goto("/dead/exit:1")
    page.get_by_role("button", name="Requeue job1").click()
    expect(page).to_have_url(url_with("/dead/exit:1"))
    expect(page.get_by_text("job1 requeued.")).to_be_visible()
    page.get_by_label("Select job2").check()
    page.locator("#bulk").get_by_role("button", name="Discard").click()
    expect(page.get_by_role("heading", name="Discard 1 job?")).to_be_visible()
    page.get_by_role("button", name="Discard 1 job").click()
    expect(page.get_by_text("Discarded 1 job.")).to_be_visible()
    page.goto("/dead")
    page.get_by_role("button", name="Requeue all…", exact=True).click()
    page.get_by_role("button", name="Requeue 1 job").click()
    assert [state_of(f"job{number}") for number in (1, 2, 3)] == ["pending", None, "pending"]
    page.goto("/submit")
    page.fill("#command", "true")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_text(" submitted.")).to_be_visible()


@pytest.mark.full
def test_keyboard_shortcuts_open_pages_and_rows(page: Page, console: Flask) -> None:
    make_job("dead", id="job1")
    page.goto("/")
    press(page, "g", "d")
    expect(page).to_have_url(url_with("/dead"))
    press(page, "j")
    expect(page.locator("#live .what").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page).to_have_url(url_with("/dead/exit:1"))
    press(page, "j", "x")
    expect(page.get_by_label("Select job1")).to_be_checked()
    page.keyboard.press("/")
    expect(page.locator("#search")).to_be_focused()
    page.keyboard.press("?")
    expect(page.locator("#search")).to_have_value("?")
    page.locator("h1").click()
    page.keyboard.press("?")
    expect(page.locator("#keys")).to_be_visible()


def test_after_sign_out_elsewhere_a_message_appears_and_the_refresh_stops(
    open_browser: Callable[..., Page], watched: Watched
) -> None:
    watched.expect("status of 401")
    page = open_browser("operator", name="ana")
    page.goto("/jobs")
    users.set_password("ana", "a new and longer secret", "rule:test")
    page.locator("#tick").select_option("1")
    expect(page.locator("#toasts")).to_contain_text("You are signed out.")
    expect(page.locator("#toasts").get_by_role("link", name="Sign in")).to_be_visible()
    expect(page.locator("#fresh")).to_have_text("Signed out")
