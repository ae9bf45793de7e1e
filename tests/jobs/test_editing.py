"""Edit and retry: a failed or cancelled job gets other fields, keeps its id and history, and can be restored."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import select

from tests.factories import make_attempt, make_job, make_queue
from webapp.core import enqueue as core_enqueue
from webapp.core.flow import retry_rules
from webapp.core.job_spec import SpecError
from webapp.db import audit
from webapp.db.engines import reading
from webapp.db.models import BulkAction, Event, Job, LabelSetRow, Queue
from webapp.jobs import actions, editing, job_detail, job_phases, lifecycle, queue_actions
from webapp.jobs.flow import limits
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock

pytestmark = pytest.mark.usefixtures("app")
ANA = "person:ana"


def job() -> Job:
    with reading() as session:
        return session.scalars(select(Job).where(Job.id == "job1")).one()


def of_edit() -> dict[str, Any]:
    """The detail of the job's last edit."""
    with reading() as session:
        found: dict[str, Any] = json.loads(
            session.scalars(select(Event.detail).where(Event.verb == "edit").order_by(Event.id.desc())).first() or ""
        )
    return found


@pytest.mark.postgresql
@pytest.mark.parametrize("state", ["dead", "cancelled", "failed"])
def test_an_edited_job_runs_again_and_an_undo_restores_it(state: str) -> None:
    old = make_job(state, id="job1", command="a", queue="one", attempts=3, failures=3, env='{"KEY": "old"}')
    changes = {"command": "b", "queue": "two", "requires": ["gpu"], "timeout": "10m", "env": {"KEY": "new"}}
    result = editing.edit("job1", changes, ANA)
    new = job()
    assert (new.state, new.command, new.queue, new.requires, new.timeout) == ("pending", "b", "two", "gpu", 600.0)
    assert (new.attempts, new.failures, new.finished_at, new.priority) == (3, 0, None, old.priority)
    with reading() as session:
        assert session.get(Queue, "two") is not None
        assert session.get(LabelSetRow, ("two", "gpu")) is not None
    assert result.undo is not None
    assert actions.undo(result.undo, ANA).moved == 1
    back = job()
    for name in (*editing.COLUMNS, "state", "failures", "run_at", "finished_at"):
        assert getattr(back, name) == getattr(old, name), name
    assert back.prior_fields is None
    with pytest.raises(actions.CannotUndo):
        actions.undo(result.undo, ANA)


def test_the_history_has_old_and_new_values_but_no_values_of_variables() -> None:
    make_job("dead", id="job1", command="a", env='{"KEY": "s3cret", "OLD": "1", "SAME": "x"}')
    editing.edit("job1", {"command": "b" * 500, "env": {"KEY": "n3w", "SAME": "x", "MORE": "1"}}, ANA)
    detail = of_edit()
    assert detail["before"] == {"command": "a"}
    assert detail["after"] == {"command": "b" * 500}
    assert detail["env"] == {"KEY": "changed", "OLD": "removed", "MORE": "added"}
    with reading() as session:
        line = audit.page(session, audit.AuditFilter(verb="edit"), limit=1)[0]
        shown = job_detail.timeline(job(), [], job_detail.events(session, job()))[-1]
    assert (line.actor, line.subject) == (ANA, "job:job1")
    assert "s3cret" not in f"{detail}{line.detail}"
    assert len(line.detail or "") < 500  # the start of a long command
    assert (shown.happened, shown.remark) == ("edited and requeued", "command, env")


def test_fields_stay_unless_named_and_null_restores_the_default() -> None:
    make_job("dead", id="job1", command="a", timeout=5.0, max_retries=2, priority=7, cwd="/srv")
    editing.edit("job1", {"timeout": None, "priority": None}, ANA)
    found = job()
    assert (found.command, found.timeout, found.max_retries, found.priority, found.cwd) == ("a", None, 2, 0, "/srv")


@pytest.mark.parametrize("state", ["pending", "scheduled", "processing", "completed"])
def test_only_jobs_that_failed_or_were_cancelled_can_be_edited(state: str) -> None:
    make_job(state, id="job1")
    with pytest.raises(editing.Conflict, match=f"job1 is {state}. Edit works for"):
        editing.edit("job1", {"command": "b"}, ANA)
    with pytest.raises(NotFound):
        editing.edit("none", {"command": "b"}, ANA)
    with reading() as session:
        assert session.scalar(select(BulkAction.id)) is None


@pytest.mark.parametrize(
    ("changes", "field"),
    [({"id": "x"}, "id"), ({"delay": 5}, "delay"), ({"notify": "ops"}, "notify"), ({"timeout": -1}, "timeout"),
     ({"after": ["a"]}, "after"), ({"limits": "none"}, "limits"), ({"retry": "exit x: wait"}, "retry"),
     ({"unique": {"key": "k", "on_conflict": "replace"}}, "unique"), ({"unique": {"key": "k", "while": 0}}, "unique"),
     ({"command": ""}, "command"), ({"command": None}, "command"), ({"comand": "x"}, "comand")],
)  # fmt: skip
def test_an_invalid_change_names_its_field(changes: dict[str, Any], field: str) -> None:
    make_job("dead", id="job1", command="a")
    with pytest.raises(SpecError) as caught:
        editing.edit("job1", changes, ANA)
    assert [one.field for one in caught.value.errors] == [field]
    assert job().state == "dead"


def test_an_edit_obeys_the_limit_of_label_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core_enqueue, "MOST_LABEL_SETS", 1)
    make_job("pending", requires="ssd")
    make_job("dead", id="job1")
    with pytest.raises(SpecError, match="already require 1 different sets"):
        editing.edit("job1", {"requires": "gpu"}, ANA)
    editing.edit("job1", {"requires": "ssd"}, ANA)


def test_an_undo_restores_the_queue_that_was_removed_meanwhile() -> None:
    make_queue("two")
    make_job("failed", id="job1", queue="one")
    result = editing.edit("job1", {"queue": "two"}, ANA)
    queue_actions.remove_queue("one", ANA)
    actions.undo(result.undo or 0, ANA)
    with reading() as session:
        assert session.get_one(Queue, "one").removed_at is None
    assert (job().queue, job().state) == ("one", "failed")


def test_a_job_that_had_ended_did_not_wait_before_its_edit() -> None:
    dead = make_job("dead", id="job1", attempts=1)
    attempt = make_attempt(dead, 1)
    editing.edit("job1", {"command": "b"}, ANA)
    with reading() as session:
        phases = job_phases.phases(job(), [attempt], job_detail.events(session, job()))
    assert [one.kind for one in phases if one.start >= attempt.finished_at] == ["waited"]


@pytest.mark.postgresql
def test_limits_unique_key_and_retry_rules_can_be_edited_and_restored() -> None:
    limits.set_limit("db", 1, None, None, ANA)
    old = make_job("dead", id="job1", limits="gone", unique_key="a", unique_while="started", retry='{"rules": []}')
    changes = {"limits": ["db:exclusive"], "unique": {"key": "b", "while": "1h"}, "retry": "exit 75: wait"}
    result = editing.edit("job1", changes, ANA)
    new = job()
    assert (new.state, new.limits, new.unique_key, new.unique_while) == ("pending", "db:exclusive", "b", "period")
    assert new.unique_until is not None
    assert retry_rules.stored(new.retry).lines == ["exit 75: wait"]
    shown = of_edit()["after"]
    assert (shown["limits"], shown["retry"]) == ("db:exclusive", "exit 75: wait")
    assert shown["unique"] == f"b ({clock.to_iso(new.unique_until)})"
    actions.undo(result.undo or 0, ANA)
    back = job()
    for name in editing.COLUMNS:
        assert getattr(back, name) == getattr(old, name), name


@pytest.mark.postgresql
@pytest.mark.parametrize("state", ["dead", "failed"])
def test_an_edit_does_not_take_the_unique_key_of_another_job(state: str) -> None:
    make_job(state, id="job1")
    make_job("scheduled", id="holder", unique_key="k", unique_while="waiting")
    with pytest.raises(lifecycle.KeyHeld, match=r"job1 was not changed: its unique key 'k' is held by holder"):
        editing.edit("job1", {"unique": "k"}, ANA)
    assert (job().state, job().unique_key) == (state, None)


@pytest.mark.postgresql
@pytest.mark.parametrize("scope", ["unfinished", "period"])
def test_an_undo_does_not_take_back_a_unique_key_that_another_job_has(scope: str) -> None:
    until = clock.now() + clock.DAY if scope == "period" else None
    make_job("failed", id="job1", unique_key="a", unique_while=scope, unique_until=until)
    result = editing.edit("job1", {"unique": "b"}, ANA)
    make_job("pending", id="holder", unique_key="a", unique_while="unfinished")
    undone = actions.undo(result.undo or 0, ANA)
    assert (undone.moved, [one.id for one in undone.outcome.held.values()]) == (0, ["holder"])
    assert (job().state, job().unique_key) == ("pending", "b")


def test_a_period_of_a_unique_key_begins_anew_only_if_it_is_changed() -> None:
    until = clock.now() + clock.DAY
    make_job("dead", id="job1", unique_key="a", unique_while="period", unique_until=until)
    again = editing.fields_of(job())["unique"]
    result = editing.edit("job1", {"command": "b", "unique": again}, ANA)
    assert job().unique_until == until
    actions.undo(result.undo or 0, ANA)
    editing.edit("job1", {"unique": {"key": "a", "while": "1h"}}, ANA)
    assert (job().unique_until or 0) < until


def test_an_edit_of_a_job_keeps_the_key_of_a_limit_that_was_removed() -> None:
    make_job("dead", id="job1", limits="gone")
    editing.edit("job1", {"command": "b"}, ANA)
    assert job().limits == "gone"
