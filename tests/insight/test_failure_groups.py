"""Dead-letter groups: lists, counts, notes, owners and acknowledgements."""

from __future__ import annotations

import json
from typing import Any, Optional

import pytest
from flask import Flask
from sqlalchemy import event, exists, select, text, update
from sqlalchemy.orm import Session

from tests.factories import change_job, make_attempt, make_job, make_user
from webapp.db import engines
from webapp.db.engines import reading, writing
from webapp.db.models import Audit, Group, Job, User
from webapp.insight import failure_commands, failure_groups, rollups
from webapp.jobs import actions, queries
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import NotFound
from webapp.lib import clock
from webapp.lib.error_key import error_key, old_error_keys
from worker.maintenance import retention

HOUR = clock.seconds(3600)


def die(key: str, ago: float = 0.0, **values: Any) -> Job:
    """A dead letter of a group that died so many hours ago."""
    at = clock.now() - round(ago * HOUR)
    return make_job("dead", error_key=key, finished_at=at, started_at=at - clock.SECOND, **values)


def listed(**options: Any) -> failure_groups.Listing:
    with reading() as session:
        return failure_groups.listing(session, **options)


def found(key: str) -> failure_groups.DeadGroup:
    with reading() as session:
        group = failure_groups.find(session, key)
    assert group is not None
    return group


@pytest.mark.usefixtures("app")
def test_a_group_has_only_its_own_jobs_with_the_first_and_last_death() -> None:
    oldest = die("a", 5)
    die("a", 3)
    newest = die("a", 1, last_error="exit code 9: as it is now")
    die("b", 0)
    make_job("failed", error_key="a")
    make_job("completed")
    group = found("a")
    assert (group.count, group.first_at, group.last_at) == (queries.Count(3), oldest.finished_at, newest.finished_at)
    assert (group.example.id, group.example.last_error) == (newest.id, "exit code 9: as it is now")
    assert listed().number == 2


@pytest.mark.usefixtures("app")
def test_a_dead_letter_without_a_key_hides_no_group() -> None:
    """A worker of the previous version leaves such a row while it finishes under a newer schema."""
    die("a")
    make_job("dead", error_key=None)
    assert [group.key for group in listed().groups] == ["a"]


@pytest.mark.usefixtures("app")
def test_without_dead_letters_there_are_no_groups() -> None:
    make_job("completed")
    listing = listed()
    assert (listing.groups, listing.number, listing.capped) == ([], 0, False)
    with reading() as session:
        assert failure_groups.find(session, "a") is None


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_groups_are_sorted_by_last_death_or_count_and_acknowledged_ones_come_last() -> None:
    for key, ago, number in (("few", 1, 1), ("many", 9, 3), ("some", 5, 2)):
        for _ in range(number):
            die(key, ago)
    assert [one.key for one in listed().groups] == ["few", "some", "many"]
    assert [one.key for one in listed(by="count").groups] == ["many", "some", "few"]
    failure_groups.update("few", "person:ana", acknowledged=True)
    failure_groups.update("many", "person:ana", acknowledged=True)
    assert [one.key for one in listed().groups] == ["some", "few", "many"]
    assert [one.key for one in listed(by="count").groups] == ["some", "many", "few"]
    assert listed().open_ones == 1


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_pages_of_groups_meet() -> None:
    for number in range(7):
        die(f"key{number}", number)
    pages = [listed(page=number, size=3) for number in (1, 2, 3)]
    assert [[one.key for one in page.groups] for page in pages] == [
        ["key0", "key1", "key2"],
        ["key3", "key4", "key5"],
        ["key6"],
    ]
    assert [page.more for page in pages] == [True, True, False]


@pytest.mark.usefixtures("app")
def test_with_too_many_groups_those_of_the_newest_deaths_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_groups, "MAX_GROUPS", 4)
    monkeypatch.setattr(failure_groups, "NEWEST_JOBS", 5)
    for number in range(4):
        die(f"a{number}", 10 + number)
    assert not listed().capped
    for number in range(3):
        die(f"z{number}", number)
    listing = listed()
    assert listing.capped
    assert [one.key for one in listing.groups] == ["z0", "z1", "z2", "a0"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_counts_stop_at_their_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(failure_groups, "COUNT_BUDGET", 6)
    for _ in range(4):
        die("many")
    for _ in range(3):
        die("three", 1)
    counts = {one.key: one.count for one in listed().groups}
    assert counts == {"many": queries.Count(3, True), "three": queries.Count(3)}
    assert [one.key for one in listed(by="count").groups] == ["many", "three"]


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_deaths_are_counted_by_hour_for_the_last_day() -> None:
    start = clock.now() // HOUR * HOUR
    for at in (start, start, start - 1, start - 23 * HOUR, start - 23 * HOUR - 1, start - 40 * HOUR):
        make_job("dead", error_key="a", finished_at=at)
    die("old", 100)
    deaths = found("a").deaths
    assert deaths.hours == (1, *[0] * 21, 1, 2)
    assert str(deaths.total) == "4"
    assert deaths.since == start - 23 * HOUR
    assert found("old").deaths.hours == (0,) * 24


@pytest.mark.postgresql
def test_groups_are_found_by_the_index_for_any_number_of_jobs(app: Flask) -> None:
    for number in range(6):
        die(f"key{number % 2}")
    plans: list[str] = []
    with engines.read_engine().connect() as connection:
        session = Session(connection)
        if not engines.is_sqlite():
            session.execute(text("SET LOCAL enable_seqscan = off"))

        def see(_c: object, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
            if "jobs" in statement and "EXPLAIN" not in statement:
                explain = "EXPLAIN QUERY PLAN " if engines.is_sqlite() else "EXPLAIN "
                rows = connection.exec_driver_sql(explain + statement, parameters).fetchall()
                plans.append("\n".join(str(row[-1]) for row in rows))

        event.listen(connection, "before_cursor_execute", see)
        failure_groups.listing(session, by="count")
        failure_groups.count_deaths(session, "key1")
        failure_commands.of_groups(session, ["key0", "key1"], 5)
        session.execute(select(Group.key).where(~exists().where(retention._IS_DEAD, Job.error_key == Group.key)))
    assert len(plans) == 8
    for plan in plans:
        assert "ix_jobs_group" in plan or "jobs USING INTEGER PRIMARY KEY" in plan or "pk_jobs" in plan
        assert "ix_jobs_ended" not in plan
        assert "SCAN jobs\n" not in plan


# --- what people say -------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("app")
def test_an_acknowledged_group_opens_again_when_another_job_dies() -> None:
    die("a", 2)
    assert found("a").is_open
    assert failure_groups.update("a", "person:ana", acknowledged=True)
    assert not found("a").is_open
    assert not failure_groups.update("a", "person:ben", acknowledged=True)
    die("a", 1)
    group = found("a")
    assert group.is_open
    assert group.recurred
    assert group.said is not None
    assert group.said.acknowledged_by == "person:ana"
    assert not failure_groups.update("a", "person:ana", acknowledged=False)


@pytest.mark.usefixtures("app")
def test_an_undone_requeue_does_not_open_a_group() -> None:
    job = die("a", 2)
    failure_groups.update("a", "person:ana", acknowledged=True)
    actions.apply("requeue", [job.id], "person:ana")
    change_job(job.id, state="dead", finished_at=job.finished_at)
    assert not found("a").is_open


@pytest.mark.usefixtures("app")
def test_an_unseen_death_cannot_be_acknowledged() -> None:
    seen = die("a", 2).finished_at
    die("a", 1)
    with pytest.raises(failure_groups.Recurred, match="new dead letter"):
        failure_groups.update("a", "person:ana", acknowledged=True, seen_death=seen)
    assert found("a").is_open
    assert failure_groups.update("a", "person:ana", acknowledged=True, seen_death=found("a").last_at)


@pytest.mark.usefixtures("app")
def test_an_acknowledgement_can_be_taken_back() -> None:
    die("a")
    failure_groups.update("a", "person:ana", acknowledged=True)
    assert failure_groups.update("a", "person:ben", acknowledged=False)
    assert found("a").is_open
    assert not failure_groups.update("a", "person:ben", acknowledged=False)


@pytest.mark.usefixtures("app")
def test_a_note_and_an_owner_stay_when_the_group_is_empty() -> None:
    make_user("ben", "operator")
    job = die("a")
    assert failure_groups.update("a", "person:ana", note=" They know.\r\nAsk Monday. ", owner="ben")
    actions.apply("discard", [job.id], "person:ana")
    with reading() as session:
        assert failure_groups.find(session, "a") is None
        said = session.get(Group, "a")
    assert said is not None
    assert (said.note, said.owner, said.changed_by) == ("They know.\nAsk Monday.", "ben", "person:ana")
    assert failure_groups.update("a", "person:ana", note="")
    with pytest.raises(NotFound):
        failure_groups.update("a", "person:ana", acknowledged=True)


@pytest.mark.usefixtures("app")
def test_equal_values_are_no_change() -> None:
    make_user("ben", "operator")
    die("a")
    assert not failure_groups.update("a", "person:ana", note="", owner="")
    assert failure_groups.update("a", "person:ana", note="x", owner="ben")
    assert not failure_groups.update("a", "person:ana", note="x")
    assert failure_groups.update("a", "person:ana", owner="")
    group = found("a")
    assert group.said is not None
    assert (group.said.note, group.said.owner) == ("x", None)


@pytest.mark.usefixtures("app")
def test_an_unseen_note_is_not_overwritten() -> None:
    die("a")
    first = failure_groups.fingerprint(None)
    assert failure_groups.update("a", "person:ana", note="mine", seen=first)
    with pytest.raises(failure_groups.Changed, match="ana has changed it"):
        failure_groups.update("a", "person:ben", note="other", seen=first)
    failure_groups.update("a", "person:ana", acknowledged=True)
    assert failure_groups.update("a", "person:ben", note="other", seen=failure_groups.fingerprint(found("a").said))


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_several_changes_are_all_made_or_none() -> None:
    seen = die("a", 2).finished_at
    die("a", 1)
    with pytest.raises(failure_groups.Recurred):
        failure_groups.update("a", "person:ana", note="mine", acknowledged=True, seen_death=seen)
    assert found("a").said is None
    assert failure_groups.update("a", "person:ana", note="mine", acknowledged=True)
    assert not failure_groups.update("a", "person:ana", note="mine", acknowledged=True)
    with reading() as session:
        verbs = [one.verb for one in queries.events_of(session, "group:a")]
    assert verbs == ["acknowledge", "describe"]


@pytest.mark.usefixtures("app")
def test_an_empty_group_can_be_left_out() -> None:
    job = die("a")
    failure_groups.update("a", "person:ana", note="mine")
    actions.apply("discard", [job.id], "person:ana")
    with pytest.raises(NotFound, match="may be empty by now"):
        failure_groups.update("a", "person:ana", note="other", only_with_jobs=True)
    with reading() as session:
        assert session.get(Group, "a").note == "mine"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("note", "owner", "field", "words"),
    [
        ("x" * 2001, None, "note", "2,001 characters; at most 2,000 are allowed"),
        ("a\0b", None, "note", "an invalid character"),
        (None, "nobody", "owner", "'nobody' is not an active user"),
        (None, "gone", "owner", "'gone' is not an active user"),
    ],
)
@pytest.mark.usefixtures("app")
def test_an_invalid_value_is_refused_with_its_field(
    note: Optional[str], owner: Optional[str], field: str, words: str
) -> None:
    make_user("gone", "operator")
    with writing() as session:
        session.execute(update(User).values(disabled_at=1))
    die("a")
    with pytest.raises(failure_groups.GroupError, match=words) as caught:
        failure_groups.update("a", "person:ana", note=note, owner=owner)
    assert caught.value.field == field
    assert found("a").said is None


@pytest.mark.usefixtures("app")
def test_an_unknown_group_cannot_be_changed() -> None:
    for what in ({"acknowledged": True}, {"acknowledged": False}, {"note": "x"}):
        with pytest.raises(NotFound, match="dead letter group 'a' does not exist"):
            failure_groups.update("a", "person:ana", **what)


@pytest.mark.usefixtures("app")
def test_changes_of_a_group_are_recorded() -> None:
    die("a")
    failure_groups.update("a", "person:ana", note="why")
    failure_groups.update("a", "person:ben", acknowledged=True)
    failure_groups.update("a", "person:ben", acknowledged=False)
    with reading() as session:
        happened = [(one.verb, one.actor) for one in queries.events_of(session, "group:a")]
        audited = session.scalars(select(Audit).order_by(Audit.id)).all()
    assert happened == [("reopen", "person:ben"), ("acknowledge", "person:ben"), ("describe", "person:ana")]
    assert (audited[0].verb, audited[0].subject, audited[0].actor) == ("describe", "group:a", "person:ana")
    assert json.loads(audited[0].detail or "") == {
        "before": {"note": "", "owner": None},
        "after": {"note": "why", "owner": None},
    }


# --- history ---------------------------------------------------------------------------------------------------------


def folded(key: str) -> tuple[Optional[int], Optional[int], int, Optional[str]]:
    with reading() as session:
        row = session.get_one(Group, key)
    return row.first_at, row.last_at, row.deaths, row.error


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_deaths_are_rolled_up_once_also_of_jobs_that_were_requeued_since() -> None:
    old = clock.now() - 10 * rollups.FOLD_DELAY
    for number in range(3):
        job = make_job("dead", id=f"job{number}", error_key="a", finished_at=old + number)
        make_attempt(job, 1, error_key="a", error=f"exit code {number}: no", finished_at=old + number)
    retried = make_job("failed", error_key="a")
    make_attempt(retried, 1, error_key="a", finished_at=old)
    actions.apply("requeue", ["job0"], "person:ana")
    assert folded("a") == (old, old, 0, "exit code 1")
    rollups.fold()
    rollups.fold()
    assert folded("a") == (old, old + 2, 3, "exit code 2: no")
    die("a")
    with reading() as session:
        assert failure_groups.count_deaths(session, "a") == queries.Count(4)
    actions.apply("discard", JobFilter(state="dead"), "person:ana")
    with reading() as session:
        assert failure_groups.count_deaths(session, "a") == queries.Count(3)


@pytest.mark.usefixtures("app")
def test_a_death_brings_back_what_was_said_about_its_group_in_an_earlier_version() -> None:
    error, command, old = "exit code 3: no route to host", "sync north 7", clock.now() - 10 * rollups.FOLD_DELAY
    before = old_error_keys(error, "sync north 8")[0]
    with writing() as session:
        session.add(Group(key=before, note="ask ana", owner="ana", changed_at=1, changed_by="person:ana"))
    new = error_key(error, command)
    job = make_job("dead", error_key=new, command=command, last_error=error, finished_at=old)
    make_attempt(job, 1, error_key=new, error=error, finished_at=old)
    rollups.fold()
    with reading() as session:
        group = session.get_one(Group, new)
        assert failure_groups.current_key(session, before) == new
        with pytest.raises(NotFound, match=f"is a part of group '{new}' now"):
            failure_groups.check_current(session, before)
    assert (group.note, group.owner, group.deaths) == ("ask ana", "ana", 1)


@pytest.mark.postgresql
@pytest.mark.usefixtures("app")
def test_commands_of_a_group_are_counted_by_their_pattern_in_its_newest_jobs() -> None:
    for number, command in enumerate(("charge order-1", "charge order-2", "refund 3", "charge order-4")):
        die("a", number, command=command)
    die("b", command="tar /x")
    with reading() as session:
        found = failure_commands.of_groups(session, ["a", "b", "none"], 3)
    assert [(one.pattern, one.number) for one in found["a"].patterns] == [("charge order-N", 2), ("refund N", 1)]
    assert (found["a"].whole, found["b"].whole, found["a"].text) == (False, True, "charge order-N and 1 more")
    assert [one.search for one in found["a"].patterns] == ['"charge order-"', '"refund"']
    assert found["none"].patterns == []
