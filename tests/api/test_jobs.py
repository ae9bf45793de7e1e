"""Jobs in the API: the rules and messages of the command line, pages by cursor, output in ranges."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
from sqlalchemy import func, select
from werkzeug.test import TestResponse

from tests.api.conftest import Program
from tests.factories import change_job, make_attempt, make_chunk, make_event, make_job, make_jobs, make_queue
from webapp.api import jobs, queues
from webapp.api import settings as config
from webapp.core import job_spec
from webapp.db.engines import reading
from webapp.db.models import Job
from webapp.jobs import filters, job_detail, settings
from webapp.web import serializers


def stored() -> int:
    with reading() as session:
        return session.scalar(select(func.count()).select_from(Job)) or 0


def refused(response: TestResponse, status: int, kind: str) -> Any:
    assert response.status_code == status, response.get_data(as_text=True)
    assert response.mimetype == "application/problem+json"
    told = response.get_json()
    assert (told["type"], told["status"]) == (f"/api-docs#{kind}", status)
    assert told["title"]
    assert told["detail"]
    return told


def test_a_submitted_job_is_returned_with_its_location(submitter: Program) -> None:
    response = submitter("POST", "/jobs", {"id": "job1", "command": "echo hi", "env": {"A": "1"}, "queue": "mail"})
    assert response.status_code == 201
    assert response.headers["Location"] == "/api/v1/jobs/job1"
    job = response.get_json()
    assert (job["state"], job["queue"], job["env"]) == ("pending", "mail", {"A": "1"})
    assert submitter("GET", response.headers["Location"]).get_json()["timeline"][0]["actor"] == "token:the-submit"


def test_the_trace_of_the_request_becomes_a_variable_of_its_jobs(submitter: Program) -> None:
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    for header, env in ((trace, {"TRACEPARENT": trace}), ("nonsense", {})):
        assert submitter("POST", "/jobs", {"command": "true"}, traceparent=header).get_json()["env"] == env
        (id_,) = submitter("POST", "/jobs/batch", [{"command": "true"}], traceparent=header).get_json()["ids"]
        assert submitter("GET", f"/jobs/{id_}").get_json()["env"] == env


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_body_may_begin_with_a_byte_order_mark(submitter: Program, encoding: str) -> None:
    body = '{"command": "echo ä\\r\\necho b", "timeout": "10m"}'.encode(encoding)
    job = submitter("POST", "/jobs", body).get_json()
    assert (job["command"], job["timeout"], job["warnings"]) == ("echo ä\necho b", 600, [])


def test_a_start_long_ago_is_warned_of(submitter: Program) -> None:
    late = {"command": "true", "run_at": "2020-01-01T00:00:00Z"}
    [told] = submitter("POST", "/jobs", late).get_json()["warnings"]
    assert "run_at 2020-01-01T00:00:00Z is" in told
    [told] = submitter("POST", "/jobs/batch", [late, {"command": "true"}]).get_json()["warnings"]
    assert "run_at of 1 of 2 jobs" in told


@pytest.mark.parametrize(
    ("body", "field", "words"),
    [
        ({"comand": "x"}, "comand", "Did you mean 'command'?"),
        ({}, "command", "is missing"),
        ({"command": "x", "delay": 1, "run_at": "2030-01-01T00:00:00Z"}, "run_at", "with delay"),
        ({"command": "x", "id": "\ud800"}, "id", "surrogate"),
        ([], "", "expected an object such as"),
    ],
)
def test_an_invalid_job_gets_the_messages_of_the_command_line(
    submitter: Program, body: Any, field: str, words: str
) -> None:
    errors = refused(submitter("POST", "/jobs", body), 422, "invalid")["errors"]
    assert any(error["field"] == field and words in error["message"] for error in errors)
    assert stored() == 0


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        (b"{", 400, "malformed"),
        (b"\xff", 400, "malformed"),
        (b'{"command": NaN}', 400, "malformed"),
        (b"[" * 100_000, 400, "malformed"),
        (b'{"command": "a", "command": "b"}', 422, "invalid"),
        (b'{"command": "' + b"x" * 1_100_000 + b'"}', 413, "too-large"),
    ],
    ids=["cut", "not UTF-8", "NaN", "deep", "twice", "large"],
)
def test_invalid_json_and_too_large_bodies_are_refused(submitter: Program, body: bytes, status: int, kind: str) -> None:
    refused(submitter("POST", "/jobs", body), status, kind)


def test_other_media_types_are_refused_in_requests_and_responses(submitter: Program) -> None:
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        refused(submitter("POST", "/jobs", b'{"command": "x"}', Content_Type=kind), 415, "media-type")
    refused(submitter("GET", "/jobs", Accept="text/html"), 406, "not-acceptable")
    assert submitter("GET", "/jobs", Accept="text/html, */*;q=0.1").status_code == 200
    assert stored() == 0


def test_an_id_that_is_taken_is_refused(submitter: Program) -> None:
    make_job("dead", id="job1")
    told = refused(submitter("POST", "/jobs", {"id": "job1", "command": "x"}), 422, "invalid")
    assert "already used by a dead job" in told["detail"]


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_batch_is_stored_completely(submitter: Program, wrapped: bool) -> None:
    jobs = [{"command": f"echo {number}", "id": f"job-{number}"} for number in range(1000)]
    response = submitter("POST", "/jobs/batch", {"jobs": jobs} if wrapped else jobs)
    assert response.status_code == 201
    assert response.get_json()["ids"] == [job["id"] for job in jobs]
    assert stored() == 1000


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ([{"command": "a"}, {"command": ""}], 1),
        ([{"command": "a", "id": "x"}, {"command": "b", "id": "x"}], 1),
        ([], None),
        ({"jobs": {}}, None),
        ({"job": []}, None),
        ([{"command": "a"}] * 1001, None),
        ("text", None),
    ],
)
def test_a_batch_with_an_invalid_job_stores_nothing(submitter: Program, body: Any, place: Any) -> None:
    told = refused(submitter("POST", "/jobs/batch", body), 422, "invalid")
    assert told["errors"][0]["place"] == place
    assert stored() == 0


def test_the_read_scope_shows_names_of_variables_without_values(submitter: Program, reader: Program) -> None:
    submitter("POST", "/jobs", {"id": "job1", "command": "x", "env": {"SECRET": "hunter2"}})
    for path in ("/jobs", "/jobs/job1", "/jobs?state=pending"):
        shown = reader("GET", path)
        assert b"hunter2" not in shown.data
        assert b'"SECRET": null' in shown.data
        assert b"hunter2" in submitter("GET", path).data


# --- the list --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["", "pending", "scheduled", "dead"])
def test_cursors_lead_through_the_list_in_both_directions(reader: Program, state: str) -> None:
    for number in range(7):
        make_job(state or "completed", id=f"job-{number}")
    whole = [job["id"] for job in reader("GET", f"/jobs?state={state}" if state else "/jobs").get_json()["jobs"]]
    assert len(whole) == 7
    path, walked, last = f"/jobs?limit=3&state={state}" if state else "/jobs?limit=3", list[str](), None
    while path:
        response = reader("GET", path)
        page = response.get_json()
        walked += [job["id"] for job in page["jobs"]]
        pairs = [link.split("; ") for link in response.headers.get("Link", "").split(", ") if link]
        links = {rel: target[1:-1] for target, rel in pairs}
        assert ('rel="next"' in links) is (page["next"] is not None)
        last, path = page, links.get('rel="next"', "")
    assert walked == whole
    assert last is not None
    before = reader("GET", f"/jobs?limit=3&state={state}&cursor={last['previous']}" if state else
                    f"/jobs?limit=3&cursor={last['previous']}")  # fmt: skip
    assert [job["id"] for job in before.get_json()["jobs"]] == whole[3:6]


def test_the_list_has_the_filters_of_the_console(reader: Program) -> None:
    make_job("dead", id="a", queue="mail", command="send LETTER")
    make_job("dead", id="b", command="send letter")
    make_job("pending", id="c", queue="mail", command="letter")
    found = reader("GET", "/jobs?state=dead&queue=mail&q=letter").get_json()["jobs"]
    assert [job["id"] for job in found] == ["a"]
    assert len(reader("GET", "/jobs?q=%25").get_json()["jobs"]) == 0


def test_q_is_the_search_of_the_console_and_next_continues_a_capped_search(
    reader: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(filters, "SEARCH_CAP", 4)
    monkeypatch.setattr(filters, "SEARCH_SECONDS", 0.0)
    make_jobs([{"state": "dead", "id": f"d{n}", "exit_code": 7 if n in (0, 9) else 1} for n in range(10)])
    found: list[list[str]] = []
    path = "/jobs?q=state:dead+exit:7+since:1h"
    while path:
        answer = reader("GET", path).get_json()
        found.append([job["id"] for job in answer["jobs"]])
        assert answer["search_capped"] is (answer["next"] is not None)
        path = f"/jobs?q=state:dead+exit:7+since:1h&cursor={answer['next']}" if answer["next"] else ""
    assert found == [["d9"], [], ["d0"]]
    assert "2026-11-24 (UTC)" in refused(reader("GET", "/jobs?q=on:never"), 422, "invalid")["detail"]
    told = refused(reader("GET", "/jobs?state=failed&q=state:dead"), 422, "invalid")
    assert told["errors"][0]["field"] == "q"


NONSENSE = ["state=done", "state=", "limit=0", "limit=501", "limit=x", "limit=1&limit=2", "status=dead", "queue=a%20b",
     "q=%00",
     "q=" + "x" * 501, "q=redis:7", "q=state:gone", "state=dead&q=state:failed",
     "cursor=", "cursor=x", "cursor=%C3%A4", "cursor=WzEsMiwzXQ", "cursor=WyJhZnRlciIsIiIsIngiXQ",
     "cursor=WyJhZnRlciIsImRlYWQiLCIxLDIiXQ", "cursor=WyJhZnRlciIsIiIsIjk5OTk5OTk5OTk5OTk5OTk5OTk5OSJd",
     "cursor=bnVsbA", "cursor=" + "W1" * 3000]  # fmt: skip


def test_an_invalid_query_is_refused(reader: Program) -> None:
    for query in NONSENSE:
        refused(reader("GET", f"/jobs?{query}"), 422, "invalid")


# --- one job ---------------------------------------------------------------------------------------------------------


def test_a_job_has_its_attempts_and_events(reader: Program) -> None:
    job = make_job("dead", id="job1")
    make_attempt(job, output=b"x")
    make_event("requeue", "person:ben", "job:job1", job=job)
    whole = reader("GET", "/jobs/job1").get_json()
    assert [attempt["number"] for attempt in whole["attempt_history"]] == [1]
    assert "stdout" not in whole["attempt_history"][0]
    assert {line["verb"] for line in whole["timeline"]} == {"enqueue", "start", "fail", "requeue"}


MISSING = ("/jobs/none", "/jobs/a%00b", "/jobs/%F0%9F%98%80", "/jobs/none/output", "/acts/9", "/config/none", "/none",
           "/acts/99999999999999999999")  # fmt: skip


def test_an_unknown_resource_is_a_404(reader: Program) -> None:
    for path in MISSING:
        refused(reader("GET", path), 404, "not-found")


def test_jobs_named_like_parts_of_urls_are_found(reader: Program) -> None:
    for word in ("batch", "cancel", "requeue"):
        make_job("dead", id=word)
        assert reader("GET", f"/jobs/{word}").get_json()["id"] == word


def test_a_wrong_method_gets_the_allowed_methods(reader: Program) -> None:
    response = reader("PATCH", "/jobs/job1")
    refused(response, 405, "method")
    assert {"GET", "DELETE"} <= set(response.headers["Allow"].split(", "))


# --- its output ------------------------------------------------------------------------------------------------------


def test_output_is_exact_and_supports_ranges(reader: Program) -> None:
    job = make_job("dead", id="job1")
    make_attempt(job, output=b"out\nerr\nout\xff", output_runs="4,4,4", output_dropped=3, output_cut=4)
    response = reader("GET", "/jobs/job1/output")
    assert (response.status_code, response.data, response.mimetype) == (
        200, b"out\nerr\nout\xff", "application/octet-stream",
    )  # fmt: skip
    assert response.headers["Content-Disposition"].startswith("attachment")
    assert (response.headers["Queuectl-Dropped"], response.headers["Queuectl-Cut"]) == ("3", "4")
    assert response.headers["Queuectl-Live"] == "false"
    assert reader("GET", "/jobs/job1/output?attempt=1&stream=stderr").data == b"err\n"
    part = reader("GET", "/jobs/job1/output", Range="bytes=4-7")
    assert (part.status_code, part.data, part.headers["Content-Range"]) == (206, b"err\n", "bytes 4-7/12")
    behind = reader("GET", "/jobs/job1/output", Range="bytes=12-")
    refused(behind, 416, "range")
    assert behind.headers["Content-Range"] == "bytes */12"


@pytest.mark.parametrize("query", ["attempt=0", "attempt=x", "attempt=99999999999", "stream=both2"])
def test_an_unknown_stream_or_attempt_is_refused(reader: Program, query: str) -> None:
    make_job("dead", id="job1")
    refused(reader("GET", f"/jobs/job1/output?{query}"), 422, "invalid")


def test_live_output_is_returned_up_to_now(reader: Program) -> None:
    job = make_job("processing", id="job1")
    make_chunk(job, b"so far")
    response = reader("GET", "/jobs/job1/output")
    assert (response.data, response.headers["Queuectl-Live"]) == (b"so far", "true")


# --- the description is what is given --------------------------------------------------------------------------------


def test_requests_and_responses_match_the_document(reader: Program) -> None:
    assert set(jobs.JobRequest().fields) == set(job_spec._READERS)
    job = make_job("dead", id="job1")
    make_attempt(job)
    make_event("requeue", "person:ben", "job:job1", job=job)
    make_queue("mail")
    whole = reader("GET", "/jobs/job1").get_json()
    assert set(whole) == set(jobs.JobDetail().fields)
    assert set(whole["attempt_history"][0]) == set(jobs.Attempt().fields)
    assert set(whole["events"][0]) == set(jobs.Event().fields)
    assert set(whole["timeline"][0]) == set(jobs.TimelineEntry().fields)
    assert set(reader("GET", "/queues").get_json()["queues"][0]) == set(queues.Queue().fields)
    assert set(reader("GET", "/config").get_json()["settings"][0]) == set(config.Setting().fields)
    with reading() as session:
        assert (
            set(reader("GET", "/status").get_json()) == set(queues.Status().fields) == set(serializers.status(session))
        )
        listed = job_detail.job_json(job, settings.load(session))
    assert set(listed) == set(jobs.Job().fields)


def test_a_request_may_wait_for_the_end_of_a_job(reader: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("processing")
    looks = iter(range(10))
    sleep_of_others = time.sleep

    def sleep(seconds: float) -> None:
        if threading.current_thread() is not threading.main_thread():
            sleep_of_others(seconds)
        elif next(looks) == 2:
            change_job(job.id, state="completed", finished_at=1, token=None, worker_id=None)

    monkeypatch.setattr(time, "sleep", sleep)
    assert reader("GET", f"/jobs/{job.id}?wait=30").get_json()["state"] == "completed"
    assert next(looks) == 3, "it has looked again and again, and not longer"
    assert reader("GET", f"/jobs/{make_job('pending').id}?wait=0").get_json()["state"] == "pending"
    refused(reader("GET", f"/jobs/{job.id}?wait=31"), 422, "invalid")


def test_only_a_few_requests_wait(reader: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job("processing")
    for _ in range(jobs.MOST_WAITING):
        assert jobs._waiting.acquire(blocking=False)
    try:
        assert reader("GET", f"/jobs/{job.id}?wait=30").get_json()["state"] == "processing"
    finally:
        jobs._waiting.release(jobs.MOST_WAITING)
