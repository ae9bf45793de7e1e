"""Buttons for jobs, with and without htmx: one job, selected jobs, all matching jobs; and conflicts between users."""

from __future__ import annotations

import json
import re
from typing import Optional

import pytest

from tests.console.conftest import Browser
from tests.factories import change_job, make_job, make_queue, make_worker
from webapp.core.states import STATES
from webapp.db.engines import reading
from webapp.db.models import Event, Job
from webapp.jobs import job_detail


def state_of(job_id: str) -> Optional[str]:
    with reading() as session:
        job = job_detail.find(session, job_id)
        return job.state if job is not None else None


def verbs_done() -> list[str]:
    with reading() as session:
        return [event.verb for event in session.query(Event).order_by(Event.id)]


MAY = {
    "requeue": ("dead", "cancelled", "completed"),
    "run-now": ("blocked", "scheduled", "failed"),
    "cancel": ("blocked", "scheduled", "pending", "failed", "processing"),
    "discard": tuple(state for state in STATES if state != "processing"),
}


@pytest.mark.parametrize(
    ("verb", "state", "done"),
    [
        ("requeue", "dead", "requeue"),
        ("run-now", "failed", "run_now"),
        ("cancel", "pending", "cancel"),
        ("cancel", "processing", "ask_cancel"),
        ("discard", "completed", "discard"),
    ],
)
def test_a_button_runs_its_action_and_gets_a_409_if_the_state_does_not_allow_it(
    operator: Browser, verb: str, state: str, done: str
) -> None:
    make_job(state, id="job1")
    response = operator.post(f"/job/job1/{verb}", {"confirmed": "1"}, partial=True)
    assert response.status_code == 200
    assert json.loads(response.headers["HX-Trigger"]) == {"settled": {"refresh": True}}
    assert verbs_done() == [done]
    make_job("processing" if verb == "discard" else "completed" if verb != "requeue" else "pending", id="job2")
    response = operator.post(f"/job/job2/{verb}", {"confirmed": "1"}, partial=True)
    assert response.status_code == 409
    assert b"Nothing changed." in response.data
    assert verbs_done() == [done]


def test_a_job_page_offers_the_actions_that_its_state_allows(operator: Browser) -> None:
    for state in STATES:
        make_job(state, id=state)
        text = operator.get(f"/job/{state}").get_data(as_text=True)
        offered = set(re.findall(rf'formaction="/job/{state}/([a-z-]+)"', text))
        assert offered == {verb for verb, states in MAY.items() if state in states}


def test_a_plain_form_redirects_to_its_page_with_a_message(operator: Browser) -> None:
    make_job("dead", id="job1")
    where = "/jobs?state=dead"
    response = operator.post("/job/job1/requeue", headers={"Referer": f"http://localhost{where}"})
    assert (response.status_code, response.headers["Location"]) == (303, where)
    assert b"job1 requeued." in operator.get(where).data
    assert b"job1 requeued." not in operator.get(where).data


@pytest.mark.parametrize("referrer", ["http://evil.example/x", "http://["])
def test_a_plain_form_with_a_foreign_referrer_redirects_to_the_job(operator: Browser, referrer: str) -> None:
    make_job("dead", id="job1")
    response = operator.post("/job/job1/requeue", headers={"Referer": referrer})
    assert (response.status_code, response.headers["Location"]) == (303, "/job/job1")


def test_a_plain_form_with_a_stale_state_gets_a_page_with_the_reason(operator: Browser) -> None:
    make_job("pending", id="job1")
    response = operator.post("/job/job1/requeue")
    assert response.status_code == 409
    assert b"job1 is pending. Requeue works for dead" in response.data


def test_a_missing_job_is_a_404(operator: Browser) -> None:
    assert operator.post("/job/none/requeue").status_code == 404
    assert operator.get("/job/none").status_code == 404
    assert operator.post("/job/none/explode").status_code == 404


@pytest.mark.parametrize(("verb", "state"), [("discard", "dead"), ("cancel", "processing")])
def test_an_action_without_undo_asks_for_confirmation(operator: Browser, verb: str, state: str) -> None:
    make_job(state, id="job1")
    dialog = operator.post(f"/job/job1/{verb}", partial=True)
    assert json.loads(dialog.headers["HX-Trigger"]) == {"ask": {}}
    assert b'name="confirmed"' in dialog.data
    page = operator.post(f"/job/job1/{verb}")
    assert b"<h1>" in page.data
    assert b"hx-post" not in page.data.split(b"<main")[1].split(b"</main>")[0]
    assert verbs_done() == []


def test_cancelling_a_pending_job_needs_no_confirmation(operator: Browser) -> None:
    make_job("pending", id="job1")
    assert operator.post("/job/job1/cancel", partial=True).status_code == 200
    assert state_of("job1") == "cancelled"


def test_a_discard_on_the_job_page_redirects_to_the_list(operator: Browser) -> None:
    make_job("dead", id="job1")
    response = operator.post("/job/job1/discard", {"confirmed": "1", "at": "job"}, partial=True)
    assert response.headers["HX-Redirect"] == "/jobs"
    assert state_of("job1") is None


def test_selected_jobs_are_moved_and_changed_ones_are_counted(operator: Browser) -> None:
    for name in ("a", "b", "c"):
        make_job("dead", id=name)
    change_job("c", state="pending", finished_at=None)
    asked = operator.post("/jobs/requeue", {"id": ["a", "b", "c"]}, partial=True)
    assert b"Requeue 3 jobs?" in asked.data
    response = operator.post("/jobs/requeue", {"id": ["a", "b", "c"], "confirmed": "1"}, partial=True)
    assert b"Requeued 2 jobs, skipped 1 (already changed)." in response.data
    assert response.status_code == 200
    again = operator.post("/jobs/requeue", {"id": ["a", "b", "c"], "confirmed": "1"}, partial=True)
    assert again.status_code == 409
    assert verbs_done() == ["requeue", "requeue"]


def test_a_plain_form_without_a_selection_returns_with_a_message(operator: Browser) -> None:
    make_job("dead", id="job1")
    origin = {"Referer": "http://localhost/dead"}
    response = operator.post("/jobs/requeue", headers=origin)
    assert (response.status_code, response.headers["Location"]) == (303, "/dead")
    assert b"No jobs selected." in operator.get("/dead").data
    assert state_of("job1") == "dead"


def test_one_selected_job_needs_no_confirmation_and_an_empty_selection_is_a_422(operator: Browser) -> None:
    make_job("dead", id="a")
    assert operator.post("/jobs/requeue", partial=True).status_code == 422
    assert operator.post("/jobs/requeue", {"id": "a"}, partial=True).status_code == 200
    assert state_of("a") == "pending"


def test_all_matching_jobs_are_moved_and_no_others(operator: Browser) -> None:
    for number in range(7):
        make_job("dead", id=f"mail{number}", queue="mail")
    make_job("dead", id="other")
    make_job("completed", id="mail-done", queue="mail")
    form = {"all": "1", "state": "dead", "queue": "mail"}
    asked = operator.post("/jobs/discard", form, partial=True).get_data(as_text=True)
    assert "Discard 7 jobs?" in asked
    assert asked.count("<li>") == 5
    assert "and 2 more" in asked
    response = operator.post("/jobs/discard", {**form, "confirmed": "1"}, partial=True)
    assert b"Discarded 7 jobs." in response.data
    with reading() as session:
        assert {job.id for job in session.query(Job)} == {"other", "mail-done"}
    assert operator.post("/jobs/discard", form, partial=True).status_code == 409


def test_an_unknown_state_in_a_form_is_refused(operator: Browser) -> None:
    assert operator.post("/jobs/discard", {"all": "1", "state": "gone"}).status_code == 400


def test_a_queue_can_be_paused_only_once(operator: Browser) -> None:
    make_queue("mail")
    assert operator.post("/queue/mail/pause", partial=True).status_code == 200
    assert operator.post("/queue/mail/pause", partial=True).status_code == 409
    assert operator.post("/queue/mail/resume").headers["Location"] == "/queues"
    assert operator.post("/queue/none/pause").status_code == 404


def test_a_running_worker_can_be_stopped_and_a_stopped_one_is_a_409(admin: Browser) -> None:
    make_worker(id="w1")
    make_worker(id="w2", state="stopped", stopped_at=1)
    assert admin.post("/worker/w1/stop", partial=True).status_code == 200
    assert admin.post("/worker/w2/stop", partial=True).status_code == 409
    assert admin.post("/worker/none/stop", partial=True).status_code == 404
    assert admin.post("/worker/w1/explode", partial=True).status_code == 404
