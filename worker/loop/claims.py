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

from webapp.core.statements import Statements
from webapp.db import migrations
from webapp.db.engines import WorkerConnection
from webapp.db.label_sets import Lane
from webapp.jobs.lifecycle import ARROWS
from webapp.jobs.settings import Settings
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

    def __init__(self, cursor: Any, sql: Statements, worker_id: str, connection: WorkerConnection) -> None:
        self._cursor = cursor
        self._sql = sql
        self._worker = worker_id
        self._sqlite = connection.dialect == "sqlite"
        self._connection = connection
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
            self._cursor.execute(self._sql.tail, {"seq": claim.seq, "text": failure_text.tail(ended.output.data)})
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
        self._cursor.execute(self._sql.settle if self._sqlite else self._sql.end, values)
        if self._cursor.rowcount != 1:
            return None
        if self._sqlite:
            self._cursor.execute(self._sql.attempt, values)
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
        self._cursor.execute(
            self._sql.event,
            {
                "now": self.now,
                "verb": verb,
                "actor": f"worker:{self._worker}",
                "subject": f"job:{claim.id}",
                "seq": claim.seq,
                "detail": json.dumps({"text": words}),
            },
        )

    # --- output ---

    def store_output(self, claim: Claim, capture: Capture, chunks: Iterable[Chunk]) -> None:
        """Add live output, and drop what the bounds will not keep."""
        for chunk in chunks:
            values = {"position": chunk.position, "data": chunk.data, "runs": chunk.runs}
            self._cursor.execute(self._sql.chunk, {**values, "seq": claim.seq, "token": claim.token})
        self.drop_output(claim, *capture.middle)

    def drop_output(self, claim: Claim, first: int = 0, behind: int = 2**62) -> None:
        """Delete live output between two positions: all of it once the attempt has ended and keeps its own."""
        place = {"seq": claim.seq, "attempt": claim.attempt, "first": first, "behind": behind}
        self._cursor.execute(self._sql.drop_chunks, place)

    # --- claim ---

    def look(self) -> Look:
        asked = clock.counter()
        self._cursor.execute(self._sql.look)
        look, told = _look(self._cursor.fetchone())
        if told is not None:  # whose clock decides what is due: one machine's may be wrong
            clock.follow(told, asked)
            self.now = told
        return look

    def promote(self) -> int:
        """Make pending what has become due, PROMOTE_LIMIT jobs at the most; return how many it were."""
        self._cursor.execute(self._sql.promote, {"now": self.now})
        return int(self._cursor.rowcount)

    def claim(self, lanes: Sequence[Lane], n: int, settings: Settings, *, lone: bool = False) -> list[Claim]:
        """Take up to `n` jobs of these lanes, in order; `lone` ones only, or only others."""
        token = secrets.token_hex(16)
        if self._sqlite:
            rows = self._first_of(lanes, n, self._sql.pick_lone if lone else self._sql.pick)
            for row in rows:
                values = {"now": self.now, "worker": self._worker, "token": f"{token}-{row[0]}", "seq": row[0]}
                self._cursor.execute(self._sql.take, values)
            return [_claim(row, settings, f"{token}-{row[0]}", row[3] + 1) for row in rows]
        of_one, of_several = self._sql.pick, self._sql.pick_of
        if lone:
            of_one, of_several = self._sql.pick_lone, self._sql.pick_lone_of
        values = {"now": self.now, "worker": self._worker, "token": f"{token}-", "n": n, **_named(lanes)}
        self._cursor.execute(of_one if len(lanes) == 1 else of_several, values)
        rows = sorted(self._cursor.fetchall(), key=_place)  # RETURNING has no order
        if rows:  # a server that forgot it would give them to another worker, while this one runs them
            self._connection.require_durable()
        return [_claim(row, settings, row[2], row[3]) for row in rows]

    def _first_of(self, lanes: Sequence[Lane], n: int, pick: str) -> list[Sequence[Any]]:
        rows: list[Sequence[Any]] = []
        for lane in lanes:
            self._cursor.execute(pick, {"queue": lane.queue, "requires": lane.requires, "n": n})
            rows += self._cursor.fetchall()
        return rows if len(lanes) == 1 else sorted(rows, key=_place)[:n]

    def lone_waiting(self, lanes: Iterable[Lane]) -> bool:
        """Whether a job that must run alone waits in one of these lanes."""
        return self._any(self._sql.lone_in, lanes)

    def anything_left(self, lanes: Iterable[Lane]) -> bool:
        """Whether anything is pending, running or waiting for a retry in these lanes."""
        return self._any(self._sql.left_in, lanes)

    def _any(self, statement: str, lanes: Iterable[Lane]) -> bool:
        for lane in lanes:
            self._cursor.execute(statement, {"queue": lane.queue, "requires": lane.requires})
            if self._cursor.fetchone() is not None:
                return True
        return False

    def held(self, settings: Settings) -> list[Claim]:
        """What the database says this worker holds: after a commit whose answer was lost, more than it knows."""
        self._cursor.execute(self._sql.held, {"worker": self._worker})
        return [_claim(row, settings, row[2], row[3]) for row in self._cursor.fetchall()]

    # --- what others should know ---

    def ring(self) -> None:
        """Wake the workers that wait: there is something for them, or the next thing comes sooner than they think."""
        self._connection.bell.ring(self._cursor.execute)

    # --- what people changed ---

    def settings(self) -> Settings:
        self._cursor.execute(self._sql.settings)
        return Settings(dict(self._cursor.fetchall()))

    def lanes(self) -> list[tuple[Lane, bool]]:
        """Every lane that ever had a job, and whether its queue is open."""
        self._cursor.execute(self._sql.lanes)
        return [(Lane(queue, requires), bool(is_open)) for queue, requires, is_open in self._cursor.fetchall()]

    def is_outdated(self) -> bool:
        """Whether a newer version has changed the schema under this one."""
        self._cursor.execute(self._sql.schema)
        return bool(self._cursor.fetchone()[0] != migrations.HEAD)

    def wish(self) -> tuple[str, str]:
        """What people asked of this worker (run, quiet, stop), and its state (running; expired: others took over)."""
        self._cursor.execute(self._sql.wish, {"worker": self._worker})
        row = self._cursor.fetchone()
        return (row[0], row[1]) if row else ("run", "expired")

    def asked_to_stop(self) -> set[str]:
        """Tokens of claims whose jobs people cancelled."""
        self._cursor.execute(self._sql.asked, {"worker": self._worker})
        return {row[0] for row in self._cursor.fetchall()}

    def be_quiet(self) -> None:
        """A signal asked for quiet: written down like a person's wish, so that everybody sees it and may undo it."""
        self._cursor.execute(self._sql.be_quiet, {"worker": self._worker})

    def be_stopping(self) -> None:
        """A signal asked for a stop: likewise, but that it cannot be undone."""
        self._cursor.execute(self._sql.be_stopping, {"worker": self._worker})


class Claims:
    """A worker's door to the queue: its connection, and the statements compiled for it. Belongs to one thread."""

    def __init__(self, connection: WorkerConnection, worker_id: str) -> None:
        self._connection = connection
        self._sql = Statements(connection)
        self._worker = worker_id
        self._transaction: Any = None

    def __enter__(self) -> Turn:
        self._transaction = self._connection.transaction()
        return Turn(self._transaction.__enter__(), self._sql, self._worker, self._connection)

    def claim_fast_path(
        self, lanes: Sequence[Lane], n: int, settings: Settings, revision: int
    ) -> Optional[tuple[Look, list[Claim]]]:
        """Take up to `n` jobs of these lanes, where nothing else is to be done; on PostgreSQL, in one trip.

        None where there is: what people changed since this revision, what is due, what must run alone.
        """
        values = {"worker": self._worker, "token": f"{secrets.token_hex(16)}-", "n": n, "revision": revision}
        statement = self._sql.claim_fast_path if len(lanes) == 1 else self._sql.claim_fast_path_of
        asked = clock.counter()
        rows = self._connection.at_once(statement, {**values, **_named(lanes)})
        look, told = _look(rows[0])
        clock.follow(told, asked)
        is_due = look.next_due is not None and told is not None and look.next_due <= told
        if look.revision != revision or look.lone_waiting or is_due:
            return None
        taken = sorted((row[5:] for row in rows if row[5] is not None), key=_place)
        return look, [_claim(row, settings, row[2], row[3]) for row in taken]

    def __exit__(self, *raised: object) -> None:
        transaction, self._transaction = self._transaction, None
        transaction.__exit__(*raised)


def _look(row: Sequence[Any]) -> tuple[Look, Optional[int]]:
    """What stands in front of a row, and what the server's clock said."""
    revision, scheduled, failed, lone, told = row[:5]
    due = min((due for due in (scheduled, failed) if due is not None), default=None)
    return Look(revision, due, bool(lone)), told


def _named(lanes: Sequence[Lane]) -> dict[str, Any]:
    """Lanes as PostgreSQL's statements take them: for one there is a statement of its own."""
    if len(lanes) == 1:
        return {"queue": lanes[0].queue, "requires": lanes[0].requires}
    return {"queues": [lane.queue for lane in lanes], "requirements": [lane.requires for lane in lanes]}


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
