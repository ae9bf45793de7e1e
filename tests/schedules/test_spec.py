"""The description of a schedule: accepted and refused values, and that it comes back unchanged."""

from __future__ import annotations

from typing import Any

import pytest

from webapp.core.job_spec import SpecError
from webapp.schedules import spec

SMALLEST = {"name": "nightly", "cron": "0 2 * * *", "job": {"command": "./backup.sh"}}


def fields_of(data: object) -> dict[str, str]:
    with pytest.raises(SpecError) as refused:
        spec.parse(data)
    return {error.field: error.message for error in refused.value.errors}


def test_all_fields_come_back_unchanged() -> None:
    whole = {
        **SMALLEST,
        "tz": "Europe/Berlin",
        "spread": "10m",
        "starts_at": "2026-01-01T00:00:00Z",
        "ends_at": "2027-01-01T00:00:00Z",
        "overlap": "queue-one",
        "catch_up": "all",
        "catch_up_window": "2h",
        "catch_up_max": 3,
        "not_later_than": "06:00",
        "late_after": 60,
        "failing_after": 2,
        "enabled": False,
        "note": "Of the shop.",
        "owner": "ada",
        "job": {"command": "x", "queue": "q", "requires": "gpu", "priority": 5, "max_retries": 0, "timeout": 60.0,
                "cwd": "/srv", "env": {"A": "b"}},
    }  # fmt: skip
    read = spec.parse(whole)
    assert spec.parse(spec.to_json(read)) == read
    shown = spec.to_json(read)
    assert (shown["spread"], shown["overlap"], shown["catch_up_window"]) == (600, "queue_one", 7200)
    assert set(shown["job"]) == set(whole["job"])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("more", "field", "words"),
    [
        ({"name": "a b"}, "name", "A-Z"),
        ({"name": None}, "name", "missing"),
        ({"job": None}, "job", "missing"),
        ({"cron": None}, "cron", "every"),
        ({"every": 60}, "every", "combined"),
        ({"cron": None, "every": 0}, "every", "1 s"),
        ({"cron": None, "every": 1.5}, "every", "whole seconds"),
        ({"cron": None, "every": "soon"}, "every", "not a duration"),
        ({"cron": "61 * * * *"}, "cron", "minute '61'"),
        ({"tz": "Mars/Olympus"}, "tz", "Europe/Berlin"),
        ({"overlap": "maybe"}, "overlap", "queue_all"),
        ({"catch_up": True}, "catch_up", "last"),
        ({"catch_up_max": 0}, "catch_up_max", "1,000"),
        ({"not_later_than": "24:00"}, "not_later_than", "06:00"),
        ({"enabled": "yes"}, "enabled", "true or false"),
        ({"starts_at": "2026-01-01T00:00:00"}, "starts_at", "zone"),
        ({"starts_at": "2027-01-01T00:00:00Z", "ends_at": "2026-01-01T00:00:00Z"}, "ends_at", "later"),
        ({"job": {"comand": "x"}}, "job.comand", "command"),
        ({"job": {"command": "x", "delay": 5}}, "job.delay", "each fire"),
        ({"note": "x" * 3000}, "note", "2,000"),
        ({"owner": "\ud800"}, "owner", "2,000"),
        ({"frequency": 1}, "frequency", "known key"),
    ],
)
def test_an_invalid_field_is_named(more: dict[str, Any], field: str, words: str) -> None:
    assert words in fields_of({**SMALLEST, **more})[field]


def test_all_errors_are_reported_together() -> None:
    assert set(fields_of({"name": "a b", "cron": "x", "tz": "y", "job": {}})) == {"name", "cron", "tz", "job.command"}
    assert "" in fields_of([])
