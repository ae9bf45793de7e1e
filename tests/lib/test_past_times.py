"""Times in the past as people type them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from webapp.lib import clock, past_times

BERLIN = ZoneInfo("Europe/Berlin")
UTC = ZoneInfo("UTC")


def iso(micros: int) -> str:
    return str(clock.to_iso(micros))[:16]


@pytest.fixture(autouse=True)
def tuesday_night(monkeypatch: pytest.MonkeyPatch) -> None:
    """In Berlin it is Wednesday already."""
    monkeypatch.setattr(clock, "now", lambda: clock.parse_iso("2026-11-24T23:30:00Z"))


@pytest.mark.parametrize(
    ("typed", "begins", "ends"),
    [
        ("2h", "2026-11-24T21:30", "2026-11-24T21:30"),
        ("today", "2026-11-24T23:00", "2026-11-25T23:00"),
        ("Yesterday", "2026-11-23T23:00", "2026-11-24T23:00"),
        ("wednesday", "2026-11-24T23:00", "2026-11-25T23:00"),
        ("thursday", "2026-11-18T23:00", "2026-11-19T23:00"),
        ("2026-10-25", "2026-10-24T22:00", "2026-10-25T23:00"),  # 25 hours
        ("2026-11-24T09:30", "2026-11-24T08:30", "2026-11-24T08:30"),
        ("2026-11-24T09:30:00Z", "2026-11-24T09:30", "2026-11-24T09:30"),
        ("5000w", "1970-01-01T00:00", "1970-01-01T00:00"),
    ],
)
def test_days_and_times_are_in_the_readers_zone(typed: str, begins: str, ends: str) -> None:
    assert iso(past_times.since(typed, BERLIN)) == begins
    assert iso(past_times.until(typed, BERLIN)) == ends


def test_a_day_is_from_midnight_to_midnight() -> None:
    assert [iso(at) for at in past_times.day("today", UTC)] == ["2026-11-24T00:00", "2026-11-25T00:00"]
    assert [iso(at) for at in past_times.day("2026-10-25", BERLIN)] == ["2026-10-24T22:00", "2026-10-25T23:00"]
    # Where the clock skips midnight, the day begins an hour later.
    assert iso(past_times.day("2026-04-24", ZoneInfo("Africa/Cairo"))[0]) == "2026-04-23T22:00"


def test_no_zone_is_the_zone_of_the_machine() -> None:
    assert past_times.since("2026-11-24", None) == clock.parse_local("2026-11-24", None)


@pytest.mark.parametrize(
    "typed", ["morning", "2h30", "999999999w", "1e300d", "nan", "08:00", "1960-01-01", "2026-13-01"]
)
def test_an_invalid_time_is_refused_with_examples_and_the_zone(typed: str) -> None:
    with pytest.raises(
        ValueError, match=r"is not a time; expected a duration before now.*2026-11-24 \(Europe/Berlin\)"
    ):
        past_times.since(typed, BERLIN)
    with pytest.raises(ValueError, match=r"is not a day; expected today"):
        past_times.day(typed, None)
