"""The fires of schedules, compared with a walk over every minute; expressions, words, clock changes."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import islice, takewhile

import pytest

from tests.schedules.expectation import fires, utc
from webapp.core.job_spec import SpecError
from webapp.lib import clock
from webapp.schedules.timing import Timing, clock_changes, in_words, plain_cron

pytestmark = pytest.mark.every_python

# The first eight change their clocks twice a year: by half an hour, at midnight, back for a month.
ZONES = ("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Africa/Casablanca", "America/St_Johns",
         "America/Santiago", "Africa/Cairo", "Europe/Dublin", "Asia/Kathmandu", "Pacific/Apia", "UTC")  # fmt: skip
CRONS = ("30 2 * * *", "*/20 2 * * *", "30 1 * * *", "0 * * * *", "15 2,3 * * *", "5 0 31 * *", "0 12 13 * FRI",
         "0 0 29 2 *", "0 3 * * 1-5", "30 */2 * * *", "0 2 * * 7", "10-50/20 1 * * SUN")  # fmt: skip
# Days around changes of the clock: spring and autumn, north and south.
CHANGES = (utc(2026, 3, 28), utc(2026, 10, 24), utc(2026, 3, 7), utc(2026, 10, 31), utc(2026, 4, 4), utc(2026, 10, 3))


def micros(moment: datetime) -> int:
    return int(moment.timestamp()) * clock.SECOND


def between(timing: Timing, start: datetime, end: datetime) -> list[datetime]:
    found = takewhile(lambda fire: fire <= micros(end), timing.after(micros(start)))
    return [clock.to_datetime(fire) for fire in found]


@pytest.mark.parametrize("zone", ZONES[:5])
def test_fires_around_clock_changes_match_cron(zone: str) -> None:
    for start in CHANGES:
        end = start + timedelta(days=2)
        for cron, expected in fires(CRONS[:5], zone, start, end).items():
            assert between(Timing("x", cron=cron, tz=zone), start, end) == expected, (cron, start)


@pytest.mark.full
@pytest.mark.parametrize("zone", ZONES)
def test_fires_of_three_years_match_cron(zone: str) -> None:
    """With a leap day, and with 2026 a year of 53 weeks."""
    start, end = utc(2026, 1, 1), utc(2029, 1, 1)
    for cron, expected in fires(CRONS, zone, start, end).items():
        assert between(Timing("x", cron=cron, tz=zone), start, end) == expected, cron


@pytest.mark.parametrize("cron", ["30 1 * * *", "30 2 * * *", "*/20 2 * * *", "15 * * * *", "0 2,3 * * *"])
@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe"])
def test_the_result_does_not_depend_on_the_minute_at_which_the_computation_starts(cron: str, zone: str) -> None:
    """Started in the repeated hour, the library returns a time in the past."""
    for night in (utc(2026, 10, 24, 22), utc(2026, 3, 28, 22), utc(2026, 4, 4, 12), utc(2026, 10, 3, 12)):
        timing = Timing("x", cron=cron, tz=zone)
        end = night + timedelta(hours=14)
        whole = fires([cron], zone, night, end)[cron]
        for minutes in range(0, 8 * 60, 17):
            start = night + timedelta(minutes=minutes)
            assert between(timing, start, end) == [fire for fire in whole if fire > start], start


def test_a_fixed_time_in_the_repeated_hour_fires_once() -> None:
    night = Timing("x", cron="30 2 * * *", tz="Europe/Berlin")
    assert between(night, utc(2026, 10, 24, 12), utc(2026, 10, 25, 12)) == [utc(2026, 10, 25, 0, 30)]


def test_intervals_ignore_clock_changes_and_count_from_the_anchor() -> None:
    timing = Timing("x", every=900, anchor=micros(utc(2026, 1, 1, 0, 7)), tz="Europe/Berlin")
    found = between(timing, utc(2026, 3, 29, 0), utc(2026, 3, 29, 1))
    assert found == [utc(2026, 3, 29, 0, minute) for minute in (7, 22, 37, 52)]


def test_a_fire_is_after_the_cursor_even_by_a_microsecond() -> None:
    timing = Timing("x", cron="* * * * *")
    at = micros(utc(2026, 1, 1, 0, 1))
    assert timing.next_after(at - 1) == at
    assert timing.next_after(at) == at + 60 * clock.SECOND


def test_start_and_end_limit_the_fires() -> None:
    timing = Timing("x", cron="0 * * * *", starts_at=micros(utc(2026, 1, 2)), ends_at=micros(utc(2026, 1, 2, 2)))
    assert between(timing, utc(2026, 1, 1), utc(2027, 1, 1)) == [utc(2026, 1, 2, hour) for hour in (0, 1, 2)]


def test_h_and_spread_depend_on_the_name_only() -> None:
    """They are the same after each start. A rival draws its delay anew at each boot, and never fires."""
    assert (plain_cron("H H * * *", "a"), Timing("a", cron="0 * * * *", spread=600).offset) == (
        "49 23 * * *",
        57 * clock.SECOND,
    )
    assert len({plain_cron("H H * * *", f"job-{number}") for number in range(50)}) > 40
    spread = Timing("a", cron="0 * * * *", spread=600)
    assert 0 <= spread.offset < 600 * clock.SECOND
    first = list(islice(spread.after(0), 3))
    assert [fire - spread.offset for fire in first] == [hour * 3600 * clock.SECOND for hour in (0, 1, 2)][: len(first)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("61 * * * *", "minute '61'"),
        ("0 24 * * *", "hour '24'"),
        ("0 0 32 * *", "day of month '32'"),
        ("0 0 * 13 *", "month '13'"),
        ("0 0 * * FOO", "day of week 'FOO'"),
        ("* * * *", "4 fields"),
        ("0 * * * * *", "6 fields"),
        ("@reboot", "@reboot"),
        ("0 0 31 2 *", "never fires"),
        ("H(5-2) * * * *", "minute 'H(5-2)'"),
        ("", "0 fields"),
    ],
)
def test_an_invalid_expression_names_its_field(text: str, words: str) -> None:
    with pytest.raises(SpecError) as refused:
        plain_cron(text, "x")
    assert refused.value.errors[0].field == "cron"
    assert words in refused.value.errors[0].message


@pytest.mark.parametrize(
    "zone", ["Mars/Olympus", "Europe", "../etc/passwd", "", "a" * 300, "localtime", "posixrules", "right/UTC"]
)
def test_an_unknown_zone_is_refused(zone: str) -> None:
    with pytest.raises(SpecError, match="tz"):
        Timing("x", cron="0 0 * * *", tz=zone).next_after(0)


@pytest.mark.parametrize(
    ("cron", "words"),
    [
        ("30 2 * * *", "At 02:30 every day"),
        ("@hourly", "At the start of every hour"),
        ("0 2 13 * FRI", "At 02:00 on the 13th day of every month, or on Friday"),
        ("0 9 * * 1-5", "At 09:00 on Monday through Friday"),
    ],
)
def test_an_expression_is_shown_in_words(cron: str, words: str) -> None:
    assert in_words(Timing("x", cron=cron)) == words


def test_clock_changes_are_named() -> None:
    def changes(cron: str, zone: str) -> list[str]:
        timing = Timing("x", cron=cron, tz=zone)
        return [
            f"{one.wall:%m-%d} {one.words}"
            for one in clock_changes(timing, micros(utc(2026, 1, 1)), micros(utc(2027, 1, 1)))
        ]

    assert changes("30 2 * * *", "Europe/Berlin") == [
        "03-29 02:30 does not exist: runs at 03:00 instead",
        "10-25 02:30 occurs twice: runs once, at the first",
    ]
    assert changes("*/30 2 * * *", "Europe/Berlin")[0] == "03-29 02:00 does not exist: skipped"
    assert changes("15 2 * * *", "Australia/Lord_Howe")[0] == "10-04 02:15 does not exist: runs at 02:30 instead"
    assert changes("30 2 * * *", "UTC") == []


def test_fires_end_with_the_range_of_dates() -> None:
    start = clock.parse_iso("9997-06-01T00:00:00Z")
    assert len(list(Timing("x", every=366 * 86400, starts_at=start).after(0))) == 2
    yearly = Timing("x", cron="30 2 29 3 *", tz="Europe/Berlin", starts_at=start)
    assert clock_changes(yearly, 0, start + clock.DAY) == []  # without a walk over 8,000 years
