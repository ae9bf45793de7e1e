"""Pages of dead letters: groups, one group, an empty group, search, and refusals."""

from __future__ import annotations

import re
from html import unescape

import pytest

from tests.console.conftest import Browser
from tests.factories import change_job, make_attempt, make_job, make_jobs, make_user, make_worker
from webapp.console import dead_letters
from webapp.db import failure_keys
from webapp.db.engines import reading, writing
from webapp.db.models import Group
from webapp.insight import failure_groups
from webapp.jobs import actions, canary, queries
from webapp.jobs.filters import JobFilter
from webapp.lib import clock


def text_of(browser: Browser, url: str, **options: bool) -> str:
    return browser.get(url, **options).get_data(as_text=True)


def group_keys(html: str) -> list[str]:
    return re.findall(r'class="what" href="/dead/([^"]+)"', html)


def job_ids(html: str) -> list[str]:
    return re.findall(r'class="what" href="/job/([^"]+)"', html)


def test_groups_are_sorted_and_paged(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dead_letters, "SHOWN_GROUPS", 2)
    now = clock.now()
    for age, key in enumerate(("a", "b", "b", "b", "c", "c", "c", "c")):
        make_job("dead", error_key=key, finished_at=now - age * clock.SECOND)
    assert group_keys(text_of(viewer, "/dead")) == ["a", "b"]
    assert group_keys(text_of(viewer, "/dead?page=2")) == ["c"]
    assert group_keys(text_of(viewer, "/dead?sort=count")) == ["c", "b"]
    assert 'href="/dead?sort=count&amp;page=2"' in text_of(viewer, "/dead?sort=count")
    assert "8 dead letters in 3 groups, 3 open" in text_of(viewer, "/dead")


def test_too_many_groups_are_reported(viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_groups, "MAX_GROUPS", 1)
    make_job("dead", error_key="a")
    make_job("dead", error_key="b")
    assert "There are more than 1 groups" in text_of(viewer, "/dead")


def test_a_group_shows_its_jobs_and_the_last_output_of_the_chosen_one(viewer: Browser) -> None:
    for name in ("old", "new"):
        job = make_job("dead", id=name, finished_at=clock.now() - (name == "old"))
        make_attempt(job, 1, output=f"words of {name}\n".encode())
    make_job("dead", id="other", error_key="other")
    html = text_of(viewer, "/dead/exit:1")
    assert job_ids(html) == ["new", "old"]
    assert "words of new" in html
    assert "words of old" in text_of(viewer, "/dead/exit:1?job=old")
    assert "words of new" in text_of(viewer, "/dead/exit:1?job=other")


def test_an_empty_group_keeps_its_note_and_a_refresh_shows_that_it_is_empty(operator: Browser) -> None:
    make_job("dead", id="job1")
    failure_groups.update("exit:1", "person:ana", note="ask the shop")
    change_job("job1", state="pending", finished_at=None)
    page = operator.get("/dead/exit:1")
    assert page.status_code == 200
    assert "This group is empty" in page.get_data(as_text=True)
    assert "ask the shop" in page.get_data(as_text=True)
    refreshed = operator.get("/dead/exit:1", partial=True)
    assert refreshed.status_code == 200
    assert b"No dead letters in this group" in refreshed.data
    never = operator.get("/dead/never")
    assert never.status_code == 404
    assert b"Group not found" in never.data
    assert b'name="note"' not in never.data


def test_an_invalid_note_form_keeps_the_input(operator: Browser) -> None:
    make_job("dead")
    seen = failure_groups.fingerprint(None)
    response = operator.post("/dead/exit:1/note", {"note": "a note", "owner": "nobody", "seen": seen})
    html = response.get_data(as_text=True)
    assert response.status_code == 422
    assert "Owner &#39;nobody&#39; is not an active user" in html
    assert ">a note</textarea>" in html
    assert operator.post("/dead/none/note", {"note": "x"}).status_code == 404
    saved = operator.post("/dead/exit:1/note", {"note": "a note", "owner": "", "seen": seen})
    assert (saved.status_code, saved.headers["Location"]) == (303, "/dead/exit:1")


def test_a_disabled_owner_stays_selected(operator: Browser) -> None:
    user = make_user("gone", "operator")
    make_job("dead")
    failure_groups.update("exit:1", "person:ana", owner="gone")
    with writing() as session:
        session.merge(user).disabled_at = 1
    assert "<option selected>gone</option>" in text_of(operator, "/dead/exit:1")


def test_a_group_is_discarded_after_confirmation_and_has_no_other_action(operator: Browser) -> None:
    make_job("dead")
    make_job("dead", id="other", error_key="other")
    asked = operator.post("/dead/exit:1/discard", partial=True)
    assert b"Discard 1 job?" in asked.data
    assert b"Discarded 1 job." in operator.post("/dead/exit:1/discard", {"confirmed": "1"}, partial=True).data
    assert operator.post("/dead/exit:1/discard", partial=True).status_code == 409
    assert operator.post("/dead/other/run-now").status_code == 404
    with reading() as session:
        assert failure_groups.find(session, "other") is not None


def test_a_requeue_of_selected_jobs_shows_its_impact_first(operator: Browser) -> None:
    make_worker(slots=2, queues='["default"]')
    for name, queue in (("a", "default"), ("b", "default"), ("c", "mail")):
        make_job("dead", id=name, queue=queue)
    make_job("completed", id="d")
    html = operator.post("/jobs/requeue", {"id": ["a", "b", "c", "d"]}, partial=True).get_data(as_text=True)
    assert "Requeue 4 jobs?" in html
    assert "on 2 slots" in html
    assert "1 job will wait" in html
    assert 'class="impact"' not in operator.post("/jobs/discard", {"id": ["a", "b"]}, partial=True).get_data(
        as_text=True
    )
    assert 'class="impact"' not in operator.post("/jobs/requeue", {"id": ["d", "e"]}, partial=True).get_data(
        as_text=True
    )


def test_an_emptied_group_says_what_happened_and_how_it_goes_on(operator: Browser) -> None:
    for number in range(3):
        make_job("dead", id=f"job{number}")
    make_job("dead", id="other", error_key="other", last_error="exit code 9")
    first = clock.now() - clock.DAY
    change_job("job0", finished_at=first)
    actions.apply("requeue", JobFilter(state="dead"), "person:ana")
    change_job("job1", state="completed", attempts=2, finished_at=clock.now())
    html = text_of(operator, "/dead/exit:1")
    assert "exit code 1" in html
    assert "3 requeued by ana with 1 job of other groups" in html
    assert ": 1 completed, 3 pending" in html
    make_job("dead")
    assert "3 requeued by ana" in text_of(operator, "/dead/exit:1")
    actions.undo(1, "person:ben")
    html = text_of(operator, "/dead/exit:1")
    assert "undone by ben; 1 completed" in html
    with reading() as session:
        group = failure_groups.find(session, "exit:1")
    assert group is not None
    assert group.first_at == first
    actions.apply("discard", JobFilter(state="dead"), "person:ana")
    assert re.search(r"3 discarded by ana with \d jobs? of other groups", text_of(operator, "/dead/exit:1"))


def test_commands_of_a_group_are_counted_and_filter_its_jobs(operator: Browser) -> None:
    for number, command in enumerate(("charge-card order-1", "charge-card order-2", "refund order-3")):
        make_job("dead", id=f"job{number}", command=command)
    make_job("dead", id="other", error_key="other", command="refund order-4")
    assert re.search(r"charge-card order-N <[^>]+>. 2</span>, refund order-N", text_of(operator, "/dead"))
    html = text_of(operator, "/dead/exit:1")
    link = re.search(r'href="(/dead/exit:1\?q=[^"]*refund[^"]*)"', html)
    assert link is not None
    shown = text_of(operator, link[1].replace("&amp;", "&"))
    assert job_ids(shown) == ["job2"]
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', shown))
    form = {name: unescape(fields[name]) for name in ("state", "q", "group")}
    assert b"Requeue 1 job?" in operator.post("/jobs/requeue", {**form, "all": "1"}, partial=True).data
    wrong = operator.get("/dead/exit:1?q=exit:x")
    assert wrong.status_code == 422
    assert b'role="alert"' in wrong.data


def test_a_link_to_a_group_of_an_earlier_version_leads_to_its_group_now(operator: Browser) -> None:
    make_job("dead")
    with writing() as session:
        failure_keys.adopt(session.connection(), "old", "exit:1")
    assert operator.get("/dead/old").headers["Location"] == "/dead/exit:1"
    form = {"note": "x", "owner": "", "seen": failure_groups.fingerprint(None)}
    assert operator.post("/dead/old/note", {**form, "seen": "other"}).status_code == 422
    assert operator.post("/dead/old/note", form).status_code == 303
    assert operator.post("/dead/old/requeue", partial=True).status_code == 409
    with reading() as session:
        assert session.get_one(Group, "exit:1").note == "x"


def test_a_group_shows_how_its_canary_ended(operator: Browser) -> None:
    for number in range(5):
        make_job("dead", id=f"job{number}", finished_at=clock.now() - number * clock.SECOND)
    canary.start(JobFilter(group="exit:1"), "person:ana")
    assert "canary runs" in text_of(operator, "/dead")
    assert "job0 waits for a worker" in text_of(operator, "/dead/exit:1")
    change_job("job0", state="failed", attempts=2, finished_at=None)
    assert "job0 failed and is retried" in text_of(operator, "/dead/exit:1")
    change_job("job0", state="dead", finished_at=clock.now())
    canary.check_all()
    assert "canary ended" in text_of(operator, "/dead")
    html = text_of(operator, "/dead/exit:1")
    assert "Canary job0 failed for good again." in html
    assert "Release 4 others" in html
    canary.start(JobFilter(group="exit:1"), "person:ana", rule="3")
    for number in range(3):
        change_job(f"job{number}", state="completed", attempts=3, finished_at=clock.now())
    for action in canary.check_all():
        actions.resume(action)
    html = text_of(operator, "/dead/exit:1")
    assert "3 canary jobs completed; the rest is requeued." in html
    assert "Requeued 2 jobs." in html
    assert ": 3 completed, 2 pending" in html


def test_the_pass_rule_of_a_canary_is_chosen_and_checked(operator: Browser) -> None:
    for number in range(40):
        make_job("dead", id=f"job{number}")
    asked = operator.post("/dead/exit:1/canary", partial=True).get_data(as_text=True)
    assert re.findall(r'name="after" value="([^"]+)"', asked) == ["1", "3", "10%"]
    assert "4 jobs (10 %) succeeded" in asked
    bad = operator.post("/dead/exit:1/canary", {"confirmed": "1", "after": "2"}, partial=True)
    assert bad.status_code == 400
    assert b"Expected one of 1, 3, 10%" in bad.data
    done = operator.post("/dead/exit:1/canary", {"confirmed": "1", "after": "10%"}, partial=True)
    assert b"36 jobs wait for its result." in done.data


def test_a_question_about_what_cannot_be_undone_counts_exactly(
    operator: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queries, "COUNT_CAP", 10)
    make_jobs([{"state": "dead"} for _ in range(24)] + [{"state": "dead", "queue": "_system"}])
    for url, form in (("/dead/exit:1/discard", {}), ("/jobs/discard", {"all": "1", "state": "dead"})):
        asked = operator.post(url, form, partial=True).get_data(as_text=True)
        number = 25 if "exit:1" in url else 24  # a named group has all of its jobs
        assert f"Discard {number} jobs?" in asked
        assert f"and {number - 5} more" in asked


def test_the_search_box_of_dead_letters_leads_to_the_search_of_jobs(operator: Browser) -> None:
    html = text_of(operator, "/dead")
    assert 'action="/jobs"' in html
    assert '<input type="hidden" name="state" value="dead">' in html
    assert operator.get("/dead?q=no+route").headers["Location"] == "/jobs?state=dead&q=no+route"
