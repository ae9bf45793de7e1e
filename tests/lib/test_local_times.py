"""Times that users write without a zone: the next 08:00, and clock changes."""

from __future__ import annotations

import os
import sys
import time
from zoneinfo import ZoneInfo

import pytest

from webapp.lib import clock

BERLIN = ZoneInfo("Europe/Berlin")
SPRING = "2026-03-28T12:00:00Z"  # the day before 02:00 becomes 03:00
AUTUMN = "2026-10-24T12:00:00Z"  # the day before 03:00 becomes 02:00

# now, what is written, and what it means in Berlin
CASES = [
    ("2026-11-29T10:00:00Z", "08:00", "2026-11-30T07:00:00"),
    ("2026-11-29T06:59:59Z", "08:00", "2026-11-29T07:00:00"),
    ("2026-11-29T07:00:00Z", "08:00", "2026-11-30T07:00:00"),  # not this moment
    ("2026-11-29T10:00:00Z", " 8:05:30 ", "2026-11-30T07:05:30"),
    ("2026-12-31T23:30:00Z", "00:10", "2027-01-01T23:10:00"),
    ("2026-11-29T10:00:00Z", "2026-12-01 08:00", "2026-12-01T07:00:00"),
    ("2026-11-29T10:00:00Z", "2026-07-01T08:00", "2026-07-01T06:00:00"),
    ("2026-11-29T10:00:00Z", "2026-12-01", "2026-11-30T23:00:00"),
    ("2026-11-29T10:00:00Z", "2030-01-31T08:00:00Z", "2030-01-31T08:00:00"),
    ("2026-11-29T10:00:00Z", "2030-01-31 08:00-05:00", "2030-01-31T13:00:00"),
    # The clock skips 02:30, so it counts on from before the change: it is 03:30.
    (SPRING, "02:30", "2026-03-29T01:30:00"),
    (SPRING, "2026-03-29 02:30", "2026-03-29T01:30:00"),
    (SPRING, "2026-03-29 03:30", "2026-03-29T01:30:00"),
    # 02:30 comes twice: the first one, unless it has passed.
    (AUTUMN, "02:30", "2026-10-25T00:30:00"),
    (AUTUMN, "2026-10-25 02:30", "2026-10-25T00:30:00"),
    ("2026-10-25T00:45:00Z", "02:30", "2026-10-25T01:30:00"),
    ("2026-10-25T00:45:00Z", "2026-10-25 02:30", "2026-10-25T01:30:00"),
    ("2026-10-25T01:45:00Z", "02:30", "2026-10-26T01:30:00"),
]


def set_now(monkeypatch: pytest.MonkeyPatch, at: str) -> None:
    moment = clock.parse_iso(at)
    monkeypatch.setattr(clock, "now", lambda: moment)


@pytest.mark.parametrize(("at", "written", "meant"), CASES)
def test_a_time_without_a_zone_uses_the_given_zone(
    monkeypatch: pytest.MonkeyPatch, at: str, written: str, meant: str
) -> None:
    set_now(monkeypatch, at)
    assert clock.to_iso(clock.parse_local(written, BERLIN)) == f"{meant}.000000Z"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no tzset")
def test_a_time_without_any_zone_uses_that_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    before = os.environ.get("TZ")
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")  # a rule: not every machine has the files of zones
    time.tzset()
    try:
        for at, written, meant in CASES:
            set_now(monkeypatch, at)
            assert clock.to_iso(clock.parse_local(written)) == f"{meant}.000000Z", (at, written)
    finally:
        if before is None:
            monkeypatch.delenv("TZ")
        else:
            monkeypatch.setenv("TZ", before)
        time.tzset()


@pytest.mark.parametrize(
    "written", ["", "tomorrow", "25:00", "08:60", "8", "2026-13-01", "0001-01-01 00:00", "9999-01-01"]
)
def test_an_invalid_time_is_refused_with_examples(written: str) -> None:
    with pytest.raises(ValueError, match=r"is not a time; expected a time such as 08:00 \(the next one\), a date"):
        clock.parse_local(written)
