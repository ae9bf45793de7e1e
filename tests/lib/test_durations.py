"""Durations: every place reads and shows them the same way."""

from __future__ import annotations

import pytest

from webapp.lib import durations


@pytest.mark.parametrize(
    ("typed", "seconds"),
    [
        ("90", 90), ("90s", 90), ("90 sec", 90), ("2m", 120), ("10min", 600), (" 1.5 H ", 5400), (".5h", 1800),
        ("1.5d", 129_600), ("1W", 604_800), ("1e3", 1000), ("1e3s", 1000), ("0", 0),
    ],
)  # fmt: skip
def test_a_number_with_a_unit_is_read_as_seconds(typed: str, seconds: float) -> None:
    assert durations.parse(typed) == seconds


@pytest.mark.parametrize(
    "typed", ["", "soon", "h", "2h30", "5y", "-5", "nan", "inf", "1e999", "inf d", "1 h 5", "1_0", "\uff11m"]
)
def test_an_invalid_duration_is_refused_with_examples(typed: str) -> None:
    with pytest.raises(ValueError) as told:
        durations.parse(typed)
    assert str(told.value) == (
        f"{typed!r} is not a duration; expected seconds, or a number with s, min, h, d or w, such as 90, 10min, 1.5h "
        "or 2d."
    )


def test_a_long_text_is_refused_at_once() -> None:
    with pytest.raises(ValueError):
        durations.parse("a9" * 500_000 + "!")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "\u2013"), (-1, "0 s"), (0, "0 s"), (0.042, "42 ms"), (0.9994, "999 ms"), (0.9996, "1 s"),
        (1.5, "1.5 s"), (1.234, "1.23 s"), (12.4, "12 s"), (59.6, "1 min"), (200, "3 min 20 s"), (7500, "2 h 5 min"),
        (3 * 86400 + 4 * 3600 + 59, "3 d 4 h"), (86400, "1 d"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_in_at_most_two_units(seconds: float, shown: str) -> None:
    assert durations.duration(seconds) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"), [(None, "\u2013"), (0.0004, "under 1 ms"), (0.1734, "170 ms"), (4831, "1 h 20 min")]
)
def test_an_estimate_has_two_digits(seconds: float, shown: str) -> None:
    assert durations.about(seconds) == shown


def test_the_time_between_two_moments_is_never_negative() -> None:
    assert durations.between(0, 1_500_000) == "1.5 s"
    assert durations.between(5, 0) == "0 s"
    assert durations.between(None, 5) == durations.between(5, None) == "\u2013"
