"""Activity: undo in a message and on the page, running actions, canaries, and each role's rights."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from tests.console.conftest import Browser
from tests.factories import change_job, make_job
from webapp.db.engines import reading
from webapp.jobs import actions, activity, job_detail
from webapp.jobs import canary as canaries
from webapp.jobs.filters import JobFilter


def state(job_id: str) -> str:
    with reading() as session:
        job = job_detail.find(session, job_id)
    assert job is not None
    return job.state


def offered(html: str) -> str:
    """The URL that the Undo button of the message posts to."""
    found = re.search(r'formaction="(/activity/\d+/undo)"[^>]*>Undo', html)
    assert found, html
    return found[1]


def test_a_requeue_offers_an_undo_and_the_undo_restores_the_job(operator: Browser) -> None:
    make_job("dead", id="job1")
    toast = operator.post("/job/job1/requeue", partial=True).get_data(as_text=True)
    assert state("job1") == "pending"
    back = operator.post(offered(toast), partial=True)
    assert b"Restored 1 job." in back.data
    assert state("job1") == "dead"
    again = operator.post(offered(toast), partial=True)
    assert again.status_code == 409
    assert b"Nothing to undo" in again.data


def test_without_javascript_the_next_page_offers_the_undo(operator: Browser) -> None:
    make_job("dead", id="job1")
    assert operator.post("/job/job1/requeue").status_code == 303
    url = offered(operator.get("/jobs").get_data(as_text=True))
    assert operator.post(url).status_code == 303
    assert state("job1") == "dead"
    assert b"Restored 1 job." in operator.get("/jobs").data


def test_an_undo_reports_how_many_jobs_were_already_claimed(operator: Browser) -> None:
    for number in range(3):
        make_job("dead", id=f"job{number}")
    act = actions.apply("requeue", JobFilter(state="dead"), "person:ana")
    change_job("job0", attempts=2)
    response = operator.post(f"/activity/{act.action_id}/undo", partial=True)
    assert b"Restored 2 jobs. 1 job already claimed or changed." in response.data


def test_a_discard_and_a_cancelled_running_job_offer_no_undo(operator: Browser) -> None:
    make_job("dead", id="job1")
    make_job("processing", id="job2")
    for url in ("/job/job1/discard", "/job/job2/cancel"):
        response = operator.post(url, data={"confirmed": "1"}, partial=True)
        assert response.status_code == 200
        assert b"Undo" not in response.data


@pytest.mark.usefixtures("console")
def test_the_list_and_the_page_of_an_action_show_what_it_did(viewer: Browser) -> None:
    make_job("dead", id="job1", command="<b>import</b>", queue="mail")
    act = actions.apply("requeue", JobFilter(state="dead", queue="mail"), "person:ana")
    actions.undo(act.action_id, "person:ben")
    canary = canaries.start(JobFilter(state="dead"), "person:ana")
    html = viewer.get("/activity").get_data(as_text=True)
    assert "all dead jobs in queue mail" in html
    assert "Canary retry" in html
    assert "/undo" not in html  # a viewer changes nothing
    page = viewer.get(f"/activity/{act.action_id}").get_data(as_text=True)
    assert "1 job restored" in page
    page = viewer.get(f"/activity/{canary}").get_data(as_text=True)
    assert "&lt;b&gt;import" in page
    assert viewer.get("/activity?before=x").status_code == 400
    assert viewer.get("/activity/999").status_code == 404
    assert viewer.post(f"/activity/{act.action_id}/undo").status_code == 403


def test_an_empty_activity_page_explains_itself(viewer: Browser) -> None:
    assert b"No bulk actions yet" in viewer.get("/activity").data


def test_the_activity_list_has_pages(console: Flask, viewer: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    from webapp.console import activity

    monkeypatch.setattr(activity, "PAGE", 2)
    for number in range(3):
        make_job("dead", id=f"job{number}")
        actions.apply("requeue", [f"job{number}"], "person:ana")
    first = viewer.get("/activity").get_data(as_text=True)
    assert ("job2" in first, "job0" in first) == (True, False)
    older = re.search(r'href="(/activity\?before=\d+)"', first)
    assert older
    second = viewer.get(older[1]).get_data(as_text=True)
    assert ("job2" in second, "job0" in second) == (False, True)


def test_a_canary_is_confirmed_started_and_stopped(operator: Browser) -> None:
    for number in range(3):
        make_job("dead", id=f"job{number}", error_key="abc")
    asked = operator.post("/dead/abc/canary", partial=True).get_data(as_text=True)
    assert "the other 2" in asked
    chosen = re.search(r'name="id" value="(job\d)"', asked)
    assert chosen
    assert [state(f"job{number}") for number in range(3)] == ["dead"] * 3
    begun = operator.post("/dead/abc/canary", data={"confirmed": "1", "id": chosen[1]}, partial=True)
    assert begun.status_code == 200
    assert sorted(state(f"job{number}") for number in range(3)) == ["dead", "dead", "pending"]
    assert state(chosen[1]) == "pending"
    with reading() as session:
        act = activity.newest(session, 1)[0]
    assert operator.post(f"/activity/{act.id}/stop", partial=True).status_code == 200
    assert operator.post(f"/activity/{act.id}/stop", partial=True).status_code == 409


def test_a_canary_of_a_missing_group_is_refused(operator: Browser) -> None:
    assert operator.post("/dead/nobody/canary").status_code == 409
    make_job("dead", id="job1", error_key="abc")
    actions.apply("discard", ["job1"], "person:ben")
    assert operator.post("/dead/abc/canary", data={"confirmed": "1"}).status_code == 404
