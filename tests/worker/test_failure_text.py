"""The texts of failures, and which failures are similar."""

from __future__ import annotations

import pytest

from webapp.lib.error_key import error_key
from worker.runner import failure_text


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"one\ntwo\n\n", "two"),
        (b"50%\r100%\rdone", "done"),
        (b"\x1b[31mred\x1b[0m alert", "red alert"),
        (b"why\n\x1b[0m\n", "why"),
        (b"x" * 10_000, "x" * failure_text.LINE_LIMIT),
    ],
)
def test_the_last_meaningful_line_is_quoted_safely(output: bytes, line: str) -> None:
    assert failure_text.last_line(output) == line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cannot open /tmp/a/b.txt: gone", "cannot open /var/x.log: gone"),
        ("line 12: 404", "line 977: 500"),
        ("request 9f8e7d6c5b4a failed", "request 0a1b2c3d4e5f failed"),
        ("user 123e4567-e89b-12d3-a456-426614174000", "user 99999999-e89b-12d3-a456-426614174aaa"),
    ],
)
def test_failures_that_differ_in_numbers_paths_and_ids_are_similar(one: str, other: str) -> None:
    assert error_key("exit 1", one, "cmd") == error_key("exit 1", other, "cmd")


def test_failures_of_another_kind_text_or_command_are_not_similar() -> None:
    keys = {
        error_key("exit 1", "no route to host", "curl a"),
        error_key("exit 2", "no route to host", "curl a"),
        error_key("exit 1", "refused", "curl a"),
        error_key("exit 1", "no route to host", "wget a"),
    }
    assert len(keys) == 4
