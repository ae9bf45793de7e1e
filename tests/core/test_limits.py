"""Keys, patterns and rates of limits."""

from __future__ import annotations

import pytest

from webapp.core import job_spec
from webapp.core.flow import limits
from webapp.core.flow.limits import Key, Limits
from webapp.core.job_spec import SpecError
from webapp.lib import clock


def known(*keys: str) -> Limits:
    return Limits((key, 1, None, None) for key in keys)


@pytest.mark.parametrize(
    ("name", "covered_by"),
    [
        ("db", "db"),
        ("customer-7", "customer-*"),
        ("customer-big-1", "customer-big-*"),  # the longest pattern
        ("customer", "*"),
        ("queue:mail", "queue:mail"),
        ("queue:other", None),  # a pattern holds for queues only if it says so
    ],
)
def test_a_key_has_its_own_limit_or_the_one_of_the_longest_pattern(name: str, covered_by: str) -> None:
    found = known("db", "*", "customer-*", "customer-big-*", "queue:mail").of(name)
    assert (found and found.key) == covered_by


def test_the_queue_of_messages_has_no_limit() -> None:
    assert known("queue:*").of_queue("_system") is None
    assert known("queue:*").of_queue("mail") is not None


def test_the_keys_of_a_job_are_one_sorted_text() -> None:
    spec = job_spec.parse({"command": "true", "limits": "warehouse:exclusive, db:shared db customer-7"})
    assert limits.text_of(spec.limits) == "customer-7,db,warehouse:exclusive"
    assert limits.split("customer-7,warehouse:exclusive") == [Key("customer-7"), Key("warehouse", True)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("a b/c", "'b/c' is not a key"),
        ("queue:mail", "has the limit of its queue without naming it"),
        ("db, db:exclusive", "the key db both shared and exclusive"),
        (7, "expected keys of limits"),
        ([7], "expected a text"),
        ([f"k{number}" for number in range(9)], "has 9 keys; at most 8"),
    ],
)
def test_a_wrong_key_of_a_job_is_refused_with_its_value(given: object, said: str) -> None:
    with pytest.raises(SpecError, match=said):
        job_spec.parse({"command": "true", "limits": given})


@pytest.mark.parametrize(
    ("text", "rate", "seconds", "shown"),
    [
        ("10/min", 10, 60, "10/min"),
        ("100 / hour", 100, 3600, "100/h"),
        ("5/30s", 5, 30, "5/30s"),
        ("1/d", 1, 86400, "1/day"),
        ("3/90", 3, 90, "3/90s"),
    ],
)
def test_a_rate_is_a_number_of_starts_and_a_window(text: str, rate: int, seconds: int, shown: str) -> None:
    assert limits.read_rate(text) == (rate, seconds * clock.SECOND)
    assert limits.rate_text(*limits.read_rate(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "10", "/min", "x/min", "0/min", "10/0s", "10/2d", "10/1.5s", "10001/min", "1/fortnight"]
)
def test_a_wrong_rate_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        limits.read_rate(text)


@pytest.mark.parametrize("key", ["", "queue:", "a b", "db:exclusive", "a*b", "**", "x" * 129])
def test_a_wrong_key_of_a_limit_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is not allowed"):
        limits.check_key(key)
