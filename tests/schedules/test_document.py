"""Schedules as a file: reading YAML and TOML, the plan, and that a second apply changes nothing."""

from __future__ import annotations

from typing import Optional

import pytest
from sqlalchemy import update

from tests.schedules.conftest import Schedules
from webapp.core.job_spec import SpecError
from webapp.db.engines import reading, writing
from webapp.db.models import Schedule
from webapp.lib import clock
from webapp.schedules import actions, document, views
from webapp.schedules.spec import ScheduleSpec

YAML = """
schedules:
  nightly:
    cron: 0 2 * * *
    tz: Europe/Berlin
    job: {command: ./backup.sh, max_retries: 2}
  poll:
    every: 15m
    job: {command: ./poll.sh}
"""
TOML = """
[schedules.nightly]
cron = "0 2 * * *"
tz = "Europe/Berlin"
job = {command = "./backup.sh", max_retries = 2}
[schedules.poll]
every = "15m"
job = {command = "./poll.sh"}
"""


def stored() -> dict[str, Optional[ScheduleSpec]]:
    with reading() as session:
        return views.stored(session)


def apply(text: str, *, prune: bool = False) -> document.FilePlan:
    planned = document.plan(stored(), document.read(text, is_toml=False), prune=prune)
    actions.apply(planned.as_changes(), "person:ana")
    return planned


def test_yaml_and_toml_mean_the_same() -> None:
    assert document.read(YAML, is_toml=False) == document.read(TOML, is_toml=True)


def test_times_and_dates_mean_what_is_written() -> None:
    """In YAML 1.1 and for PyYAML, 22:30 is the number 1350."""
    lines = "not_later_than: 22:30\n  starts_at: {}\n  job: {{command: x, timeout: 1.5, env: {{AT: 10:20:30}}}}"
    yaml = "- name: a\n  every: 60\n  " + lines.format("2026-12-01T08:00:00Z")
    (read,) = document.read(yaml, is_toml=False)
    assert (read.spec.not_later_than, read.spec.timing.starts_at) == (
        22 * 60 + 30,
        clock.parse_iso("2026-12-01T08:00:00Z"),
    )
    assert (read.spec.job.timeout, read.spec.job.env) == (1.5, {"AT": "10:20:30"})
    toml = """[schedules.a]
        every = 60
        not_later_than = 22:30:00
        starts_at = 2026-12-01T08:00:00Z
        job = {command = "x", timeout = 1.5, env = {AT = "10:20:30"}}"""
    assert [one.spec for one in document.read(toml, is_toml=True)] == [read.spec]
    with pytest.raises(SpecError, match="'2026-12-01' is not allowed; expected ISO 8601 with a zone"):
        document.read("- name: a\n  every: 60\n  " + lines.format("2026-12-01"), is_toml=False)


def test_a_broken_schedule_is_mended_or_removed_by_a_file(schedules: Schedules) -> None:
    apply(YAML)
    with writing() as session:
        session.execute(update(Schedule).values(spec='{"name": "nightly", "cron": "0 2 * * *", "tz": "Mars/X"}'))
    assert set(stored().values()) == {None}
    assert [(one.name, one.kind) for one in apply(YAML[: YAML.index("  poll")], prune=True).changes] == [
        ("nightly", "change"), ("poll", "remove")]  # fmt: skip
    assert stored()["nightly"] is not None


def test_an_applied_file_is_applied_once(schedules: Schedules) -> None:
    assert [change.name for change in apply(YAML).changes] == ["nightly", "poll"]
    again = apply(YAML)
    assert (again.changes, again.unchanged) == ([], 2)
    exported = document.dump([spec for spec in stored().values() if spec is not None])
    assert document.plan(stored(), document.read(exported, is_toml=False), prune=True).changes == []


def test_a_change_shows_its_fields_and_the_moved_fires(schedules: Schedules) -> None:
    apply(YAML.replace("0 2 * * *", "0 5 * * *"))
    (change,) = apply(YAML.replace("0 2 * * *", "30 5 * * *")).changes
    assert (change.name, list(change.fields)) == ("nightly", ["cron"])
    assert change.preview is not None
    assert {new - old for old, new in change.preview.move} == {30 * 60 * 1_000_000}


def test_the_plan_of_a_new_interval_shows_the_fires_that_it_will_have(schedules: Schedules) -> None:
    """They count from the moment at which the file is applied."""
    (change,) = apply("- {name: a, every: 1h, job: {command: x}}").changes
    assert change.preview is not None
    assert change.preview.appear[0] == schedules.row("a").next_fire_at


def test_a_pause_stays_unless_the_file_sets_enabled(schedules: Schedules) -> None:
    apply(YAML)
    actions.pause("poll", "person:ana")
    assert apply(YAML).changes == []
    assert [change.name for change in apply(YAML.replace("every: 15m", "every: 15m\n    enabled: true")).changes] == [
        "poll"
    ]
    poll = stored()["poll"]
    assert poll is not None
    assert poll.enabled


def test_only_prune_removes_schedules(schedules: Schedules) -> None:
    apply(YAML)
    schedules.add("other")
    assert apply(YAML).changes == []
    (change,) = apply(YAML, prune=True).changes
    assert (change.name, change.kind) == ("other", "remove")
    assert set(stored()) == {"nightly", "poll"}


def test_nothing_is_applied_if_a_schedule_was_removed_meanwhile(schedules: Schedules) -> None:
    apply(YAML)
    planned = document.plan(stored(), document.read(YAML.replace("15m", "20m"), is_toml=False), prune=False)
    actions.remove("poll", "person:ana")
    with pytest.raises(actions.Outdated, match="removed"):
        actions.apply(planned.as_changes(), "person:ana")
    assert set(stored()) == {"nightly"}


@pytest.mark.parametrize(
    ("text", "field", "place"),
    [
        ("schedules: [", "", None),
        ("schedules: {a: {every: 60, job: {command: x}}, a: {every: 60, job: {command: x}}}", "", None),
        ("[" * 500, "", None),
        ("schedules: 5", "schedules", None),
        ("- {name: a, cron: 61 * * * *, job: {command: x}}", "cron", 0),
        ("schedules: {a: 5}", "job", 0),
        ("- {name: a, every: 60, job: {command: x}}\n- {name: a, every: 60, job: {command: x}}", "name", 1),
    ],
)
def test_an_invalid_file_names_the_schedule_and_the_field(text: str, field: str, place: object) -> None:
    with pytest.raises(SpecError) as refused:
        document.read(text, is_toml=False)
    assert (field, place) in {(error.field, error.place) for error in refused.value.errors}
