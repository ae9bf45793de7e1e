"""Failure groups for programs: list, read, requeue, note and owner."""

from __future__ import annotations

from tests.api.conftest import Program
from tests.api.test_actions import state_of
from tests.api.test_jobs import refused
from tests.factories import make_job, make_user
from webapp.db import failure_keys
from webapp.db.engines import writing
from webapp.db.models import OutputTail
from webapp.insight import failure_groups
from webapp.lib import clock


def test_failure_groups_are_listed_and_read(reader: Program) -> None:
    for name, key in (("a", "one"), ("b", "one"), ("c", "two")):
        make_job("dead", id=name, error_key=key, command="make report")
    listed = reader("GET", "/dead-letters/groups?sort=count&limit=1").get_json()
    assert (listed["more"], listed["capped"]) == (True, False)
    (group,) = listed["groups"]
    assert (group["key"], group["count"], group["example"], group["command"]) == ("one", 2, "b", "make report")
    assert (group["open"], group["note"], group["owner"], group["acknowledged_by"]) == (True, "", None, None)
    assert reader("GET", "/dead-letters/groups/one").get_json() == group
    refused(reader("GET", "/dead-letters/groups/none"), 404, "not-found")
    refused(reader("GET", "/dead-letters/groups?page=0"), 422, "invalid")
    refused(reader("PUT", "/dead-letters/groups/one", {"note": "x"}), 403, "scope")


def test_a_group_gets_a_note_and_an_owner(operator: Program) -> None:
    make_user("ana", "operator")
    make_job("dead", error_key="one")
    said = operator(
        "PUT", "/dead-letters/groups/one", {"note": "known", "owner": "ana", "acknowledged": True}
    ).get_json()
    assert (said["note"], said["owner"], said["open"], said["acknowledged_by"]) == (
        "known",
        "ana",
        False,
        "token:the-operate",
    )
    said = operator("PUT", "/dead-letters/groups/one", {"owner": "", "acknowledged": False}).get_json()
    assert (said["note"], said["owner"], said["open"]) == ("known", None, True)
    told = refused(operator("PUT", "/dead-letters/groups/one", {"owner": "nobody"}), 422, "invalid")
    assert told["errors"][0]["field"] == "owner"
    refused(operator("PUT", "/dead-letters/groups/none", {"note": "x"}), 404, "not-found")


def test_a_change_with_a_version_does_not_overwrite_a_newer_one(operator: Program) -> None:
    make_job("dead", error_key="one", finished_at=clock.now() - clock.SECOND)
    url = "/dead-letters/groups/one"
    seen = operator("GET", url).get_json()
    failure_groups.update("one", "person:ana", note="from ana")
    told = refused(operator("PUT", url, {"note": "mine", "version": seen["version"]}), 409, "conflict")
    assert told["detail"].startswith("ana has changed it")
    assert told["detail"].endswith("Nothing was changed.")
    assert told["group"] == operator("GET", url).get_json()
    assert told["group"]["note"] == "from ana"
    saved = operator("PUT", url, {"note": "mine", "version": told["group"]["version"]}).get_json()
    assert (saved["note"], saved["version"] != told["group"]["version"]) == ("mine", True)

    make_job("dead", id="newest", error_key="one")
    acknowledged = {"note": "seen", "acknowledged": True, "last_death": seen["last_death"]}
    told = refused(operator("PUT", url, acknowledged), 409, "conflict")
    assert told["detail"].startswith("This group has a new dead letter.")
    assert (told["group"]["example"], told["group"]["note"], told["group"]["open"]) == ("newest", "mine", True)
    acknowledged["last_death"] = told["group"]["last_death"]
    assert operator("PUT", url, acknowledged).get_json()["open"] is False
    refused(operator("PUT", url, {**acknowledged, "last_death": "yesterday"}), 422, "invalid")


def test_one_group_is_listed_and_requeued_alone(operator: Program) -> None:
    for name, key in (("a", "one"), ("b", "two")):
        make_job("dead", id=name, error_key=key)
    assert [job["id"] for job in operator("GET", "/dead-letters?group=one").get_json()["jobs"]] == ["a"]
    act = operator("POST", "/dead-letters/requeue", {"all": True, "group": "one"}).get_json()["act"]
    assert (act["moved"], state_of("a"), state_of("b")) == (1, "pending", "dead")
    refused(operator("POST", "/dead-letters/requeue", {"ids": ["b"], "group": "two"}), 422, "invalid")


def test_dead_letters_are_found_and_requeued_by_their_output(operator: Program) -> None:
    job = make_job("dead", id="a")
    make_job("dead", id="b", last_error="exit code 1: no route to host")
    make_job("dead", id="c")
    with writing() as session:
        session.add(OutputTail(job_seq=job.seq, text="No route to host"))
    found = operator("GET", "/dead-letters?q=%22no%20route%22").get_json()["jobs"]
    assert sorted(job["id"] for job in found) == ["a", "b"]
    assert [job["id"] for job in operator("GET", "/jobs?q=%22no%20route%22").get_json()["jobs"]] == ["b", "a"]
    operator("POST", "/dead-letters/requeue", {"all": True, "q": '"no route"'})
    assert [state_of(name) for name in ("a", "b", "c")] == ["pending", "pending", "dead"]


def test_a_group_of_an_earlier_version_is_read_and_not_acted_on(operator: Program) -> None:
    make_job("dead", error_key="one")
    with writing() as session:
        failure_keys.adopt(session.connection(), "old", "one")
    assert operator("GET", "/dead-letters/groups/old").get_json()["key"] == "one"
    for url in ("/dead-letters/requeue", "/dead-letters/discard", "/dead-letters/canary"):
        told = refused(operator("POST", url, {"all": True, "group": "old"}), 404, "not-found")
        assert "is a part of group 'one' now" in told["detail"]
    refused(operator("GET", "/dead-letters?group=old"), 404, "not-found")


def test_a_canary_of_several_jobs_runs_before_the_others(operator: Program) -> None:
    for number in range(4):
        make_job("dead", id=f"job{number}")
    refused(operator("POST", "/dead-letters/canary", {"all": True, "after": "2"}), 422, "invalid")
    started = operator("POST", "/dead-letters/canary", {"all": True, "after": "3", "first": "job1"}).get_json()
    assert (started["act"]["state"], started["act"]["moved"]) == ("waiting", 3)
    assert state_of("job1") == "pending"
