"""Schedules as a file: reading YAML and TOML, the plan, and that a second apply changes nothing."""

from __future__ import annotations

import pytest

from tests.schedules.conftest import Schedules
from webapp.core.job_spec import SpecError
from webapp.db.engines import reading
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


def stored() -> dict[str, ScheduleSpec]:
    with reading() as session:
        return views.stored(session)


def apply(text: str, *, prune: bool = False) -> document.FilePlan:
    planned = document.plan(stored(), document.read(text, is_toml=False), prune=prune)
    actions.apply(planned.as_changes(), "person:ana")
    return planned


def test_yaml_and_toml_mean_the_same() -> None:
    assert document.read(YAML, is_toml=False) == document.read(TOML, is_toml=True)


def test_an_applied_file_is_applied_once(schedules: Schedules) -> None:
    assert [change.name for change in apply(YAML).changes] == ["nightly", "poll"]
    again = apply(YAML)
    assert (again.changes, again.unchanged) == ([], 2)
    exported = document.dump(list(stored().values()))
    assert document.plan(stored(), document.read(exported, is_toml=False), prune=True).changes == []


def test_a_change_shows_its_fields_and_the_moved_fires(schedules: Schedules) -> None:
    apply(YAML.replace("0 2 * * *", "0 5 * * *"))
    (change,) = apply(YAML.replace("0 2 * * *", "30 5 * * *")).changes
    assert (change.name, list(change.fields)) == ("nightly", ["cron"])
    assert change.preview is not None
    assert {new - old for old, new in change.preview.move} == {30 * 60 * 1_000_000}


def test_a_pause_stays_unless_the_file_sets_enabled(schedules: Schedules) -> None:
    apply(YAML)
    actions.pause("poll", "person:ana")
    assert apply(YAML).changes == []
    assert [change.name for change in apply(YAML.replace("every: 15m", "every: 15m\n    enabled: true")).changes] == [
        "poll"
    ]
    assert stored()["poll"].enabled


def test_only_prune_removes_schedules(schedules: Schedules) -> None:
    apply(YAML)
    schedules.add("other")
    assert apply(YAML).changes == []
    (change,) = apply(YAML, prune=True).changes
    assert (change.name, change.after) == ("other", None)
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
