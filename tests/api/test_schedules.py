"""Schedules in the API: fields, scopes, actions, ledger."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from tests.api.conftest import Program
from webapp.db.engines import writing
from webapp.db.models import Fire
from webapp.lib import clock
from webapp.schedules import actions, spec, views

BODY = {"name": "nightly", "cron": "30 2 * * *", "tz": "Europe/Berlin", "job": {"command": "./x.sh", "env": {"A": "s"}}}


@pytest.fixture
def admin(program: Callable[[str], Program]) -> Program:
    return program("admin")


def test_a_schedule_is_added_replaced_and_removed(admin: Program) -> None:
    added = admin("POST", "/schedules", BODY)
    assert added.status_code == 201
    shown = added.get_json()
    assert (shown["name"], shown["cron"], shown["enabled"], shown["job"]["command"]) == (
        "nightly", "30 2 * * *", True, "./x.sh")  # fmt: skip
    assert shown["next_fire_at"].endswith("Z")
    replaced = admin("PUT", "/schedules/nightly", {**BODY, "cron": "0 5 * * *"})
    assert replaced.get_json()["cron"] == "0 5 * * *"
    assert [one["name"] for one in admin("GET", "/schedules").get_json()["schedules"]] == ["nightly"]
    assert admin("DELETE", "/schedules/nightly").status_code == 204
    assert admin("GET", "/schedules/nightly").status_code == 404


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**BODY, "cron": "61 * * * *"}, "cron"),
        ({**BODY, "job": {"comand": "x"}}, "job.comand"),
        ({"name": "x"}, "job"),
        ([], ""),
    ],
)
def test_a_wrong_field_is_named(admin: Program, body: Any, field: str) -> None:
    response = admin("POST", "/schedules", body)
    assert response.status_code == 422
    assert field in {error["field"] for error in response.get_json()["errors"]}


def test_programs_need_the_scope(program: Callable[[str], Program]) -> None:
    actions.add(spec.parse(BODY), "person:ana")
    reader, operator = program("read"), program("operate")
    assert reader("GET", "/schedules/nightly").get_json()["job"]["env"] == {"A": None}
    assert operator("GET", "/schedules/nightly").get_json()["job"]["env"] == {"A": "s"}
    assert reader("POST", "/schedules/nightly/run").status_code == 403
    assert operator("POST", "/schedules/nightly/run").status_code == 201
    assert operator("POST", "/schedules/nightly/run").status_code == 409
    assert operator("POST", "/schedules", BODY).status_code == 403
    assert operator("DELETE", "/schedules/nightly").status_code == 403


def test_a_skipped_fire_runs_once(program: Callable[[str], Program]) -> None:
    actions.add(spec.parse({**BODY, "overlap": "allow"}), "person:ana")
    due = clock.parse_iso("2026-11-01T01:30:00Z")
    with writing() as session:
        fire = {"due_at": due, "decided_at": due, "outcome": "missed", "reason": "catch-up is none"}
        session.add(Fire(schedule_id=views.find(session, "nightly").id, **fire))
    path, operator = "/schedules/nightly/fires/run", program("operate")
    assert program("read")("POST", path, {"due_at": clock.to_iso(due)}).status_code == 403
    ran = operator("POST", path, {"due_at": "2026-11-01T02:30:00+01:00"})
    assert ran.status_code == 201
    (fire,) = operator("GET", "/schedules/nightly/fires").get_json()["fires"]
    assert (fire["outcome"], fire["job_id"]) == ("caught_up", ran.get_json()["job_id"])
    assert fire["reason"].endswith("after it was missed: catch-up is none")
    for body, status in (({"due_at": clock.to_iso(due)}, 409), ({"due_at": "2026-11-01T02:30:00Z"}, 404),
                         ({"due_at": "02:30"}, 422), ({}, 422)):  # fmt: skip
        assert operator("POST", path, body).status_code == status


def test_a_pause_may_have_an_end(admin: Program) -> None:
    admin("POST", "/schedules", BODY)
    paused = admin("POST", "/schedules/nightly/pause", {"until": "2099-01-01T00:00:00Z"}).get_json()
    assert (paused["enabled"], paused["paused_until"]) == (False, "2099-01-01T00:00:00.000000Z")
    assert admin("POST", "/schedules/nightly/pause", {"until": "2001-01-01T00:00:00Z"}).status_code == 422
    assert admin("POST", "/schedules/nightly/resume").get_json()["enabled"]


def test_the_ledger_and_the_next_fires(admin: Program) -> None:
    admin("POST", "/schedules", {**BODY, "overlap": "allow"})
    ids = [admin("POST", "/schedules/nightly/run").get_json()["job_id"] for _ in range(3)]
    first = admin("GET", "/schedules/nightly/fires?limit=2").get_json()
    second = admin("GET", f"/schedules/nightly/fires?limit=2&cursor={first['next']}").get_json()
    fires = [*first["fires"], *second["fires"]]
    assert [fire["job_id"] for fire in fires] == ids[::-1]
    assert {fire["outcome"] for fire in fires} == {"fired"}
    assert admin("GET", "/schedules/nightly/fires?cursor=x").status_code == 422
    upcoming = admin("GET", "/schedules/nightly/next?n=3").get_json()
    assert upcoming["reading"] == "At 02:30 every day"
    times = [clock.parse_iso(time) for time in upcoming["fires"]]
    assert len(times) == 3
    assert times == sorted(times)
