"""The first half of a turn: it records the results of attempts, live output and reports."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

from webapp.core import events, notices, statements
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.settings import Settings
from webapp.core.states import ARROWS
from webapp.core.storage.transaction import NO_VALUES, Transaction
from webapp.lib import clock
from worker.attempt import AttemptResult, Claim
from worker.runner import failure_text
from worker.runner.output import Capture, Chunk
from worker.runner.report import Report

# By an attempt's kind. If a claim cannot be undone, its job was cancelled, or it belongs to another process.
_VERBS = {
    "completed": "complete",
    "cancelled": "settle_cancel",
    "released": "release",
    "unclaimed": "settle_cancel",
}
_NOTICED = {"dead": "job-dead", "failed": "attempt-failed"}  # for rules, by the job's new state
Row = Sequence[Any]


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
            self._transaction.execute(statements.TAIL, {"seq": claim.seq, "text": failure_text.tail(kept.data)})
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

    def store_report(self, statement: str, claim: Claim, report: Report) -> None:
        values = {**report._asdict(), "now": self.now, "seq": claim.seq, "token": claim.token}
        self._transaction.execute(statement, values)
