"""The first half of a turn: it records the results of attempts, live output and reports.

`judge` says what follows a failed attempt: the retry rules of the job, else of its queue, else the settings decide.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from webapp.core import events, notices, statements
from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import Failed, Rule
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.core.states import ARROWS
from webapp.core.storage.transaction import NO_VALUES, Transaction
from webapp.lib import clock
from webapp.lib.durations import about
from webapp.lib.text import plain_tail
from worker.attempt import AttemptResult, Claim, tail
from worker.runner.output import Capture, Chunk
from worker.runner.report import Report, ReportFile

log = logging.getLogger("queuectl.worker")

# By an attempt's kind. If a claim cannot be undone, its job was cancelled, or it belongs to another process.
_VERBS = {
    "completed": "complete",
    "cancelled": "settle_cancel",
    "released": "release",
    "unclaimed": "settle_cancel",
}
_NOTICED = {"dead": "job-dead", "failed": "attempt-failed"}  # for rules, by the job's new state
_LAST_OUTPUT = 4 * retry_rules.LAST_CHARACTERS  # bytes that a rule's pattern may search
Row = Sequence[Any]  # of jobs: as `statements._COLUMNS` has them; some statements add `requires`

QUEUE_RULES = "SELECT name, retry FROM queues WHERE retry IS NOT NULL"
_REPORT = """
INSERT INTO reports (job_seq, attempt, progress, note, result, retry_after, fault, updated_at)
SELECT seq, attempts, :progress, :note, :result, :retry_after, :fault, :now FROM jobs
WHERE seq = :seq AND token = :token AND state = 'processing'
ON CONFLICT (job_seq) DO UPDATE SET
    attempt = excluded.attempt, progress = excluded.progress, note = excluded.note, result = excluded.result,
    retry_after = excluded.retry_after, fault = excluded.fault, updated_at = excluded.updated_at
"""


def judge(
    ended: AttemptResult, settings: Settings, of_queues: Mapping[str, str]
) -> tuple[AttemptResult, Optional[float]]:
    """The result as the rules see it, and the seconds until the retry; None: no retry, whatever is left.

    `of_queues`: the rules of queues, as they are stored. Other results than failures stay as they are.
    """
    if ended.kind != "failed":
        return ended, 0.0
    claim = ended.claim
    failures, luck = claim.failures + 1, random.random()  # noqa: S311  spreads retries, keeps no secret
    told = ended.report.retry_after if ended.report is not None else None
    text = claim.retry or of_queues.get(claim.queue)
    if claim.queue == SYSTEM_QUEUE or (text is None and told is None):
        return ended, retry_rules.wait_by_settings(claim.queue, failures, settings, luck)
    rules = retry_rules.stored(text)
    output = plain_tail(ended.output.data, _LAST_OUTPUT)
    rule = retry_rules.decide(rules, Failed(ended.reason, ended.exit_code, ended.signal, output))
    if rule is not None and rule.do == "success":
        ended = ended._replace(kind="completed", error=None, error_key=None)
        return ended._replace(rule=f"{_says(rule)}, so the attempt counts as completed"), 0.0
    if rule is not None and rule.do == "bury":
        return ended._replace(rule=f"{_says(rule)}, so the job is not retried"), None
    wait = retry_rules.wait_of(rules, rule, failures, settings, luck, told)
    if rule is not None:
        ended = ended._replace(rule=f"{_says(rule)}: {about(wait)} until a retry")
    return ended, wait


def _says(rule: Rule) -> str:
    return f"the rule is '{rule.text}'"


class Settling:
    """A worker's transaction, which settles attempts. Each statement matches the token of the claim."""

    def __init__(self, transaction: Transaction, sql: statements.Statements, worker_id: str) -> None:
        self._transaction = transaction
        self._sql = self.sql = sql
        self._worker = worker_id
        self._is_sqlite = self.is_sqlite = transaction.is_sqlite
        self.now = clock.now()

    def fetch(self, statement: str, values: Mapping[str, Any] = NO_VALUES) -> list[Row]:
        return list(self._transaction.execute(statement, values).fetchall())

    def execute(self, statement: str, values: Mapping[str, Any]) -> None:
        self._transaction.execute(statement, values)

    # --- settle ---

    def settle(self, ended: AttemptResult, settings: Settings, wait: Optional[float]) -> Optional[str]:
        """Record the result of an attempt. `wait`: the seconds until a retry; None: no retry.

        Returns the job's new state, or None if another process took the claim over: then nothing is written.
        """
        if ended.kind == "unclaimed" and self._unclaim(ended):
            return ARROWS["unclaim"].enters
        claim, kept = ended.claim, ended.output
        limit = settings.max_retries if claim.max_retries is None else claim.max_retries
        verb = _VERBS.get(ended.kind) or ("retry" if wait is not None and claim.failures < limit else "bury")
        values = {
            "now": self.now,
            "seq": claim.seq,
            "token": claim.token,
            "number": claim.attempt,
            "kind": "cancelled" if ended.kind == "unclaimed" else ended.kind,
            "reason": ended.reason,
            "error": ended.error,
            # Jobs that send messages are in no failure group.
            "error_key": None if claim.queue == SYSTEM_QUEUE else ended.error_key,
            "worker": self._worker,
            "started_at": ended.started_at,
            "ended_at": ended.finished_at,
            "exit_code": ended.exit_code,
            "signal": ended.signal,
            "cpu_time": ended.cpu_time,
            "peak_memory": ended.peak_memory,
            "output": kept.data,
            "runs": kept.runs,
            "times": kept.times,
            "cut": kept.cut,
            "dropped": kept.dropped,
            "due_at": claim.due_at,
        }
        state = self._settle_as(verb, values, self.now + clock.seconds(wait or 0) if verb == "retry" else None)
        if state is None and verb in {"retry", "release"}:  # its cancellation was requested, or the claim is gone
            state = self._settle_as("settle_cancel", values, None)
        if state is None:
            return None
        if state == "dead":
            self._transaction.execute(statements.TAIL, {"seq": claim.seq, "text": tail(kept.data)})
        if state in _NOTICED:
            subject = f"group:{ended.error_key}"
            notices.record(self._transaction, _NOTICED[state], subject, at=self.now, seq=claim.seq)
        if ended.rule:
            self._record_of_job("retry_rule", claim, ended.rule)
        if ended.left_behind:
            some = f"{ended.left_behind} process{'es' if ended.left_behind > 1 else ''}"
            self._record_of_job("end_left_behind", claim, f"ended {some} that the command had left behind")
        return state

    def _unclaim(self, ended: AttemptResult) -> bool:
        values = {"seq": ended.claim.seq, "token": ended.claim.token, "now": self.now}
        if self._transaction.execute(statements.UNCLAIM, values).rowcount != 1:
            return False
        self._record_of_job("unclaim", ended.claim, ended.error or "")
        return True

    def _record_of_job(self, verb: str, claim: Claim, text: str) -> None:
        subject, actor = f"job:{claim.id}", f"worker:{self._worker}"
        events.record(self._transaction, verb, subject, actor, seq=claim.seq, detail={"text": text})

    def _settle_as(self, verb: str, values: dict[str, Any], run_at: Optional[int]) -> Optional[str]:
        state = ARROWS[verb].enters
        values.update(
            state=state,
            finished_at=self.now if verb in {"complete", "bury", "settle_cancel"} else None,
            run_at=run_at,
            failed=1 if verb in {"retry", "bury"} else 0,
            may_be_asked=verb not in {"retry", "release"},
        )
        statement = statements.SETTLE if self._is_sqlite else statements.SETTLE_WITH_ATTEMPT
        if self._transaction.execute(statement, values).rowcount != 1:
            return None
        if self._is_sqlite:
            self._transaction.execute(statements.ATTEMPT, values)
        return state

    # --- output ---

    def store_output(self, claim: Claim, capture: Capture, chunks: Iterable[Chunk]) -> None:
        """Add live output, and delete what exceeds the output limit."""
        for chunk in chunks:
            values = {"position": chunk.position, "data": chunk.data, "runs": chunk.runs, "times": chunk.times}
            self._transaction.execute(statements.CHUNK, {**values, "seq": claim.seq, "token": claim.token})
        self.drop_output(claim, *capture.middle)

    def drop_output(self, claim: Claim, first: int = 0, behind: int = 2**62) -> None:
        """Delete live output between two positions; by default all of it, because the attempt's row now has it."""
        place = {"seq": claim.seq, "attempt": claim.attempt, "first": first, "behind": behind}
        self._transaction.execute(statements.DROP_CHUNKS, place)

    def store_report(self, claim: Claim, report: Report) -> None:
        values = {**report._asdict(), "now": self.now, "seq": claim.seq, "token": claim.token}
        self._transaction.execute(_REPORT, values)


class Reports:
    """What running commands reported, as it was last stored. A command that reports nothing costs no statement."""

    def __init__(self) -> None:
        self._stored: dict[str, Report] = {}  # by token

    def store(self, turn: Settling, claim: Claim, file: Optional[ReportFile]) -> None:
        """Store the report of a running command, if it has changed."""
        report = file.read() if file is not None else None
        if report is not None and report != self._stored.get(claim.token):
            turn.store_report(claim, report)
            self._stored[claim.token] = report

    def store_last(self, turn: Settling, claim: Claim, report: Report) -> None:
        """The same for a command that has ended. Before its settle, which ends the claim."""
        if report != self._stored.pop(claim.token, None):
            turn.store_report(claim, report)

    def forget(self) -> None:
        """After a turn that failed: what it stored is not there."""
        self._stored.clear()


def log_failure(ended: AttemptResult, state: Optional[str]) -> None:
    """Log an attempt that failed. `state`: the job's new state; None: the claim was lost."""
    claim = ended.claim
    facts = {"job": claim.id, "attempt": claim.attempt, "state": state, "reason": ended.reason}
    if state is None:
        log.warning("job %s: the claim was lost before attempt %d ended", claim.id, claim.attempt, extra=facts)
    else:
        text = "job %s: attempt %d failed (%s), now %s"
        log.info(text, claim.id, claim.attempt, ended.error, state, extra=facts)
