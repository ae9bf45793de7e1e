"""A claimed job on its way through a worker, and the result of its attempt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Optional

from worker.runner.output import NOTHING, CapturedOutput


# Tuples, of which each job needs two: a frozen dataclass takes four times as long to make.
class Claim(NamedTuple):
    """A job that this worker holds, as far as running and settling it need."""

    seq: int
    id: str
    token: str
    attempt: int
    command: str
    timeout: Optional[float]  # seconds; None: the setting decides
    cwd: Optional[str]
    env: Mapping[str, str]
    failures: int
    max_retries: Optional[int]
    alone: bool  # a worker died under it before: nothing may run beside it
    kill_grace: float
    due_at: int


class AttemptResult(NamedTuple):
    """What came of a claim. `kind`: completed, failed, cancelled or released; times in microseconds."""

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
