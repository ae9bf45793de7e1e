"""Actions of programs on jobs, dead letters, workers, queues and settings, and their conflicts."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Program
from tests.api.test_jobs import refused, stored
from tests.factories import make_attempt, make_job, make_queue, make_supervisor, make_worker
from webapp.api import actions as acts
from webapp.db.engines import reading
from webapp.jobs import actions, job_detail
from webapp.lib import clock


def state_of(job_id: str) -> str:
    with reading() as session:
        job = job_detail.find(session, job_id)
        assert job is not None
        return job.state


@pytest.mark.parametrize(
    ("verb", "before", "after"),
    [("requeue", "dead", "pending"), ("run-now", "scheduled", "pending"), ("cancel", "failed", "cancelled")],
)
def test_an_action_on_a_job_succeeds_once(operator: Program, verb: str, before: str, after: str) -> None:
    make_job(before, id="job1")
    response = operator("POST", f"/jobs/job1/{verb}")
    told = response.get_json()
    assert (response.status_code, told["state"]) == (200, after)
    assert refused(operator("POST", f"/jobs/job1/{verb}"), 409, "conflict")["state"] == after
    assert operator("POST", f"/acts/{told['action']}/undo").status_code == 200
    assert state_of("job1") == before
    refused(operator("POST", f"/jobs/none/{verb}"), 404, "not-found")


def test_a_job_is_edited_and_retried(operator: Program, submitter: Program) -> None:
    make_job("dead", id="job1", command="a", timeout=5.0)
    for field, value in (("timeout", -1), ("id", "x")):
        told = refused(operator("POST", "/jobs/job1/edit", {field: value}), 422, "invalid")
        assert told["errors"][0]["field"] == field
    refused(operator("POST", "/jobs/job1/edit", []), 422, "invalid")
    refused(submitter("POST", "/jobs/job1/edit", {"command": "b"}), 403, "scope")
    told = operator("POST", "/jobs/job1/edit", {"command": "b", "timeout": None}).get_json()
    assert (told["id"], told["state"], told["command"], told["timeout"]) == ("job1", "pending", "b", None)
    assert refused(operator("POST", "/jobs/job1/edit", {"command": "c"}), 409, "conflict")["state"] == "pending"
    event = operator("GET", "/jobs/job1").get_json()["events"][0]
    assert (event["verb"], event["detail"]["before"]["command"]) == ("edit", "a")
    assert operator("POST", f"/acts/{told['action']}/undo").status_code == 200
    assert state_of("job1") == "dead"
    refused(operator("POST", "/jobs/none/edit", {"command": "b"}), 404, "not-found")


def test_cancelling_a_running_job_requests_its_stop(operator: Program) -> None:
    make_job("processing", id="job1")
    assert operator("POST", "/jobs/job1/cancel").status_code == 202
    assert refused(operator("POST", "/jobs/job1/cancel"), 409, "conflict")["state"] == "processing"
    assert refused(operator("DELETE", "/jobs/job1"), 409, "conflict")["state"] == "processing"


def test_a_job_is_deleted(operator: Program) -> None:
    make_job("dead", id="job1")
    response = operator("DELETE", "/jobs/job1")
    assert (response.status_code, response.data) == (204, b"")
    refused(operator("DELETE", "/jobs/job1"), 404, "not-found")


def test_an_action_on_one_job_accepts_only_an_empty_body(operator: Program) -> None:
    make_job("dead", id="job1")
    refused(operator("POST", "/jobs/job1/requeue", {"force": True}), 422, "invalid")
    assert operator("POST", "/jobs/job1/requeue", {}).status_code == 200


def test_an_action_on_several_jobs_reports_the_result_of_each(operator: Program) -> None:
    make_job("dead", id="a")
    make_job("pending", id="b")
    told = operator("POST", "/jobs/requeue", {"ids": ["a", "b", "c"]}).get_json()
    assert told == {
        "moved": ["a"],
        "asked": [],
        "refused": [{"id": "b", "state": "pending", "holder": None}, {"id": "c", "state": None, "holder": None}],
        "action": 1,
    }
    assert operator("POST", "/jobs/requeue", {"ids": ["a"]}).get_json()["action"] is None


def test_an_action_on_all_matching_jobs_can_be_looked_up(operator: Program) -> None:
    for number in range(3):
        make_job("dead", id=f"mail-{number}", queue="mail")
    make_job("dead", id="other")
    response = operator("POST", "/jobs/requeue", {"all": True, "queue": "mail", "state": "dead"})
    act = response.get_json()["act"]
    assert response.get_json()["action"] == act["id"]
    assert (response.status_code, act["state"], act["moved"], act["actor"]) == (200, "done", 3, "token:the-operate")
    assert operator("GET", response.headers["Location"]).get_json() == act
    assert state_of("other") == "dead"


def test_a_long_bulk_action_continues_after_the_response(operator: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(acts, "REQUEST_SECONDS", -1.0)
    monkeypatch.setattr(actions, "BATCH", 1)
    for number in range(3):
        make_job("dead", id=f"job-{number}")
    response = operator("POST", "/jobs/requeue", {"all": True})
    assert (response.status_code, response.get_json()["act"]["state"]) == (202, "running")


UNCLEAR: list[Any] = [
    {}, {"ids": []}, {"ids": ["a"], "all": True}, {"all": False}, {"ids": ["a"], "queue": "x"}, {"ids": ["a b"]},
    {"ids": ["a"] * 501}, {"ids": [1]}, {"ids": "a"}, {"all": "true"}, {"all": True, "state": "x"},
    {"all": True, "status": "dead"}, {"all": True, "q": "\ud800"}, [], b"null", {"ids": ["\ud800"]},
]  # fmt: skip


@pytest.mark.parametrize("path", ["/jobs/discard", "/dead-letters/discard"])
def test_an_action_with_unclear_jobs_is_refused(operator: Program, path: str) -> None:
    make_job("dead", id="a")
    for body in UNCLEAR:
        refused(operator("POST", path, body), 422, "invalid")
    assert stored() == 1


def test_dead_letters_are_listed_and_only_dead_jobs_are_requeued(operator: Program) -> None:
    make_job("dead", id="a")
    make_job("completed", id="b")
    assert [job["id"] for job in operator("GET", "/dead-letters").get_json()["jobs"]] == ["a"]
    told = operator("POST", "/dead-letters/requeue", {"ids": ["a", "b"]}).get_json()
    assert (told["moved"], told["refused"]) == (["a"], [{"id": "b", "state": "completed", "holder": None}])
    make_job("dead", id="c")
    assert operator("POST", "/dead-letters/discard", {"all": True}).get_json()["act"]["moved"] == 1
    assert state_of("b") == "completed"


def test_supervisors_are_listed_and_scaled(admin: Program) -> None:
    make_supervisor(id="s1", wanted=2)
    make_worker(id="w1", supervisor_id="s1", cpu_time=1_500_000, memory=4096)
    [one] = admin("GET", "/supervisors").get_json()["supervisors"]
    assert (one["id"], one["state"], one["wanted"], one["workers"]) == ("s1", "running", 2, ["w1"])
    [worker] = admin("GET", "/workers").get_json()["workers"]
    assert (worker["supervisor"], worker["cpu_seconds"], worker["memory"]) == ("s1", 1.5, 4096)
    assert admin("PUT", "/supervisors/s1/wanted", {"workers": 0}).get_json()["wanted"] == 0
    for nonsense in (-1, 257, "3", 1.5, None):
        refused(admin("PUT", "/supervisors/s1/wanted", {"workers": nonsense}), 422, "invalid")
    refused(admin("PUT", "/supervisors/s2/wanted", {"workers": 1}), 404, "not-found")
    make_supervisor(id="s3", stopped_at=1)
    assert "has stopped" in refused(admin("PUT", "/supervisors/s3/wanted", {"workers": 1}), 409, "conflict")["detail"]


def test_workers_are_listed_and_accept_a_requested_state(admin: Program) -> None:
    make_worker(id="w1")
    make_worker(id="w2", state="stopped", stopped_at=1)
    assert [one["id"] for one in admin("GET", "/workers").get_json()["workers"]] == ["w1"]
    assert admin("PUT", "/workers/w1/wish", {"wish": "quiet"}).get_json()["state"] == "quiet"
    assert admin("PUT", "/workers/w1/wish", {"wish": "stop"}).get_json()["state"] == "stopping"
    assert refused(admin("PUT", "/workers/w1/wish", {"wish": "run"}), 409, "conflict")["state"] == "stopping"
    refused(admin("PUT", "/workers/w1/wish", {"wish": "dance"}), 422, "invalid")
    for id_ in ("none", "a%00b"):
        refused(admin("PUT", f"/workers/{id_}/wish", {"wish": "run"}), 404, "not-found")


def test_a_queue_is_paused_once(operator: Program) -> None:
    make_queue("mail")
    assert operator("POST", "/queues/mail/pause").get_json()["paused"] is True
    assert refused(operator("POST", "/queues/mail/pause"), 409, "conflict")["state"] == "paused"
    assert operator("POST", "/queues/mail/resume").get_json()["paused"] is False
    refused(operator("POST", "/queues/mail/resume"), 409, "conflict")
    for name in ("none", "a%00b"):
        refused(operator("POST", f"/queues/{name}/pause"), 404, "not-found")


def test_a_setting_is_changed_and_reverted(admin: Program) -> None:
    assert admin("PUT", "/config/backoff_base", {"value": 3}).get_json()["value"] == 3
    assert admin("GET", "/config/backoff_base").get_json()["changed_by"] == "token:the-admin"
    reset = admin("DELETE", "/config/backoff_base").get_json()
    assert (reset["value"], reset["changed_by"]) == (2, None)
    for value in (0, 1e9, True, None, "x", [1], {"a": 1}, "\ud800", 10**300):
        refused(admin("PUT", "/config/backoff_base", {"value": value}), 422, "invalid")
    refused(admin("PUT", "/config/none", {"value": 1}), 404, "not-found")
    refused(admin("PUT", "/config/keep_dead@none", {"value": 1}), 404, "not-found")
    make_queue("mail")
    own = admin("PUT", "/config/keep_dead@mail", {"value": 7}).get_json()
    assert (own["value"], own["default"], own["queue"]) == (7, 0, "mail")
    assert own in admin("GET", "/config").get_json()["settings"]
    assert admin("DELETE", "/config/keep_dead@mail").get_json()["changed_by"] is None


def test_a_setting_that_deletes_jobs_needs_a_confirmation(admin: Program) -> None:
    make_job("completed", finished_at=clock.now() - 50 * clock.DAY)
    told = refused(admin("PUT", "/config/keep_completed", {"value": 4}), 409, "confirm")
    assert told["deletes"] == 1
    assert "keep_completed = 4 deletes 1 completed job" in told["detail"]
    assert admin("PUT", "/config/keep_completed", {"value": 4, "confirm": True}).get_json()["value"] == 4
    assert admin("PUT", "/config/keep_completed", {"value": 90}).get_json()["value"] == 90
    refused(admin("DELETE", "/config/keep_completed"), 409, "confirm")
    assert admin("DELETE", "/config/keep_completed?confirm=true").get_json()["value"] == 30


def test_commands_are_listed_by_pattern_with_failures_and_durations(admin: Program) -> None:
    job = make_job("completed", command="make-report 7", finished_at=clock.now())
    make_attempt(job, 1, "failed", started_at=clock.now() - 2 * clock.SECOND, finished_at=clock.now())
    told = admin("GET", "/commands").get_json()
    assert [(one["command"], one["runs"], one["failures"]) for one in told["commands"]] == [("make-report N", 1, 1)]
    assert told["commands"][0]["run_seconds"]["p50"] == pytest.approx(2, rel=0.05)
    assert admin("GET", "/commands?over=1y").status_code == 422


def test_the_status_equals_that_of_the_command_line(admin: Program) -> None:
    make_job("dead")
    told = admin("GET", "/status").get_json()
    assert (told["states"]["dead"], told["workers"], told["oldest_pending_seconds"]) == (1, [], None)


def test_a_bulk_action_is_undone_and_a_waiting_one_is_stopped(operator: Program) -> None:
    make_job("dead", id="job1")
    act = operator("POST", "/jobs/requeue", {"all": True}).get_json()["act"]
    assert act["what"] == "all jobs"
    undo = operator("POST", f"/acts/{act['id']}/undo")
    told = undo.get_json()["act"]
    assert (undo.status_code, told["verb"], told["undoes"], told["moved"]) == (200, "undo", act["id"], 1)
    assert state_of("job1") == "dead"
    refused(operator("POST", f"/acts/{act['id']}/undo"), 409, "conflict")
    refused(operator("POST", f"/acts/{act['id']}/stop"), 409, "conflict")
    refused(operator("POST", "/acts/999/undo"), 404, "not-found")


def test_bulk_actions_are_listed_in_pages_newest_first(operator: Program) -> None:
    for name in "abc":
        make_job("dead", id=name)
        operator("POST", f"/jobs/{name}/requeue")
    assert [act["what"] for act in operator("GET", "/acts").get_json()["acts"]] == ["c", "b", "a"]
    assert [act["what"] for act in operator("GET", "/acts?limit=1&before=3").get_json()["acts"]] == ["b"]
    first = operator("GET", "/acts?limit=2")
    assert first.headers["Link"] == '</api/v1/acts?limit=2&before=2>; rel="next"'
    last = operator("GET", "/api/v1/acts?limit=2&before=2")
    assert ([act["what"] for act in last.get_json()["acts"]], "Link" in last.headers) == (["a"], False)


def test_a_canary_runs_first_and_can_be_stopped(operator: Program) -> None:
    for name, group, at in (("a", "one", 1), ("b", "one", 2), ("c", "two", 3)):
        make_job("dead", id=name, error_key=group, finished_at=at)
    response = operator("POST", "/dead-letters/canary", {"all": True, "group": "one"})
    told = response.get_json()
    assert (response.status_code, told["act"]["state"], told["act"]["moved"]) == (202, "waiting", 1)
    assert [state_of(name) for name in "abc"] == ["dead", "pending", "dead"]
    assert operator("GET", response.headers["Location"]).get_json() == told["act"]
    stopped = operator("POST", f"/acts/{told['action']}/stop").get_json()["act"]
    assert stopped["state"] == "stopped"


def test_a_canary_can_be_named_and_must_match(operator: Program) -> None:
    for name in "ab":
        make_job("dead", id=name, queue="mail")
    for body in ({}, {"all": False}, {"all": True, "ids": ["a"]}, {"all": True, "first": "a b"}):
        refused(operator("POST", "/dead-letters/canary", body), 422, "invalid")
    for body in ({"all": True, "group": "none"}, {"all": True, "queue": "mail", "first": "c"}):
        refused(operator("POST", "/dead-letters/canary", body), 404, "not-found")
    assert operator("POST", "/dead-letters/canary", {"all": True, "queue": "mail", "first": "a"}).status_code == 202
    assert (state_of("a"), state_of("b")) == ("pending", "dead")
