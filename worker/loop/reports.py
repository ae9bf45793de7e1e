"""Stores what commands report while they run and when they end. A command that reports nothing costs no statement."""

from __future__ import annotations

from typing import Optional

from worker.attempt import Claim
from worker.loop.claims import Turn
from worker.runner.report import Report, ReportFile

STORE = """
INSERT INTO reports (job_seq, attempt, progress, note, result, retry_after, fault, updated_at)
SELECT seq, attempts, :progress, :note, :result, :retry_after, :fault, :now FROM jobs
WHERE seq = :seq AND token = :token AND state = 'processing'
ON CONFLICT (job_seq) DO UPDATE SET
    attempt = excluded.attempt, progress = excluded.progress, note = excluded.note, result = excluded.result,
    retry_after = excluded.retry_after, fault = excluded.fault, updated_at = excluded.updated_at
"""


class Reports:
    """The reports of the jobs that a worker runs, as they were last stored."""

    def __init__(self) -> None:
        self._stored: dict[str, Report] = {}  # by token

    def store(self, turn: Turn, claim: Claim, file: Optional[ReportFile]) -> None:
        """Store the report of a running command, if it has changed."""
        report = file.read() if file is not None else None
        if report is not None and report != self._stored.get(claim.token):
            turn.store_report(STORE, claim, report)
            self._stored[claim.token] = report

    def store_last(self, turn: Turn, claim: Claim, report: Optional[Report]) -> None:
        """The same for a command that has ended. Before its settle, which ends the claim."""
        if report is not None:
            if report != self._stored.get(claim.token):
                turn.store_report(STORE, claim, report)
            self._stored.pop(claim.token, None)

    def forget(self) -> None:
        """After a turn that failed: what it stored is not there."""
        self._stored.clear()
