"""What retry rules would have done to the last failed attempts of a queue. Bounded reads."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Optional

from sqlalchemy import case, func, select, tuple_
from sqlalchemy.orm import Session

from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import Failed, RetryRules, Rule
from webapp.db.models import Attempt, Job
from webapp.lib.text import plain_tail

READ = 20_000  # attempts of all queues, newest first
MOST = 1000  # failed attempts of the queue
MOST_OUTPUT = 64 * 1024**2  # bytes of output to search
SEARCH_SECONDS = 2.0  # for patterns; then the older attempts are left out
_TAIL = 4 * retry_rules.LAST_CHARACTERS  # bytes
_BATCH = 100  # attempts whose output is in memory


@dataclass(frozen=True)
class Line:
    """Attempts with the same failure and result.

    Attributes:
        ended: how: 'exit code 75', 'killed by KILL', 'timeout'.
        then: what happened next: retried or dead.
        now: what the rules would have done: retried, dead or completed.
        rule: the rule that applies, as a line; None: no rule.
        number: attempts.
        example: the id of the newest job.
    """

    ended: str
    then: str
    now: str
    rule: Optional[str]
    number: int
    example: str

    @property
    def differs(self) -> bool:
        return self.then != self.now


@dataclass(frozen=True)
class Preview:
    """`failed`: how many failed attempts were looked at. `lines`: most first, those that differ in front."""

    failed: int
    lines: list[Line]

    @property
    def changed(self) -> int:
        return sum(line.number for line in self.lines if line.differs)

    @property
    def as_json(self) -> dict[str, Any]:
        return {"failed": self.failed, "changed": self.changed, "lines": [vars(line) for line in self.lines]}


def of(session: Session, rules: RetryRules, queue: str) -> Preview:
    """Of the last READ attempts, those of this queue that failed, MOST at most. Jobs with own rules are left out, and
    attempts for which SEARCH_SECONDS do not suffice."""
    counted: Counter[tuple[str, str, str, Optional[str]]] = Counter()
    examples: dict[tuple[str, str, str, Optional[str]], str] = {}
    rows = _failed(session, queue)
    needs_output = any(rule.kind == "output" for rule in rules.rules)
    if needs_output:
        rows = [row for row, total in zip(rows, accumulate(row.size for row in rows)) if total <= MOST_OUTPUT]
    until = time.monotonic() + SEARCH_SECONDS
    for row, tail in _with_tails(session, rows) if needs_output else ((row, "") for row in rows):
        if counted and time.monotonic() > until:
            break
        rule = retry_rules.decide(rules, Failed(row.reason, row.exit_code, row.signal, tail))
        then = "dead" if row.state == "dead" and row.attempts == row.number else "retried"
        key = _ended(row), then, _now(rule, then), rule.text if rule is not None else None
        counted[key] += 1
        examples.setdefault(key, row.id)
    lines = [Line(*key, number, examples[key]) for key, number in counted.most_common()]
    return Preview(sum(counted.values()), sorted(lines, key=lambda line: not line.differs))


def _failed(session: Session, queue: str) -> list[Any]:
    newest = (
        select(Attempt.job_seq, Attempt.number, Attempt.finished_at)
        .order_by(Attempt.finished_at.desc())
        .limit(READ)
        .subquery()
    )
    columns = (Job.id, Job.state, Job.attempts, Attempt.job_seq, Attempt.number, Attempt.reason, Attempt.exit_code,
               Attempt.signal, func.length(Attempt.output).label("size"))  # fmt: skip
    found = (
        select(*columns)
        .select_from(newest)
        .join(Attempt, (Attempt.job_seq == newest.c.job_seq) & (Attempt.number == newest.c.number))
        .join(Job, Job.seq == Attempt.job_seq)
        .where(Attempt.state == "failed", Job.queue == queue, Job.retry.is_(None))
        .order_by(newest.c.finished_at.desc())
        .limit(MOST)
    )
    return list(session.execute(found))


def _with_tails(session: Session, rows: Sequence[Any]) -> Iterator[tuple[Any, str]]:
    for start in range(0, len(rows), _BATCH):
        some = rows[start : start + _BATCH]
        tails = _tails(session, some)
        for row in some:
            yield row, tails.get((row.job_seq, row.number), "")


def _tails(session: Session, rows: Sequence[Any]) -> dict[tuple[int, int], str]:
    """The ends of the outputs of these attempts. Only those are read."""
    key, size = (Attempt.job_seq, Attempt.number), func.length(Attempt.output)
    start = case((size > _TAIL, size - _TAIL + 1), else_=1)
    wanted = tuple_(*key).in_([(row.job_seq, row.number) for row in rows])
    found = session.execute(select(*key, func.substr(Attempt.output, start)).where(wanted))
    return {(seq, number): plain_tail(bytes(data or b""), _TAIL) for seq, number, data in found}


def _ended(row: Any) -> str:
    if row.reason == "exit":
        return f"exit code {row.exit_code}"
    if row.reason == "signal":
        return f"killed by {Rule('signal', (row.signal,), 'retry').text.split()[1].rstrip(':')}"
    return {"cwd": "no working directory", "spawn": "could not start"}.get(row.reason, str(row.reason))


def _now(rule: Optional[Rule], then: str) -> str:
    if rule is None or rule.do in ("retry", "wait"):  # a job without retries left stays dead
        return then
    return "dead" if rule.do == "bury" else "completed"
