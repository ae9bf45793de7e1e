"""Limits through console, API and CLI: set, list, refuse, remove; and why a job waits."""

from __future__ import annotations

import pytest
from flask import Flask

from tests.api.conftest import make_program
from tests.commands.conftest import Cli
from tests.console.conftest import Browser
from tests.faces.conftest import Face
from tests.factories import make_job, make_user, make_worker
from webapp.accounts import sessions
from webapp.db.engines import reading
from webapp.jobs import job_detail
from webapp.jobs.flow import limits

ANA = "person:ana"


@pytest.fixture
def browser(whole: Flask) -> Browser:
    client = whole.test_client()
    session_id = sessions.begin(make_user("boss", "admin"), "127.0.0.1", "a test")
    with client.session_transaction() as session:
        session["_user_id"] = session_id
        session["_fresh"] = True
    return Browser(client)


def test_every_face_stores_the_keys_of_a_job_and_refuses_one_without_a_limit(face: Face) -> None:
    limits.set_limit("customer-*", 1, None, None, ANA)
    assert "there is no limit for the key 'other'" in face.submit(command="true", limits="customer-7, other").lower()
    assert face.submit(command="true", id="job1", limits="warehouse-1:exclusive") != ""
    assert face.submit(command="true", id="job1", limits="customer-7:exclusive") == ""
    with reading() as session:
        job = job_detail.find(session, "job1")
    assert job is not None
    assert job.limits == "customer-7:exclusive"
    assert face.search("limit:customer-7") == face.search("limit:customer-*") == ["job1"]
    assert face.search("limit:customer-8") == []


@pytest.mark.postgresql
def test_the_api_sets_lists_and_removes_a_limit(whole: Flask) -> None:
    admin, reader = make_program(whole, "admin"), make_program(whole, "read")
    assert reader("PUT", "/limits/db", {"max": 1}).status_code == 403
    wrong = admin("PUT", "/limits/db", {"max": -1, "rate": "often"})
    assert wrong.status_code == 422
    assert wrong.get_json()["errors"][0]["field"] == "max"
    assert admin("PUT", "/limits/db", {"max": 1, "rate": "10/min"}).get_json()["rate"] == "10/min"
    assert admin("PUT", "/limits/customer-*", {"max": 2}).status_code == 200
    make_job("processing", id="runs", limits="db")
    make_job(id="waits", limits="db:exclusive")
    [one, _] = sorted(reader("GET", "/limits").get_json()["limits"], key=lambda limit: -limit["running"])
    assert (one["key"], one["running"], one["holders"], one["waiting"]) == ("db", 1, ["runs"], 1)
    why = reader("GET", "/jobs/waits").get_json()["blocked_by"]
    assert (why["reason"], why["key"], why["holders"]) == ("exclusive", "db", ["runs"])
    assert admin("DELETE", "/limits/db").status_code == 409
    assert admin("DELETE", "/limits/db?force=1").status_code == 204
    assert reader("GET", "/limits/db").status_code == 404


def test_the_command_line_sets_lists_and_removes_a_limit(whole: Flask, cli: Cli) -> None:
    assert cli("limits", "set", "db", "--max", "1", "--note", "one server").out == "db: at most 1 at a time\n"
    assert cli("limits", "set", "db", "--max", "many").code == 1
    assert cli("queue", "limit", "mail", "--rate", "100/min").out == "queue:mail: 100 starts per minute\n"
    assert "queue:mail" in cli("limits", "list").out
    make_job("processing", id="runs", limits="db")
    make_job(id="waits", limits="db")
    shown = cli("show", "waits").out
    assert "limit db is full (at most 1 at a time): runs" in " ".join(shown.split())
    assert cli("limits", "rm", "db").code == 5
    assert cli("limits", "rm", "db", "--force").code == 0
    assert cli("queue", "limit", "mail", "--off").out == "mail: no limit\n"
    assert cli("queue", "limit", "mail", "--off").code == 4
    assert cli("audit", "--json").json[0]["verb"] == "remove_limit"


def test_the_console_sets_lists_and_removes_a_limit(browser: Browser) -> None:
    assert "No limits yet" in browser.get("/limits").get_data(as_text=True)
    wrong = browser.post("/limits/new", {"key": "db", "max": "many", "rate": "", "note": ""})
    assert wrong.status_code == 422
    assert "expected a whole number" in wrong.get_data(as_text=True)
    assert browser.post("/limits/new", {"key": "db", "max": "1", "rate": "", "note": ""}).status_code == 303
    assert "exists already" in browser.post("/limits/new", {"key": "db", "max": "2"}).get_data(as_text=True)
    make_worker(id="w1")
    make_job("processing", id="runs", limits="db")
    make_job(id="waits", limits="db")
    page = browser.get("/limits").get_data(as_text=True)
    assert "runs" in page
    assert 'href="/job/runs"' in browser.get("/job/waits").get_data(as_text=True)
    assert browser.post("/limits/db/edit", {"max": "3", "rate": "5/min"}).status_code == 303
    assert "Pending or running jobs name db" in browser.post("/limits/db/remove").get_data(as_text=True)
    assert browser.post("/limits/db/remove", {"confirmed": "1"}).status_code == 303
    assert browser.get("/limits/db/edit").status_code == 404
