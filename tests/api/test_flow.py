"""Dependencies and batches in the API."""

from __future__ import annotations

from tests.api.conftest import Program
from tests.api.test_jobs import refused
from tests.factories import change_job
from webapp.lib import clock

JOBS = [{"command": "true", "id": "b", "after": ["a"]}, {"command": "true", "id": "a"}]


def test_jobs_follow_each_other_and_a_chain_is_cancelled_below(operator: Program) -> None:
    assert operator("POST", "/jobs/batch", JOBS).get_json()["ids"] == ["b", "a"]
    change_job("a", state="cancelled", finished_at=clock.now())
    found = operator("GET", "/jobs/b").get_json()
    assert found["after"] == [{"job": "a", "on": "success", "state": "cancelled"}]
    assert "a is cancelled" in found["blocked_because"]
    assert operator("POST", "/jobs/a/cancel-below").get_json()["moved"] == ["b"]
    told = refused(operator("POST", "/jobs/batch", [{"command": "true", "after": ["none"]}]), 422, "invalid")
    assert [(one["field"], one["place"]) for one in told["errors"]] == [("after", 0)]


def test_a_batch_is_created_filled_closed_and_retried(operator: Program) -> None:
    batch = {"name": "nightly", "open": True, "on_done": {"command": "echo done", "env": {"KEY": "secret"}}}
    assert operator("POST", "/batches", batch).status_code == 201
    operator("POST", "/jobs/batch", {"jobs": JOBS, "batch": "nightly"})
    assert operator("POST", "/batches/nightly/close").get_json()["state"] == "running"
    refused(operator("POST", "/batches/nightly/close"), 409, "conflict")
    late = {"jobs": [{"command": "true"}], "batch": {"name": "nightly"}}
    told = refused(operator("POST", "/jobs/batch", late), 422, "invalid")
    assert [one["field"] for one in told["errors"]] == ["batch"]
    change_job("a", state="dead", finished_at=clock.now())
    found = operator("GET", "/batches/nightly").get_json()
    assert (found["total"], found["failed"], found["left"]) == (2, 1, 1)
    assert found["on_done"] == {"command": "echo done", "env": {"KEY": None}}
    assert operator("POST", "/batches/nightly/requeue").get_json()["act"]["moved"] == 1
    assert operator("POST", "/batches/nightly/cancel").get_json()["act"]["moved"] == 2
    refused(operator("GET", "/batches/none"), 404, "not-found")
    wrong = {"name": "no name", "on_death": {"command": ""}}
    told = refused(operator("POST", "/batches", wrong), 422, "invalid")
    assert [one["field"] for one in told["errors"]] == ["batch", "on_death.command"]


def test_batches_are_listed_in_pages(operator: Program) -> None:
    for number in range(3):
        operator("POST", "/batches", {"name": f"b{number}"})
    first = operator("GET", "/batches?limit=2").get_json()
    assert [one["name"] for one in first["batches"]] == ["b2", "b1"]
    rest = operator("GET", f"/batches?limit=2&cursor={first['next']}").get_json()
    assert ([one["name"] for one in rest["batches"]], rest["next"]) == (["b0"], None)
    refused(operator("GET", "/batches?cursor=x"), 422, "invalid")
    assert len(operator("GET", "/batches?active=true").get_json()["batches"]) == 3, "nothing has decided their end yet"
    refused(operator("GET", "/batches?active=maybe"), 422, "invalid")
