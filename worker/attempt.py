"""A claimed job, the result of its attempt, and the texts of failures.

`webapp/lib/error_key.py` makes the fingerprint that groups similar failures.
"""

from __future__ import annotations

import signal as signals
from collections.abc import Mapping
from typing import NamedTuple, Optional

from webapp.lib.text import plain_tail, plain_text
from worker.runner.output import NOTHING, CapturedOutput
from worker.runner.report import Report

LINE_LIMIT = 300  # characters of the last output line in an error
TAIL_LIMIT = 2000  # bytes of a dead letter's output that search covers


# Named tuples, because each job needs both: a frozen dataclass takes four times as long to create.
class Claim(NamedTuple):
    """The fields of a claimed job that running and settling it need."""

    seq: int
    id: str
    token: str
    attempt: int
    command: str
    timeout: Optional[float]  # seconds; None: the setting applies
    cwd: Optional[str]
    env: Mapping[str, str]
    failures: int
    max_retries: Optional[int]
    run_exclusively: bool  # an earlier attempt lost its worker: no other job may run in this worker
    kill_grace: float
    due_at: int
    queue: str
    limits: str = ""  # keys of limits, see core/flow/limits.py
    retry: Optional[str] = None  # its own retry rules, as JSON
    followed: bool = False  # other jobs wait for its end


class AttemptResult(NamedTuple):
    """How an attempt ended. `kind`: completed, failed, cancelled or released. Times in microseconds.

    For a claim whose command could not be started for lack of room, `kind` is unclaimed: that is no attempt.
    """

    claim: Claim
    kind: str
    reason: str
    started_at: int
    finished_at: int
    exit_code: Optional[int] = None
    signal: Optional[int] = None
    error: Optional[str] = None
    error_key: Optional[str] = None
    cpu_time: Optional[int] = None
    peak_memory: Optional[int] = None
    output: CapturedOutput = NOTHING
    left_behind: int = 0
    report: Optional[Report] = None  # what the command reported
    rule: str = ""  # the retry rule that decided, and what it did


# --- texts ---


def describe_exit(code: int) -> str:
    """'exit code 127 (command not found)'."""
    meaning = {126: "not executable", 127: "command not found"}.get(code)
    if 128 < code <= 128 + 64:
        meaning = f"killed by {signal_name(code - 128)}"
    return f"exit code {code} ({meaning})" if meaning else f"exit code {code}"


def describe_signal(number: int) -> str:
    return f"killed by signal {number} ({signal_name(number)})"


def signal_name(number: int) -> str:
    try:
        return signals.Signals(number).name
    except ValueError:
        return f"signal {number}"


def last_line(output: bytes) -> str:
    """The last line that is not empty, without control characters, shortened."""
    for line in reversed(output[-4096:].splitlines()):
        text = plain_text(line).strip()
        if text:
            return text[:LINE_LIMIT]
    return ""


def tail(output: bytes) -> str:
    """The last TAIL_LIMIT bytes as plain text for search: whole lines if possible."""
    return plain_tail(output, TAIL_LIMIT)
