"""A claimed job, and the result of its attempt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import NamedTuple, Optional

from worker.runner.output import NOTHING, CapturedOutput
from worker.runner.report import Report

log = logging.getLogger("queuectl.worker")


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


def log_trouble(ended: AttemptResult, state: Optional[str]) -> None:
    """Log an attempt that failed. `state`: the job's new state; None: the claim was lost."""
    claim = ended.claim
    facts = {"job": claim.id, "attempt": claim.attempt, "state": state, "reason": ended.reason}
    if state is None:
        log.warning("job %s: the claim was lost before attempt %d ended", claim.id, claim.attempt, extra=facts)
    else:
        text = "job %s: attempt %d failed (%s), now %s"
        log.info(text, claim.id, claim.attempt, ended.error, state, extra=facts)
