"""THE HOT PATH: how a worker takes jobs and gives them back, in as few statements as will do.

An ordinary short job costs one UPDATE to claim, one UPDATE and one INSERT to settle; on SQLite, one SELECT for
each lane that the worker serves goes before what it claims. A worker does all that it has to do (settle what ended,
store live output, promote what is due, claim what fits) in one transaction, a `Turn`. The statements themselves are in
`core/statements.py`.

Every claim has a fresh token. Settling and output match job, token and `processing` and must touch one row: a worker
whose claim is gone touches nothing.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from webapp.core import schema, statements
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.core.states import ARROWS
from webapp.core.transaction import Connection, Transaction
from webapp.lib import clock
from worker.attempt import AttemptResult, Claim
from worker.runner import failure_text
from worker.runner.output import Capture, Chunk


@dataclass(frozen=True)
class Look:
    """What a turn sees before it claims. `next_due`: when the next scheduled or failed job is due, or None."""

    revision: int
    next_due: Optional[int]
    lone_waiting: bool


class Turn:
    """One worker transaction: `with claims as turn:`. Commits when the block ends, rolls back when it raises."""

    def __init__(self, transaction: Transaction, sql: statements.Statements, worker_id: str) -> None:
        self._transaction = transaction
        self._sql = sql
        self._worker = worker_id
        self._is_sqlite = transaction.is_sqlite
        self.now = clock.now()

    # --- settle ---

    def settle(self, ended: AttemptResult, settings: Settings, wait: float) -> Optional[str]:
        """Record what came of a claim; `wait` is the backoff in seconds, should it be retried.

        Returns the job's new state, or None where the claim was no longer this worker's: then nothing is written.
        """
        verb, run_at = _verb(ended, settings), None
        if verb == "retry":
            run_at = self.now + clock.seconds(wait)
        values = self._ended_values(ended)
        state = self._settle_as(verb, values, run_at)
        if state is None and verb in {"retry", "release"}:
            state = self._settle_as("settle_cancel", values, None)
        if state is None:
            return None
        claim = ended.claim
        if state == "dead":
            self._transaction.execute(statements.TAIL, {"seq": claim.seq, "text": failure_text.tail(ended.output.data)})
        if ended.left_behind:
            some = f"{ended.left_behind} process{'es' if ended.left_behind > 1 else ''}"
            self.record("end_left_behind", claim, f"ended {some} that the command had left behind")
        return state

    def _settle_as(self, verb: str, values: dict[str, Any], run_at: Optional[int]) -> Optional[str]:
        state = ARROWS[verb].enters
        values.update(
            state=state,
            finished_at=self.now if verb in {"complete", "bury", "settle_cancel"} else None,
            run_at=run_at,
            failed=1 if verb in {"retry", "bury"} else 0,
            may_be_asked=verb not in {"retry", "release"},
        )
        settled = self._transaction.execute(
            statements.SETTLE if self._is_sqlite else statements.SETTLE_WITH_ATTEMPT, values
        )
        if settled.rowcount != 1:
            return None
        if self._is_sqlite:
            self._transaction.execute(statements.ATTEMPT, values)
        return state

    def _ended_values(self, ended: AttemptResult) -> dict[str, Any]:
        claim, kept = ended.claim, ended.output
        return {
            "now": self.now,
            "seq": claim.seq,
            "token": claim.token,
            "number": claim.attempt,
            "kind": ended.kind,
            "reason": ended.reason,
            "error": ended.error,
            "error_key": ended.error_key,
            "worker": self._worker,
            "started_at": ended.started_at,
            "ended_at": ended.finished_at,
            "exit_code": ended.exit_code,
            "signal": ended.signal,
            "cpu_time": ended.cpu_time,
            "peak_memory": ended.peak_memory,
            "output": kept.data,
            "runs": kept.runs,
            "cut": kept.cut,
            "dropped": kept.dropped,
            "due_at": claim.due_at,
        }

    def record(self, verb: str, claim: Claim, words: str) -> None:
        values = {"actor": f"worker:{self._worker}", "subject": f"job:{claim.id}", "seq": claim.seq}
        detail = json.dumps({"text": words})
        self._transaction.execute(statements.EVENT, {**values, "now": self.now, "verb": verb, "detail": detail})

    # --- output ---

    def store_output(self, claim: Claim, capture: Capture, chunks: Iterable[Chunk]) -> None:
        """Add live output, and drop what the bounds will not keep."""
        for chunk in chunks:
            values = {"position": chunk.position, "data": chunk.data, "runs": chunk.runs}
            self._transaction.execute(statements.CHUNK, {**values, "seq": claim.seq, "token": claim.token})
        self.drop_output(claim, *capture.middle)

    def drop_output(self, claim: Claim, first: int = 0, behind: int = 2**62) -> None:
        """Delete live output between two positions: all of it once the attempt has ended and keeps its own."""
        place = {"seq": claim.seq, "attempt": claim.attempt, "first": first, "behind": behind}
        self._transaction.execute(statements.DROP_CHUNKS, place)

    # --- claim ---

    def look(self) -> Look:
        asked = clock.counter()
        look, told = _look(self._transaction.execute(self._sql.look).fetchone())
        if told is not None:  # whose clock decides what is due: one machine's may be wrong
            clock.follow(told, asked)
            self.now = told
        return look

    def promote(self) -> int:
        """Make pending what has become due, PROMOTE_LIMIT jobs at the most; return how many it were."""
        return int(self._transaction.execute(self._sql.promote, {"now": self.now}).rowcount)

    def claim(self, label_sets: Sequence[LabelSet], n: int, settings: Settings, *, lone: bool = False) -> list[Claim]:
        """Take up to `n` jobs of these lanes, in order; `lone` ones only, or only others."""
        token = secrets.token_hex(16)
        if self._is_sqlite:
            rows = self._first_of(label_sets, n, self._sql.pick_lone if lone else self._sql.pick)
            for row in rows:
                values = {"now": self.now, "worker": self._worker, "token": f"{token}-{row[0]}", "seq": row[0]}
                self._transaction.execute(statements.TAKE, values)
            return [_claim(row, settings, f"{token}-{row[0]}", row[3] + 1) for row in rows]
        of_one, of_several = self._sql.pick, self._sql.pick_of
        if lone:
            of_one, of_several = self._sql.pick_lone, self._sql.pick_lone_of
        values = {"now": self.now, "worker": self._worker, "token": f"{token}-", "n": n, **_named(label_sets)}
        taken = self._transaction.execute(of_one if len(label_sets) == 1 else of_several, values)
        rows = sorted(taken.fetchall(), key=_place)  # RETURNING has no order
        if rows:  # a server that forgot it would give them to another worker, while this one runs them
            self._transaction.durable = True
        return [_claim(row, settings, row[2], row[3]) for row in rows]

    def _first_of(self, label_sets: Sequence[LabelSet], n: int, pick: str) -> list[Sequence[Any]]:
        rows: list[Sequence[Any]] = []
        for label_set in label_sets:
            rows += self._transaction.execute(pick, {**_named([label_set]), "n": n}).fetchall()
        return rows if len(label_sets) == 1 else sorted(rows, key=_place)[:n]

    def lone_waiting(self, label_sets: Iterable[LabelSet]) -> bool:
        """Whether a job that must run alone waits in one of these lanes."""
        return self._any(statements.LONE_IN, label_sets)

    def anything_left(self, label_sets: Iterable[LabelSet]) -> bool:
        """Whether anything is pending, running or waiting for a retry in these lanes."""
        return self._any(statements.LEFT_IN, label_sets)

    def _any(self, statement: str, label_sets: Iterable[LabelSet]) -> bool:
        return any(
            self._transaction.execute(statement, _named([label_set])).fetchone() is not None for label_set in label_sets
        )

    def held(self, settings: Settings) -> list[Claim]:
        """What the database says this worker holds: after a commit whose answer was lost, more than it knows."""
        rows = self._transaction.execute(statements.HELD, {"worker": self._worker})
        return [_claim(row, settings, row[2], row[3]) for row in rows.fetchall()]

    # --- what others should know ---

    def ring(self) -> None:
        """Wake the workers that wait: there is something for them, or the next thing comes sooner than they think."""
        self._transaction.wakes_workers = True

    # --- what people changed ---

    def settings(self) -> Settings:
        return Settings(dict(self._transaction.execute(statements.SETTINGS).fetchall()))

    def label_sets(self) -> list[tuple[LabelSet, bool]]:
        """Every lane that ever had a job, and whether its queue is open."""
        rows = self._transaction.execute(statements.LABEL_SETS).fetchall()
        return [(LabelSet(queue, requires), bool(is_open)) for queue, requires, is_open in rows]

    def is_outdated(self) -> bool:
        """Whether a newer version has changed the schema under this one."""
        return bool(self._transaction.execute(schema.REVISION).fetchone()[0] != schema.HEAD)

    def wish(self) -> tuple[str, str]:
        """What people asked of this worker (run, quiet, stop), and its state (running; expired: others took over)."""
        row = self._transaction.execute(statements.REQUESTED_STATE, {"worker": self._worker}).fetchone()
        return (row[0], row[1]) if row else ("run", "expired")

    def asked_to_stop(self) -> set[str]:
        """Tokens of claims whose jobs people cancelled."""
        rows = self._transaction.execute(statements.CANCELLED, {"worker": self._worker})
        return {token for (token,) in rows.fetchall()}

    def be_quiet(self) -> None:
        """A signal asked for quiet: written down like a person's wish, so that everybody sees it and may undo it."""
        self._transaction.execute(statements.REQUEST_QUIET, {"worker": self._worker})

    def be_stopping(self) -> None:
        """A signal asked for a stop: likewise, but that it cannot be undone."""
        self._transaction.execute(statements.REQUEST_STOP, {"worker": self._worker})


class Claims:
    """A worker's door to the queue. Belongs to one thread."""

    def __init__(self, connection: Connection, worker_id: str) -> None:
        self._connection = connection
        self._sql = statements.Statements(is_sqlite=connection.is_sqlite)
        self._worker = worker_id
        self._open: Any = None

    def __enter__(self) -> Turn:
        self._open = self._connection.transaction()
        return Turn(self._open.__enter__(), self._sql, self._worker)

    def __exit__(self, *raised: object) -> None:
        transaction, self._open = self._open, None
        transaction.__exit__(*raised)

    def claim_fast_path(
        self, label_sets: Sequence[LabelSet], n: int, settings: Settings, revision: int
    ) -> Optional[tuple[Look, list[Claim]]]:
        """Take up to `n` jobs of these lanes, where nothing else is to be done; on PostgreSQL, in one trip.

        None where there is: what people changed since this revision, what is due, what must run alone.
        """
        values = {"worker": self._worker, "token": f"{secrets.token_hex(16)}-", "n": n, "revision": revision}
        statement = self._sql.claim_fast_path if len(label_sets) == 1 else self._sql.claim_fast_path_of
        asked = clock.counter()
        rows = self._connection.query(statement, {**values, **_named(label_sets)})
        look, told = _look(rows[0])
        clock.follow(told, asked)
        is_due = look.next_due is not None and told is not None and look.next_due <= told
        if look.revision != revision or look.lone_waiting or is_due:
            return None
        taken = sorted((row[5:] for row in rows if row[5] is not None), key=_place)
        return look, [_claim(row, settings, row[2], row[3]) for row in taken]


def _look(row: Sequence[Any]) -> tuple[Look, Optional[int]]:
    """What stands in front of a row, and what the server's clock said."""
    revision, scheduled, failed, lone, told = row[:5]
    due = min((due for due in (scheduled, failed) if due is not None), default=None)
    return Look(revision, due, bool(lone)), told


def _named(label_sets: Sequence[LabelSet]) -> dict[str, Any]:
    """Lanes as PostgreSQL's statements take them: for one there is a statement of its own."""
    if len(label_sets) == 1:
        return {"queue": label_sets[0].queue, "requires": label_sets[0].requires}
    return {
        "queues": [label_set.queue for label_set in label_sets],
        "requirements": [label_set.requires for label_set in label_sets],
    }


def _place(row: Sequence[Any]) -> tuple[int, int, int]:
    """In the order in which jobs are taken."""
    return -row[11], row[12], row[0]


def _claim(row: Sequence[Any], settings: Settings, token: str, attempt: int) -> Claim:
    return Claim(
        seq=row[0],
        id=row[1],
        token=token,
        attempt=attempt,
        command=row[4],
        timeout=row[5],
        cwd=row[6],
        env=json.loads(row[7]) if row[7] else {},
        failures=row[8],
        max_retries=row[9],
        alone=row[10] > 0,
        kill_grace=settings.kill_grace,
        due_at=row[12],
    )


def _verb(ended: AttemptResult, settings: Settings) -> str:
    if ended.kind == "completed":
        return "complete"
    if ended.kind == "cancelled":
        return "settle_cancel"
    if ended.kind == "released":
        return "release"
    limit = settings.max_retries if ended.claim.max_retries is None else ended.claim.max_retries
    return "retry" if ended.claim.failures < limit else "bury"
