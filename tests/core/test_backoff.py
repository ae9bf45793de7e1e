"""Exponential backoff: growth, maximum, jitter, and no overflow for any number of failures."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webapp.core.flow import retry_rules
from webapp.core.settings import Settings


@pytest.mark.parametrize(("failures", "wait"), [(1, 3), (2, 9), (3, 27), (4, 50), (5000, 50)])
def test_a_wait_is_the_base_to_the_power_of_failures_up_to_the_maximum(failures: int, wait: float) -> None:
    assert retry_rules.exponential(failures, 3, 50, 0, 0) == pytest.approx(wait)


def test_jitter_adds_at_most_its_fraction() -> None:
    assert retry_rules.exponential(1, 10, 100, 0.5, 0) == 10
    assert retry_rules.exponential(1, 10, 100, 0.5, 1) == 15


def test_the_retry_schedule_has_a_wait_for_each_retry() -> None:
    assert retry_rules.timetable(Settings(), 4) == [2, 4, 8, 16]


@given(
    st.integers(1, 2000), st.floats(1, 100), st.floats(1, 2_592_000), st.floats(0, 1), st.floats(0, 1)
)  # fmt: skip
def test_a_wait_is_at_least_a_second_and_at_most_the_maximum_with_jitter(
    failures: int, base: float, longest: float, jitter: float, luck: float
) -> None:
    wait = retry_rules.exponential(failures, base, longest, jitter, luck)
    assert 0.999 <= wait <= longest * (1 + jitter) * 1.001
