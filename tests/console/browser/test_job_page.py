"""The page of one job and the submit form in a real Chromium: invalid input at each step, and no scripts."""

from __future__ import annotations

import re
from typing import Any, Callable

import pytest
from playwright.sync_api import Page, expect

from tests.console.browser.conftest import Watched
from tests.console.browser.page_faults import faults_of
from tests.factories import change_job, make_attempt, make_chunk, make_job, make_queue, make_worker
from webapp.db.engines import reading, writing
from webapp.db.models import Job, OutputChunk
from webapp.lib import clock

LINES = b"".join(b"line %d\n" % number for number in range(1, 2501))
TICK = "document.dispatchEvent(new CustomEvent('tick'))"


@pytest.fixture(autouse=True)
def _wrong_inputs_are_expected(watched: Watched) -> None:
    watched.expect("Failed to load resource: the server responded with a status of 422")


def with_path(part: str) -> re.Pattern[str]:
    return re.compile(re.escape(part))


def in_view(page: Page, selector: str) -> bool:
    """Whether the pane is scrolled to this line."""
    return bool(
        page.evaluate(
            """selector => { const pane = document.querySelector('#pane').getBoundingClientRect(),
                line = document.querySelector(selector).getBoundingClientRect();
                return line.top >= pane.top - 1 && line.bottom <= pane.bottom + 1 }""",
            selector,
        )
    )


# --- why it waits ----------------------------------------------------------------------------------------------------


@pytest.mark.full
def test_the_button_beside_the_wait_reason_resolves_it(page: Page) -> None:
    make_worker(seen_at=clock.now() + clock.seconds(600))
    make_queue("mail", paused_by="person:ben")
    make_job("failed", id="job1", queue="mail")
    page.goto("/job/job1")
    why = page.locator(".why-box")
    expect(why).to_contain_text("next retry in")
    expect(why).to_contain_text("Queue mail was paused by ben")
    expect(page.locator(".job-head").get_by_role("button", name="Run now")).to_have_count(0)  # shown beside the reason
    why.get_by_role("button", name="Run now job1").click()
    expect(page.locator(".job-head .badge")).to_have_text("pending")
    why.get_by_role("button", name="Resume mail").click()
    expect(why).to_contain_text("Next in line.")


@pytest.mark.full
def test_draining_workers_are_resumed_by_admins(open_browser: Callable[..., Page]) -> None:
    make_worker(id="w1", requested_state="quiet", seen_at=clock.now() + clock.seconds(600))
    make_job("pending", id="job1")
    operator = open_browser("operator")
    operator.goto("/job/job1")
    expect(operator.locator(".why-box")).to_contain_text("are draining")
    expect(operator.locator(".why-box").get_by_role("link", name="View workers")).to_be_visible()
    expect(operator.locator(".why-box").get_by_role("button")).to_have_count(0)
    admin = open_browser("admin")
    admin.goto("/job/job1")
    admin.get_by_role("button", name="Resume w1").click()
    expect(admin.locator(".why-box")).to_contain_text("Next in line.")


# --- output ----------------------------------------------------------------------------------------------------------


def test_a_link_to_a_line_works_from_anywhere(
    page: Page, open_browser: Callable[..., Page], eventually: Callable[..., Any]
) -> None:
    job = make_job("dead", id="job1", attempts=1)
    make_attempt(job, 1, output=LINES)
    page.goto("/job/job1")
    page.locator("#L2400 a").click()
    expect(page).to_have_url(with_path("/job/job1?attempt=1&line=L2400#L2400"))
    expect(page.locator("#L2400")).to_have_class("marked")
    page.locator("#L2401 a").click()
    expect(page.locator(".marked")).to_have_text("line 2401")
    other = open_browser("viewer")
    other.goto("/job/job1?attempt=1&line=L700#L700")
    expect(other.locator("#L700")).to_have_text("line 700")
    eventually(lambda: in_view(other, "#L700"))
    other.goto("about:blank")
    other.goto("/job/job1#L900")  # a typed URL: the page does not show this line yet
    expect(other).to_have_url(with_path("?attempt=1&line=L900#L900"))
    expect(other.locator("#L900")).to_have_class("marked")


@pytest.mark.full
def test_from_the_middle_of_the_output_both_ends_can_be_reached(page: Page) -> None:
    make_attempt(make_job("dead", id="job1", attempts=1), 1, output=LINES)
    page.goto("/job/job1")
    page.get_by_label("Go to line").fill("nonsense")
    page.get_by_role("button", name="Go", exact=True).click()
    assert page.evaluate("document.querySelector('#line').validity.patternMismatch")
    page.get_by_label("Go to line").fill("9000")
    page.get_by_role("button", name="Go", exact=True).click()
    expect(page.locator(".output-notice")).to_have_text("Line 9000 does not exist. The output has 2,500 lines.")
    page.get_by_label("Go to line").fill("1200")
    page.get_by_role("button", name="Go", exact=True).click()
    lines = page.locator("#pane :is(.earlier, #out) > div")
    expect(lines).to_have_count(1000)
    page.get_by_role("link", name="Later").click()
    expect(lines).to_have_count(1551)
    expect(page.locator("#L2500")).to_have_count(1)
    expect(page.get_by_role("link", name="Later")).to_have_count(0)
    page.get_by_role("link", name="Earlier").click()
    expect(lines).to_have_count(2500)
    expect(page.locator("#L1")).to_have_count(1)


@pytest.mark.full
def test_a_search_in_the_output_moves_between_hits(page: Page, eventually: Callable[..., Any]) -> None:
    make_attempt(make_job("dead", id="job1", attempts=1), 1, output=LINES + b"\x1b[31mLI\x1b[0mNE 7 again\n")
    page.goto("/job/job1")
    page.get_by_label("Find in output").fill("no such thing")
    page.keyboard.press("Enter")
    expect(page.locator(".output-notice")).to_contain_text("not found")
    expect(page.locator(".output-notice")).to_be_in_viewport()
    expect(page.get_by_label("Find in output")).to_have_value("no such thing")
    page.get_by_label("Find in output").fill("line 7 ")
    page.keyboard.press("Enter")
    page.get_by_label("Find in output").fill("line 777")
    page.keyboard.press("Enter")
    expect(page.locator(".hits")).to_contain_text("1 of 1 line")
    expect(page.locator(".marked mark")).to_have_text("line 777")
    eventually(lambda: in_view(page, "#L777"))
    page.get_by_label("Find in output").fill("LINE 249")
    page.keyboard.press("Enter")
    expect(page.locator(".hits")).to_contain_text("1 of 11 lines")
    for _ in range(10):
        page.get_by_role("link", name="Next match").click()
    expect(page.locator(".hits")).to_contain_text("11 of 11 lines")
    expect(page.locator(".marked")).to_have_text("line 2499")
    expect(page.get_by_role("link", name="Next match")).to_have_count(0)
    page.get_by_role("link", name="Previous match").click()
    expect(page.locator(".marked")).to_have_text("line 2498")
    page.get_by_role("link", name="Clear").click()
    expect(page.locator(".marked, mark")).to_have_count(0)


@pytest.mark.full
def test_line_links_stay_valid_while_output_arrives(page: Page) -> None:
    make_worker(id="w1", seen_at=clock.now() + clock.seconds(600))
    job = make_job("processing", id="job1", worker_id="w1", attempts=1)
    make_chunk(job, b"one\ntw")
    page.goto("/job/job1")
    expect(page.locator("#out > div")).to_have_text(["one"])
    page.locator("#L1 a").click()
    expect(page.locator("#follow")).not_to_be_checked()
    make_chunk(job, b"o\nthree\n", position=6)
    expect(page.locator("#L2")).to_have_text("two")
    expect(page.locator("#L3")).to_have_text("three")
    expect(page.locator("#L1")).to_have_class("marked")


@pytest.mark.full
def test_a_page_that_runs_for_days_keeps_the_last_lines_only(page: Page) -> None:
    make_worker(id="w1", seen_at=clock.now() + clock.seconds(600))
    job = make_job("processing", id="job1", worker_id="w1", attempts=1)
    page.goto("/job/job1")
    page.locator("#tick").select_option("0")
    position = 0
    for part in range(7):
        data = b"".join(b"line %d\n" % number for number in range(part * 999 + 1, (part + 1) * 999 + 1))
        make_chunk(job, data, position=position)
        position += len(data)
        page.evaluate(TICK)
        expect(page.locator(f"#L{(part + 1) * 999}")).to_have_count(1)
    expect(page.locator("#L1")).to_have_count(0)
    assert page.locator("#out > div").count() <= 6000
    page.get_by_role("link", name="Earlier").click()
    expect(page).to_have_url(re.compile(r"attempt=1&to=L\d+#output"))
    expect(page.locator("#out > div")).to_have_count(1000)


@pytest.mark.full
def test_the_next_attempt_replaces_the_ended_one(page: Page) -> None:
    make_worker(id="w1", seen_at=clock.now() + clock.seconds(600))
    job = make_job("pending", id="job1")
    page.goto("/job/job1?watch=1#output")
    expect(page.locator("#output")).to_contain_text("No output yet")
    now = clock.now()
    change_job("job1", state="processing", attempts=1, worker_id="w1", token="t", started_at=now)
    with writing() as session:
        session.add(OutputChunk(job_seq=job.seq, attempt=1, position=0, data=b"hello\n", runs="6"))
    expect(page.locator("#out > div")).to_have_text(["hello"])
    expect(page.locator("#follow")).to_be_checked()
    make_attempt(job, 1, output=b"hello\n")
    with writing() as session:
        session.query(OutputChunk).delete()
    change_job("job1", state="failed", worker_id=None, token=None, failures=1, run_at=now)
    expect(page.locator("#tail[hx-get]")).to_have_count(0)
    change_job("job1", state="processing", attempts=2, worker_id="w1", token="u", started_at=clock.now())
    with writing() as session:
        session.add(OutputChunk(job_seq=job.seq, attempt=2, position=0, data=b"again\n", runs="6"))
    expect(page.locator("#output-title")).to_have_text("Output of attempt 2")
    expect(page.locator("#out > div")).to_have_text(["again"])


def compare(page: Page) -> None:
    page.locator(".compare-menu summary").click()
    page.get_by_role("button", name="Compare").click()


@pytest.mark.full
def test_two_attempts_are_compared(page: Page) -> None:
    job = make_job("dead", id="job1", attempts=2)
    make_attempt(job, 1, output=b"10:00 start\nok\n")
    make_attempt(job, 2, output=b"10:09 start\n<b>boom</b>\n")
    page.goto("/job/job1")
    compare(page)
    expect(page.locator(".compared tr.gone")).to_have_text(re.compile("^2\\s*\N{MINUS SIGN}\\s*ok$"))
    expect(page.locator(".compared tr.new")).to_have_text(re.compile(r"^2\s*\+\s*<b>boom</b>$"))
    page.locator(".compare-menu summary").click()
    page.get_by_label("Ignore numbers").uncheck()
    page.get_by_role("button", name="Compare").click()
    expect(page.locator(".compared tr.gone")).to_have_count(2)
    page.get_by_role("link", name="Back to output").click()
    expect(page.locator("#out > div")).to_have_count(2)


@pytest.mark.full
def test_output_can_be_read_without_javascript(open_browser: Callable[..., Page]) -> None:
    job = make_job("dead", id="job1", attempts=2)
    make_attempt(job, 1, output=LINES)
    make_attempt(job, 2, output=LINES)
    page = open_browser("viewer", java_script_enabled=False)
    page.goto("/job/job1")
    page.get_by_role("link", name="Earlier").click()
    expect(page.locator("#L501")).to_have_text("line 501")
    page.get_by_label("Find in output").fill("line 12")
    page.get_by_role("button", name="Go", exact=True).click()
    expect(page.locator(".marked")).to_have_text("line 12")
    page.get_by_role("link", name="Next match").click()
    expect(page.locator(".marked")).to_have_text("line 120")
    page.get_by_role("link", name="Later").click()
    expect(page.locator("#L1001")).to_have_count(1)
    page.get_by_role("link", name="To the end").click()
    expect(page.locator("#L2500")).to_have_count(1)
    page.locator("#L2500 a").click()
    expect(page.locator(".marked")).to_have_text("line 2500")
    compare(page)
    expect(page.locator(".compared-head")).to_contain_text("have the same output, ignoring numbers")


# --- edit and retry, masked values, a page that ends -----------------------------------------------------------------


def test_a_dead_job_is_edited_and_the_edit_undone(page: Page) -> None:
    job = make_job("dead", id="job1", command="exit 1", env='{"API_TOKEN": "t0psecret"}')
    make_attempt(job, 1, output=b"one\n")
    page.goto("/job/job1")
    page.get_by_role("link", name="Edit & retry…").click()
    page.get_by_label("Command").fill("exit 0")
    page.get_by_label("Timeout").fill("soon")
    page.get_by_role("button", name="Save and retry").click()
    expect(page.get_by_role("alert")).to_contain_text("Timeout")
    expect(page.get_by_label("Command")).to_have_value("exit 0")
    page.get_by_label("Timeout").fill("10m")
    page.get_by_role("button", name="Save and retry").click()
    expect(page.locator(".timeline .edit")).to_contain_text("exit 1 → exit 0")
    expect(page.locator("h1")).to_have_text("exit 0")
    expect(page).to_have_title("\N{HORIZONTAL ELLIPSIS} exit 0")
    page.locator("#toasts").get_by_role("button", name="Undo").click()
    expect(page).to_have_title("\N{BALLOT X} exit 1")  # a refresh changes title and icon, and leaves the output
    expect(page.locator('link[rel="icon"]')).to_have_attribute("href", re.compile("icon-dead"))
    expect(page.locator("h1")).to_have_text("exit 1")
    expect(page.locator("#out")).to_have_text("one")


@pytest.mark.full
def test_masked_values_are_shown_in_a_dialog(page: Page) -> None:
    make_job("dead", id="job1", env='{"API_TOKEN": "t0psecret"}')
    page.goto("/job/job1")
    expect(page.locator(".facts")).not_to_contain_text("t0psecret")
    page.get_by_role("button", name="Show masked values").click()
    expect(page.get_by_role("dialog")).to_contain_text("t0psecret")
    page.get_by_role("dialog").get_by_role("button", name="Close").click()
    expect(page.get_by_role("dialog")).to_be_hidden()


@pytest.mark.full
@pytest.mark.parametrize("how", ["discarded", "signed out"])
def test_the_clocks_of_a_page_that_is_not_refreshed_stop(page: Page, watched: Watched, how: str) -> None:
    watched.expect("Failed to load resource: the server responded with a status of 40")
    make_job("processing", id="job1", worker_id="w1", started_at=clock.now() - clock.seconds(70))
    page.clock.install()
    page.goto("/job/job1")
    running = page.locator(".why-box time")
    expect(running).to_have_text("for 1 min")
    if how == "discarded":
        with writing() as session:
            session.query(Job).delete()
    else:
        page.context.clear_cookies()
    page.clock.run_for(3000)
    bar = page.locator("#stopped")
    expect(bar).to_contain_text("You are signed out." if how == "signed out" else "It was discarded or deleted.")
    expect(bar.get_by_role("link", name="Sign in")).to_have_count(int(how == "signed out"))
    page.clock.run_for(120_000)
    expect(running).to_have_text("for 1 min")


# --- submit ----------------------------------------------------------------------------------------------------------


def submitted() -> list[Job]:
    with reading() as session:
        return session.query(Job).order_by(Job.seq).all()


@pytest.mark.full
def test_many_lines_become_many_jobs_after_corrections(page: Page) -> None:
    page.goto("/submit")
    page.fill("#command", "echo one\necho two \\\n\necho three")
    page.locator("#command").blur()
    expect(page.locator("#many-count")).to_contain_text("One job: a script of 3 lines.")
    page.get_by_label("One job per line").check()
    expect(page.locator("#command-problem")).to_contain_text("Line 2 ends with a backslash")
    page.locator("details.more summary").click()
    page.fill("#id", "job1")
    page.get_by_role("button", name="Submit job").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("Fix these 2 fields")
    expect(page.locator("#id-problem")).to_contain_text("An id applies to one job")
    expect(page.get_by_label("One job per line")).to_be_checked()
    assert submitted() == []
    page.fill("#id", "")
    page.fill("#command", "echo one\necho two\n\necho three")
    page.locator("#command").blur()
    expect(page.locator("#command-problem:empty")).to_have_count(1)
    expect(page.locator("#many-count")).to_have_text("3 jobs: from echo one to echo three")
    page.get_by_role("button", name="Submit and watch").click()
    expect(page).to_have_url(re.compile(r"/batch/form-\w+\?watch=1"))
    expect(page.get_by_text("3 jobs submitted.")).to_be_visible()
    assert [job.command for job in submitted()] == ["echo one", "echo two", "echo three"]
    change_job(submitted()[1].id, state="completed", finished_at=clock.now())
    expect(page.locator(".batch")).to_contain_text("1 of 3 ended")
    page.get_by_role("link", name="echo two").click()
    page.get_by_role("link", name="form-").click()
    expect(page.get_by_role("heading", name="form-")).to_be_visible()


@pytest.mark.full
def test_a_job_is_submitted_and_watched(page: Page) -> None:
    page.goto("/submit")
    page.get_by_role("button", name="Submit and watch").click()
    expect(page.locator("#command-problem")).to_contain_text("Is empty")
    page.fill("#command", "echo hello")
    page.get_by_role("button", name="Submit and watch").click()
    expect(page).to_have_url(re.compile(r"/job/[\w-]+\?watch=1#output"))
    expect(page.locator("[data-fast]")).to_have_count(1)
    expect(page.locator("#output")).to_be_in_viewport()


@pytest.mark.full
def test_a_job_is_submitted_again_with_changes(page: Page) -> None:
    make_job("dead", id="job1", command="echo one\necho two", queue="mail", priority=7, max_retries=4, timeout=90.0,
             cwd="/srv", env='{"A": "1", "B": "x=y"}')  # fmt: skip
    page.goto("/job/job1")
    page.locator(".more-acts summary").click()
    page.get_by_role("link", name="Duplicate…").click()
    for name, value in (("command", "echo one\necho two"), ("queue", "mail"), ("priority", "7"), ("max_retries", "4"),
                        ("timeout", "90"), ("cwd", "/srv"), ("env", "A=1\nB=x=y"), ("id", "")):  # fmt: skip
        expect(page.locator(f"#{name}")).to_have_value(value)
    page.fill("#cwd", "srv")
    page.get_by_role("button", name="Submit job").click()
    expect(page.locator("#cwd-problem")).to_contain_text("absolute path")
    page.fill("#cwd", "/srv/app")
    page.get_by_role("button", name="Submit job").click()
    expect(page.get_by_text(" submitted.")).to_be_visible()
    again = submitted()[-1]
    assert (again.cwd, again.env, again.timeout, again.queue) == ("/srv/app", '{"A": "1", "B": "x=y"}', 90.0, "mail")


# --- appearance ------------------------------------------------------------------------------------------------------


def full(state: str) -> None:
    job = make_job(state, id=state, attempts=3, failures=3)
    for number in (1, 2, 3):
        make_attempt(job, number, output=b"out\n\x1b[31mred\x1b[0m %d\n" % number * 400, output_runs="400,800,900",
                     output_cut=2000, output_dropped=5000, due_at=clock.now() - clock.seconds(9))  # fmt: skip
    if state == "processing":
        change_job(state, attempts=4)


@pytest.mark.full
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_axe_finds_no_violation_on_the_job_pages(
    open_browser: Callable[..., Page], watched: Any, scheme: str, width: int
) -> None:
    for state in ("failed", "dead", "processing"):
        full(state)
    make_job("pending", id="lone", losses=1)
    make_queue("mail", paused_by="person:ben")
    make_job("scheduled", id="paused", queue="mail")
    page = open_browser("admin", color_scheme=scheme, viewport={"width": width, "height": 800})
    page.goto("/submit")
    page.fill("#command", "echo a\necho b")
    page.get_by_label("One job per line").check()
    page.get_by_role("button", name="Submit job").click()
    expect(page).to_have_url(re.compile("/batch/"))
    faults: list[str] = []
    for url in (page.url, "/job/failed", "/job/dead?find=red&hit=3", "/job/dead?attempt=3&against=2", "/job/processing",
                "/job/failed?line=9999", "/job/lone", "/job/paused"):  # fmt: skip
        page.goto(url)
        faults += faults_of(page)
    assert faults == []


@pytest.mark.full
def test_a_printed_page_has_all_information_and_no_controls(page: Page) -> None:
    full("failed")
    page.goto("/job/failed")
    page.emulate_media(media="print", color_scheme="dark")
    for gone in (
        ".top",
        ".buttons",
        ".find-form",
        ".why-box .button",
        "#toasts",
        "#earlier a",
        ".command-card .button",
    ):
        for one in page.locator(gone).all():
            expect(one).to_be_hidden()
    expect(page.get_by_role("heading", name="echo hello")).to_be_visible()
    for there in (".command-card", ".facts", ".timeline .attempt", "#out"):
        expect(page.locator(there).first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
    assert page.locator("#pane").evaluate("pane => getComputedStyle(pane).overflowY") == "visible"
    assert page.locator("#out .f1").first.evaluate("ink => getComputedStyle(ink).color") == "rgb(0, 0, 0)"
