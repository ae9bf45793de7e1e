"""Dead letters in a real Chromium: groups, notes, acknowledgement, and two users at the same time."""

from __future__ import annotations

import re
from typing import Any, Callable, Optional

import pytest
from playwright.sync_api import Page, expect

from tests.factories import change_job, make_attempt, make_chunk, make_job, make_user, make_worker
from webapp.db.engines import reading, writing
from webapp.db.models import Group, OutputTail
from webapp.jobs import job_detail
from webapp.lib import clock


@pytest.fixture(autouse=True)
def _refusals_are_expected(watched: Any) -> None:
    for status in ("404", "409", "422"):  # Chromium reports each such response as an error
        watched.expect(f"status of {status}")


def state_of(job_id: str) -> Optional[str]:
    with reading() as session:
        job = job_detail.find(session, job_id)
    return job.state if job else None


def group() -> Optional[Group]:
    with reading() as session:
        return session.get(Group, "exit:1")


def test_a_group_is_examined_and_requeued_after_its_impact_is_shown(page: Page) -> None:
    make_worker(id="w1", queues='["default"]', slots=2)
    good = make_job("completed", command="import 7")
    make_attempt(good, 1, "completed", output=b"read\nwrote\n")
    for number in range(3):
        queue = "mail" if number else "default"
        job = make_job("dead", id=f"job{number}", command="import 7", queue=queue, last_error="exit code 3: disk full")
        make_attempt(job, 1, output=b"read\ndisk full\n")
    page.goto("/dead")
    page.get_by_role("link", name="exit code 3: disk full").click()
    expect(page.get_by_role("heading", name="exit code 3: disk full")).to_be_visible()
    expect(page.locator(".diff")).to_contain_text("- wrote")
    expect(page.locator(".diff")).to_contain_text("+ disk full")
    page.get_by_role("button", name="Requeue all…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("on 2 slots")
    expect(dialog).to_contain_text("No running worker serves queue mail: 2 jobs will wait")
    dialog.get_by_role("button", name="Requeue 3 jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Requeued 3 jobs.")
    expect(page.get_by_text("no dead letters left")).to_be_visible()
    expect(page.locator(".moves")).to_contain_text("3 requeued by")
    expect(page.locator(".moves")).to_contain_text("3 pending")
    assert [state_of(f"job{number}") for number in range(3)] == ["pending"] * 3


@pytest.mark.full
def test_a_dead_letter_that_arrives_after_the_dialog_is_not_discarded(page: Page) -> None:
    make_job("dead", id="seen")
    page.goto("/dead/exit:1")
    page.get_by_role("button", name="Discard all…").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name="Discard 1 job?")).to_be_visible()
    make_job("dead", id="unseen")
    dialog.get_by_role("button", name="Discard 1 job").click()
    expect(page.locator("#toasts")).to_contain_text("Discarded 1 job.")
    expect(page.get_by_label("Select unseen")).to_be_visible()
    assert (state_of("seen"), state_of("unseen")) == (None, "dead")


@pytest.mark.full
def test_all_jobs_of_a_group_are_selected_and_no_others_are_moved(page: Page) -> None:
    for number in range(60):
        make_job("dead", id=f"job{number}")
    make_job("dead", id="other", error_key="other")
    page.goto("/dead/exit:1")
    page.get_by_label("Select all on this page").check()
    page.locator("#all").check()
    page.locator("#bulk").get_by_role("button", name="Requeue").click()
    page.get_by_role("dialog").get_by_role("button", name="Requeue 60 jobs").click()
    expect(page.locator("#toasts")).to_contain_text("Requeued 60 jobs.")
    assert (state_of("job59"), state_of("other")) == ("pending", "dead")


def test_a_canary_is_watched_on_the_page_of_its_group_and_stopped(page: Page) -> None:
    for number in range(5):
        make_job("dead", id=f"job{number}", finished_at=clock.now() - number * clock.SECOND)
    page.goto("/dead")
    page.get_by_role("button", name="Retry one first… of group exit code 1").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("3 jobs succeeded").check()
    dialog.get_by_role("button", name="Retry one first").click()
    expect(page.locator("#toasts")).to_contain_text("2 jobs wait for its result")
    page.get_by_role("link", name="Watch canary").click()
    steps = page.locator("#canary .steps > li")
    expect(steps.nth(0)).to_contain_text("Requeue 3 jobs")
    expect(steps.nth(1)).to_contain_text("job0 waits for a worker")
    expect(steps.nth(2)).to_contain_text("Release 2 others")
    change_job("job0", state="processing", attempts=2, token="t", worker_id="w1", started_at=clock.now())
    with reading() as session:
        job = job_detail.find(session, "job0")
    assert job is not None
    make_chunk(job, b"charging card\n50 %")
    expect(steps.nth(1)).to_contain_text("charging card")
    page.get_by_role("button", name="Stop canary").click()
    expect(steps.nth(2)).to_contain_text("They were left alone.")
    expect(page.get_by_role("button", name="Requeue all…")).to_be_visible()
    assert state_of("job4") == "dead"


@pytest.mark.full
def test_a_group_is_acknowledged_until_it_recurs(page: Page) -> None:
    make_job("dead", id="job1")
    page.goto("/dead/exit:1")
    page.locator("#tick").select_option("1")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator("#toasts")).to_contain_text("It reopens with the next dead letter.")
    badge = page.locator(".group-head .badge")
    expect(badge).to_have_text("acknowledged")
    make_job("dead", id="job2")
    expect(badge).to_have_text("recurred")
    expect(page.get_by_label("Select job2")).to_be_visible()


@pytest.mark.full
def test_a_stale_acknowledgement_is_reported(open_browser: Callable[..., Page]) -> None:
    make_job("dead", id="job1")
    first, second = open_browser("operator", name="ana"), open_browser("operator", name="ben")
    for page in (first, second):
        page.goto("/dead/exit:1")
        page.locator("#tick").select_option("0")
    first.get_by_role("button", name="Acknowledge").click()
    expect(first.locator(".group-head .badge")).to_have_text("acknowledged")
    second.get_by_role("button", name="Acknowledge").click()
    expect(second.locator("#toasts")).to_contain_text("Already acknowledged.")
    make_job("dead", id="job2")
    first.get_by_role("button", name="Reopen").click()
    expect(first.locator("#toasts")).to_contain_text("Already open.")
    first.get_by_role("button", name="Acknowledge").click()
    expect(first.locator(".group-head .badge")).to_have_text("acknowledged")


@pytest.mark.full
def test_two_users_write_a_note_and_the_second_is_warned(open_browser: Callable[..., Page]) -> None:
    make_job("dead", id="job1")
    first, second = open_browser("operator", name="ana"), open_browser("operator", name="ben")
    for page in (first, second):
        page.goto("/dead/exit:1")
    first.locator("#note").fill("the disk is full")
    first.locator("#owner").select_option("ana")
    first.get_by_role("button", name="Save").click()
    expect(first.get_by_text("Note saved.")).to_be_visible()
    expect(first.locator(".note")).to_contain_text("the disk is full")
    second.locator("#note").fill("it is <b>the</b> network")
    second.get_by_role("button", name="Save").click()
    expect(second.get_by_role("alert").first).to_contain_text("ana has changed it")
    expect(second.locator(".note")).to_contain_text("the disk is full")
    expect(second.locator("#note")).to_have_value("it is <b>the</b> network")
    second.get_by_role("button", name="Save").click()
    expect(second.locator(".note")).to_contain_text("it is <b>the</b> network")
    stored = group()
    assert stored is not None
    assert (stored.note, stored.changed_by) == ("it is <b>the</b> network", "person:ben")


@pytest.mark.full
def test_dead_letters_are_found_by_their_output(page: Page) -> None:
    for name, words in (("job1", "connecting\nno route to host\n"), ("job2", "permission denied\n")):
        job = make_job("dead", id=name)
        with writing() as session:
            session.add(OutputTail(job_seq=job.seq, text=words))
    page.goto("/dead")
    page.keyboard.press("/")
    page.keyboard.type("ROUTE host queue:default")
    page.keyboard.press("Enter")
    expect(page.locator("#live tbody tr")).to_have_count(1)
    expect(page.locator("#live tbody tr")).to_contain_text("… no route to host")
    page.locator("#live a.what").click()
    expect(page).to_have_url(re.compile(r"/job/job1\b"))


@pytest.mark.full
def test_a_group_works_without_javascript(open_browser: Callable[..., Page]) -> None:
    make_user("ben", "operator")
    make_job("dead", id="job1")
    make_job("dead", id="job2")
    page = open_browser("operator", java_script_enabled=False)
    page.goto("/dead/exit:1")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.get_by_text("Acknowledged. It reopens")).to_be_visible()
    page.locator("#note").fill("known")
    page.locator("#owner").select_option("ben")
    page.get_by_role("button", name="Save").click()
    expect(page.locator(".note")).to_contain_text("known")
    page.get_by_role("button", name="Requeue all…").click()
    expect(page.get_by_role("heading", name="Requeue 2 jobs?")).to_be_visible()
    expect(page.locator(".impact")).to_contain_text("No workers running")
    page.get_by_role("button", name="Requeue 2 jobs").click()
    expect(page.get_by_text("no dead letters left")).to_be_visible()
    expect(page.get_by_text("Requeued 2 jobs.")).to_be_visible()
    expect(page.locator(".note")).to_contain_text("known")
