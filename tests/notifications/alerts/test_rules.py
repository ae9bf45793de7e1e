"""The description of a rule: what is accepted, what is refused and how, and quiet hours."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from webapp.core.job_spec import SpecError
from webapp.core.notices import EVENTS
from webapp.lib import clock
from webapp.notifications import rules
from webapp.notifications.rules import QuietHours, RuleSpec

MINUTE = 60 * clock.SECOND
ZONES = ("UTC", "Europe/Berlin", "America/New_York", "Asia/Kathmandu", "Australia/Lord_Howe")
START = clock.parse_iso("2026-01-01T00:00:00Z")


def parse(**fields: Any) -> RuleSpec:
    return rules.parse({"name": "r", "on": ["job-dead"], "channel": "ops", **fields})


@settings(deadline=None, max_examples=50)
@given(
    on=st.sets(st.sampled_from(list(EVENTS)), min_size=1),
    after=st.integers(1, 1000),
    older_than=st.integers(60, 30 * 86400),
    quiet=st.none() | st.tuples(st.integers(0, 1439), st.integers(0, 1439), st.sampled_from(ZONES)),
    command=st.none() | st.text("a*?[]\n é", min_size=1, max_size=8).filter(str.strip),
)
def test_a_rule_that_was_written_is_read_again(
    on: set[str], after: int, older_than: int, quiet: Any, command: Any
) -> None:
    of_jobs = bool({*rules.OF_JOBS} & on)
    hours = None if quiet is None or quiet[0] == quiet[1] else QuietHours(*quiet)
    spec = RuleSpec(
        "r",
        tuple(event for event in EVENTS if event in on),
        "ops",
        command=command if of_jobs else None,
        after=after if of_jobs else 1,
        older_than=older_than if "queue-old" in on else rules.OLDER_THAN,
        quiet_hours=hours,
    )
    assert rules.parse(rules.to_json(spec)) == spec
    assert rules.of_row("r", "ops", rules.stored_text(spec)) == spec
    assert set(rules.events_text(spec).strip(",").split(",")) == on


def test_events_and_durations_may_be_texts() -> None:
    spec = parse(on="queue-old, disk-low,queue-old", older_than="10min", quiet_hours="22:00 - 7:00")
    assert (spec.on, spec.older_than) == (("queue-old", "disk-low"), 600)
    assert str(spec.quiet_hours) == "22:00-07:00 UTC"


@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"name": "_r"}, "name", "expected 1 to 128 characters"),
        ({"on": []}, "on", "is missing. Expected events: job-dead"),
        ({"on": ["jobdead"]}, "on", "'jobdead' is not an event"),
        ({"on": [["job-dead"]]}, "on", "is not an event"),
        ({"on": 7}, "on", "expected events"),
        ({"channel": None}, "channel", "is missing"),
        ({"queue": "_system"}, "queue", "is not allowed"),
        ({"on": "disk-low", "queue": "mail"}, "queue", "does not apply to these events. It applies to job-dead"),
        ({"on": "queue-old", "command": "*x*"}, "command", "does not apply"),
        ({"on": "queue-old", "schedule": "s"}, "schedule", "does not apply"),
        ({"on": "worker-lost", "after": 2}, "after", "does not apply"),
        ({"older_than": 60}, "older_than", "It applies to queue-old"),
        ({"after": 0}, "after", "from 1 to 1,000"),
        ({"after": True}, "after", "from 1 to 1,000"),
        ({"after": "many"}, "after", "from 1 to 1,000"),
        ({"command": "x" * 2001}, "command", "at most 2,000 characters"),
        ({"command": "a\0b"}, "command", "expected a pattern"),
        ({"on": "queue-old", "older_than": "5s"}, "older_than", "expected a duration from 1 min to 30 d"),
        ({"on": "queue-old", "older_than": 60.5}, "older_than", "expected whole seconds"),
        ({"quiet_hours": "22-7"}, "quiet_hours", "expected hours and a time zone"),
        ({"quiet_hours": "25:00-07:00"}, "quiet_hours", "expected hours"),
        ({"quiet_hours": "07:00-07:00 UTC"}, "quiet_hours", "begins and ends at the same time"),
        ({"quiet_hours": "22:00-07:00 Mars/Phobos"}, "quiet_hours", "unknown on this machine"),
        ({"enabled": True}, "enabled", "is not a known key"),
    ],
)
def test_an_error_names_the_field_and_says_what_is_expected(fields: dict[str, Any], field: str, words: str) -> None:
    with pytest.raises(SpecError) as raised:
        parse(**fields)
    [error] = raised.value.errors
    assert error.field == field
    assert words in error.message


@pytest.mark.parametrize("data", [None, [], "x", 7])
def test_other_things_than_an_object_are_refused(data: object) -> None:
    with pytest.raises(SpecError, match="expected an object"):
        rules.parse(data)


@pytest.mark.parametrize(
    ("on", "noticed", "event"),
    [
        ("job-dead,group-new", "job-dead", "job-dead"),
        ("attempt-failed,group-new", "job-dead", "attempt-failed"),
        ("group-new", "job-dead", "group-new"),
        ("job-dead", "attempt-failed", None),
        ("worker-lost", "worker-lost", "worker-lost"),
    ],
)
def test_for_which_event_a_notice_counts(on: str, noticed: str, event: str) -> None:
    assert parse(on=on).event_for(noticed) == event


def test_a_condition_applies_to_events_that_have_such_a_thing() -> None:
    spec = parse(on="job-dead,queue-old,disk-low", queue="mail")
    assert spec.matches_subject("disk-low", "host:web-1")
    assert spec.matches_subject("queue-old", "queue:mail")
    assert not spec.matches_subject("queue-old", "queue:other")


# --- quiet hours ---


@settings(deadline=None, max_examples=50)
@given(
    start=st.integers(0, 1439),
    length=st.integers(1, 1439),
    zone=st.sampled_from(ZONES),
    minute=st.integers(0, 366 * 1440),
    second=st.integers(0, 59),
)
def test_quiet_hours_end_at_the_first_minute_that_is_not_quiet(
    start: int, length: int, zone: str, minute: int, second: int
) -> None:
    hours = QuietHours(start, (start + length) % 1440, zone)
    _check_end(hours, START + minute * MINUTE + second * clock.SECOND)


def _check_end(hours: QuietHours, moment: int) -> None:
    expected = moment
    if hours.covers(moment):
        expected = moment // MINUTE * MINUTE
        while hours.covers(expected):
            expected += MINUTE
    assert hours.end_after(moment) == expected


@pytest.mark.parametrize("day", ["2026-03-29", "2026-10-25"])
@pytest.mark.parametrize("end", [90, 120, 150, 180])
def test_quiet_hours_around_a_change_of_the_clock(day: str, end: int) -> None:
    midnight = clock.parse_iso(f"{day}T00:00:00Z") - 120 * MINUTE
    for minute in range(0, 400, 10):
        _check_end(QuietHours(22 * 60, end, "Europe/Berlin"), midnight + minute * MINUTE)


def test_quiet_hours_that_do_not_pass_midnight() -> None:
    hours = QuietHours(12 * 60, 13 * 60, "UTC")
    noon = START + 720 * MINUTE
    assert [hours.covers(noon + minute * MINUTE) for minute in (-1, 0, 59, 60)] == [False, True, True, False]
    assert json.dumps(str(hours)) == '"12:00-13:00 UTC"'
