"""Which values of a trace's position are passed on, as the W3C's Trace Context says."""

from __future__ import annotations

import pytest

from webapp.core.job_spec import JobSpec
from webapp.core.trace_context import carried_by, is_valid

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{PARENT}-01"


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (VALID, True),
        (f"00-{TRACE}-{PARENT}-ff", True),  # unknown flags
        (f"cc-{TRACE}-{PARENT}-01", True),  # a later version
        (f"cc-{TRACE}-{PARENT}-01-what-the-future-adds", True),
        (f"cc-{TRACE}-{PARENT}-01.what", False),
        (f"cc-{TRACE}-{PARENT}-01-a b", False),
        (f"cc-{TRACE}-{PARENT}-01-{'x' * 300}", False),
        (f"00-{TRACE}-{PARENT}-01-more", False),  # this version has four fields
        (f"ff-{TRACE}-{PARENT}-01", False),
        (f"00-{'0' * 32}-{PARENT}-01", False),
        (f"00-{TRACE}-{'0' * 16}-01", False),
        (VALID.upper(), False),
        (f"00-{TRACE[:-1]}-{PARENT}-01", False),
        (f"00-{TRACE}-{PARENT}-1", False),
        (f"0-{TRACE}-{PARENT}-01", False),
        (f"{VALID}\n", False),
        (f"{VALID},{VALID}", False),  # two headers
        (f"00-{TRACE[:-1]}٣-{PARENT}-01", False),  # a digit, but not of ASCII
        ("", False),
    ],
)
def test_the_specification_says_what_is_valid(text: str, valid: bool) -> None:
    assert is_valid(text) is valid


def test_a_job_carries_the_trace_in_its_environment_and_keeps_its_own() -> None:
    plain, own = JobSpec("true", env={"A": "1"}), JobSpec("true", env={"TRACEPARENT": "mine"})
    traced = carried_by([plain, own], f" {VALID}\t")
    assert [spec.env for spec in traced] == [{"A": "1", "TRACEPARENT": VALID}, {"TRACEPARENT": "mine"}]
    assert carried_by([plain], None) == carried_by([plain], "nonsense") == [plain]
