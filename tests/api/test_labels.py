"""Labels in the API: what jobs require, what workers have, and what waits for which."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.conftest import Program
from tests.api.test_jobs import refused, stored
from tests.factories import make_job, make_supervisor, make_worker


@pytest.mark.parametrize("given", [["ssd", "gpu"], "gpu, ssd", ["gpu", "ssd", "gpu"]])
def test_a_job_is_submitted_with_required_labels(submitter: Program, given: Any) -> None:
    job = submitter("POST", "/jobs", {"command": "true", "id": "a", "requires": given})
    assert job.status_code == 201
    assert job.get_json()["requires"] == ["gpu", "ssd"]
    assert submitter("GET", "/jobs/a").get_json()["requires"] == ["gpu", "ssd"]
    assert submitter("GET", "/jobs?q=requires:ssd").get_json()["jobs"][0]["requires"] == ["gpu", "ssd"]


@pytest.mark.parametrize("body", [{}, {"requires": None}, {"requires": []}])
def test_a_job_without_requirements_has_an_empty_list(submitter: Program, body: dict[str, Any]) -> None:
    assert submitter("POST", "/jobs", {"command": "true", **body}).get_json()["requires"] == []


def test_a_refusal_names_the_field(submitter: Program) -> None:
    given, words = ["gpu", "-x"], "'-x' is not a valid label; expected 1 to 128 characters"
    told = refused(submitter("POST", "/jobs", {"command": "true", "requires": given}), 422, "invalid")
    (error,) = told["errors"]
    assert (error["field"], error["place"]) == ("requires", None)
    assert words in error["message"]
    batch = [{"command": "true"}, {"command": "true", "requires": given}]
    (error,) = refused(submitter("POST", "/jobs/batch", batch), 422, "invalid")["errors"]
    assert (error["field"], error["place"]) == ("requires", 1)
    assert stored() == 0


def test_workers_and_supervisors_list_all_their_labels(reader: Program) -> None:
    make_supervisor(id="s1", host="Web-1", labels='["ssd", "gpu"]')
    make_worker(id="w1", supervisor_id="s1", host="Web-1", labels='["ssd", "gpu"]')
    make_worker(id="w2", supervisor_id="older", host="web_2")
    workers = {one["id"]: one["labels"] for one in reader("GET", "/workers").get_json()["workers"]}
    assert workers == {"w1": ["gpu", "host:web-1", "ssd"], "w2": ["host:web_2"]}
    supervisors = {one["id"]: one["labels"] for one in reader("GET", "/supervisors").get_json()["supervisors"]}
    assert supervisors == {"s1": ["gpu", "host:web-1", "ssd"], "older": ["host:web_2"]}
    assert reader("GET", "/status").get_json()["workers"][0]["labels"]


def test_a_queue_counts_pending_jobs_by_required_labels(reader: Program) -> None:
    make_job(queue="mail")
    for _ in range(2):
        make_job(queue="mail", requires="gpu,ssd")
    (queue,) = [one for one in reader("GET", "/queues").get_json()["queues"] if one["name"] == "mail"]
    assert [(one["requires"], one["pending"], one["pending_is_more"]) for one in queue["waiting"]] == [
        ([], 1, False),
        (["gpu", "ssd"], 2, False),
    ]
