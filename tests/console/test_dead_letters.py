"""Pages of dead letters: groups, one group, an empty group, search, and refusals."""

from __future__ import annotations

import re

import pytest

from tests.console.conftest import Browser
from tests.factories import change_job, make_attempt, make_job, make_user, make_worker
from webapp.console import dead_letters
from webapp.db.engines import reading, writing
from webapp.db.models import OutputTail
from webapp.insight import failure_groups
from webapp.jobs import filters
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
    assert page.status_code == 404
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


def test_a_search_reads_output_and_shows_where_it_stopped(operator: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    now = clock.now()
    for age in range(6):
        job = make_job("dead", id=f"job{age}", finished_at=now - age * clock.SECOND)
        if age in (1, 5):
            with writing() as session:
                session.add(OutputTail(job_seq=job.seq, text="fine\n<b>No route</b>\n"))
    html = text_of(operator, "/dead?q=%22no+route%22")
    assert job_ids(html) == ["job1", "job5"]
    assert "&lt;b&gt;No route&lt;/b&gt;" in html
    assert "Search older" not in html
    monkeypatch.setattr(filters, "SEARCH_CAP", 3)
    html = text_of(operator, "/dead?q=%22no+route%22")
    assert job_ids(html) == ["job1"]
    older = re.search(r'<a href="([^"]+)">Search older', html)
    assert older is not None
    assert job_ids(text_of(operator, older[1].replace("&amp;", "&"))) == ["job5"]


def test_a_requeue_of_all_search_results_moves_no_other_job(operator: Browser) -> None:
    job = make_job("dead", id="job1")
    make_job("dead", id="job2")
    with writing() as session:
        session.add(OutputTail(job_seq=job.seq, text="No route"))
    html = text_of(operator, "/dead?q=route")
    fields = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', html))
    assert (fields["state"], fields["q"], fields["output"]) == ("dead", "route", "1")
    form = {name: fields[name] for name in ("state", "queue", "q", "output")}
    asked = operator.post("/jobs/requeue", {**form, "all": "1"}, partial=True)
    assert b"Requeue 1 job?" in asked.data or b"all that match" in asked.data
    done = operator.post("/jobs/requeue", {**form, "all": "1", "confirmed": "1"}, partial=True)
    assert b"Requeued 1 job." in done.data


def test_an_invalid_search_shows_the_reason(viewer: Browser) -> None:
    response = viewer.get("/dead?q=exit:x")
    assert response.status_code == 422
    assert b'role="alert"' in response.data
    assert b'value="exit:x"' in response.data
