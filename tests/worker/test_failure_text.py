"""The texts of failures, and which failures are similar."""

from __future__ import annotations

import hashlib

import pytest

from webapp.lib.error_key import error_key, old_error_keys
from webapp.lib.text import mask
from worker import attempt


@pytest.mark.parametrize(
    ("output", "line"),
    [
        (b"", ""),
        (b"\n \n", ""),
        (b"one\ntwo\n\n", "two"),
        (b"50%\r100%\rdone", "done"),
        (b"\x1b[31mred\x1b[0m alert", "red alert"),
        (b"why\n\x1b[0m\n", "why"),
        (b"x" * 10_000, "x" * attempt.LINE_LIMIT),
    ],
)
def test_the_last_meaningful_line_is_quoted_safely(output: bytes, line: str) -> None:
    assert attempt.last_line(output) == line


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("cannot open /tmp/a/b.txt: gone", "cannot open /var/x.log: gone"),
        ("line 12: 404 not found", "line 977: 500 not found"),
        ("request 9f8e7d6c5b4a failed", "request 0a1b2c3d4e5f failed"),
        ("user 123e4567-e89b-12d3-a456-426614174000", "user 99999999-e89b-12d3-a456-426614174aaa"),
    ],
)
def test_failures_that_differ_in_numbers_paths_and_ids_are_similar(one: str, other: str) -> None:
    assert error_key(f"exit code 1: {one}", "cmd") == error_key(f"exit code 1: {other}", "cmd")


def test_failures_of_several_commands_with_one_cause_are_similar() -> None:
    errors = (
        "exit code 1: no route to host",
        "timed out after 5 s: no route to host",
        "exceeded job_memory_limit (512 MiB); exit code 137 (killed by SIGKILL): no route to host",
        "killed by signal 9 (SIGKILL): no route to host",
        "working directory /gone does not exist",
    )
    assert len({error_key(error, command) for error in errors for command in ("curl a", "wget b")}) == len(errors)
    assert error_key("timed out after 5 s: no route", "a") == error_key("timed out after 7 s: no route", "b")


@pytest.mark.parametrize(
    "error",
    [
        "exit code 1",
        "exit code 127 (command not found)",
        "exit code 1: }",
        "exit code 1: 404",
        "exit code 1: /tmp/x 12",
        "timed out after 5 s",
        "worker w1 (pid 5 on h) crashed. Poison job: 4 workers crashed on it, 3 of them while it ran alone",
    ],
)
def test_an_error_that_says_no_cause_groups_by_command(error: str) -> None:
    assert error_key(error, "import 7") == error_key(error.replace("w1", "w2"), "import 8")
    assert error_key(error, "import 7") != error_key(error, "export 7")


def test_failures_of_another_kind_or_text_are_not_similar() -> None:
    errors = ("exit code 1: no route", "exit code 2: no route", "exit code 1: refused", "exit code 1")
    assert len({error_key(error, "curl a") for error in errors}) == len(errors)


@pytest.mark.parametrize(
    ("what", "line", "error"),
    [
        ("exit 3", "no route", "exit code 3: no route"),
        ("exit 127", "", "exit code 127 (command not found)"),
        ("signal 9", "", "killed by signal 9 (SIGKILL)"),
        ("timeout", "busy: yes", "timed out after 5 s: busy: yes"),
        ("memory 137", "x", "exceeded job_memory_limit (512 MiB); exit code 137 (killed by SIGKILL): x"),
        ("processes 1", "", "exceeded job_process_limit (9 processes); exit code 1"),
        ("cwd", "working directory /gone does not exist", "working directory /gone does not exist"),
        ("poison", "", "worker w1 crashed. Poison job: 4 workers crashed on it, 3 of them while it ran alone"),
    ],
)
def test_the_keys_of_earlier_versions_are_known(what: str, line: str, error: str) -> None:
    before = hashlib.sha256("\n".join((what, mask(line), mask("cmd 7"))).encode()).hexdigest()[:16]
    assert before in old_error_keys(error, "cmd 7")
