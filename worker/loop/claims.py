"""THE HOT PATH: how a worker claims and settles jobs, in as few statements as possible.

An ordinary short job costs one UPDATE to claim, one UPDATE and one INSERT to settle. On SQLite, one SELECT comes before
the claims; for a worker of named queues, one for each label set of these queues. A worker settles, stores live output,
promotes and claims in one transaction, a `Turn`. Its first half is in `settling.py`, the SQL in `core/statements.py`.

Each claim has a new token. Settling and output match job, token and `processing` and must change one row, so a worker
that has lost its claim changes nothing.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, Optional, Union

from webapp.core import events, labels, statements
from webapp.core.events import SHORT
from webapp.core.flow import dependencies, limits
from webapp.core.flow.limits import Limits
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.core.storage import schema
from webapp.core.storage.transaction import Connection
from webapp.lib import clock
from worker.attempt import Claim
from worker.loop.settling import QUEUE_RULES, Row, Settling


class QueueState(NamedTuple):
    """What a turn reads before it claims.

    Attributes:
        next_due: when the next scheduled or failed job is due, or None.
        limited_waiting: whether jobs that name keys of limits are pending.
        crowded: whether there are more pending jobs than a claim from all queues reads; unknown on SQLite.
    """

    revision: int
    next_due: Optional[int]
    exclusive_waiting: bool
    limited_waiting: bool
    crowded: bool


class Served(NamedTuple):
    """Which jobs a worker that serves all queues may run: not those of `paused` queues, and with its `labels` only."""

    labels: frozenset[str]
    paused: frozenset[str] = frozenset()

    def allows(self, queue: str, requires: str) -> bool:
        return queue not in self.paused and (not requires or labels.suffice(self.labels, requires))

    @property
    def parameters(self) -> dict[str, Any]:
        return {"paused": list(self.paused), "labels": list(self.labels)}


class Turn(Settling):
    """One worker transaction: `with claims as turn:`. Commits when the block ends, rolls back when it raises."""

    # --- claim ---

    def read_state(self) -> QueueState:
        asked = clock.counter()
        state, server_time = _queue_state(self._transaction.execute(self._sql.look).fetchone())
        if server_time is not None:  # the server's clock decides what is due: a machine's may be wrong
            clock.follow(server_time, asked)
            self.now = server_time
        return state

    def promote(self, due: Optional[int] = None) -> int:
        """Make due jobs pending, at most PROMOTE_LIMIT, and decide about jobs whose parent ended. Returns how many.

        `due`: when the first of them was due.
        """
        decided = 0
        if due == statements.ENDED_PARENT:
            decided = dependencies.decide(self._transaction.execute, self.now, is_sqlite=self._is_sqlite)
        return decided + int(self._transaction.execute(self._sql.promote, {"now": self.now}).rowcount)

    def claim_first(self, served: Served, n: int, settings: Settings, *, crowded: bool) -> list[Claim]:
        """Claim up to `n` of the first jobs of all queues, in order. `crowded`: as `read_state` said."""
        if self._is_sqlite:
            rows = self.fetch(self._sql.head, {"n": n})
            allowed = [row for row in rows if served.allows(*row[-2:])]
            if len(allowed) < len(rows) == n:
                rows = self.fetch(self._sql.head, {"n": n + statements.CLAIM_LOOKAHEAD})
                allowed = [row for row in rows if served.allows(*row[-2:])][:n]
                crowded = len(rows) == n + statements.CLAIM_LOOKAHEAD
            claimed = self._take(allowed, settings)
        else:
            claimed = self._take_returning(self._sql.head, n, settings, served.parameters)
        if claimed or not crowded:
            return claimed
        # The first jobs are all for other workers, or held by them.
        busy = self._allowed(statements.BUSY_LABEL_SETS, served)
        # The first n jobs of all are in the first n label sets. On PostgreSQL other workers may hold some of them.
        first = busy[: n if self._is_sqlite else n + statements.CLAIM_LOOKAHEAD]
        return self.claim(first, n, settings) if first else []

    def exclusive_label_sets(self, served: Served) -> list[LabelSet]:
        """The label sets with pending jobs that must run exclusively, and that this worker may run."""
        return self._allowed(statements.EXCLUSIVE_LABEL_SETS, served)

    def _allowed(self, label_sets: str, served: Served) -> list[LabelSet]:
        return [LabelSet(*row) for row in self._transaction.execute(label_sets).fetchall() if served.allows(*row)]

    def claim(
        self, label_sets: Sequence[LabelSet], n: int, settings: Settings, *, run_exclusively: bool = False
    ) -> list[Claim]:
        """Claim up to `n` jobs of these label sets, in order: either exclusive jobs only, or other jobs only."""
        sql, alone = self._sql, run_exclusively
        of_one, of_several = (sql.pick_exclusive, sql.pick_exclusive_of) if alone else (sql.pick, sql.pick_of)
        if self._is_sqlite:
            return self._take(self.first_of(label_sets, n, of_one), settings)
        statement = of_one if len(label_sets) == 1 else of_several
        return self._take_returning(statement, n, settings, _parameters(label_sets))

    def take_these(self, seqs: Sequence[int], settings: Settings) -> list[Claim]:
        """Claim jobs by their sequence numbers; on PostgreSQL only those that are still pending and not locked."""
        if not self._is_sqlite:
            return self._take_returning(self._sql.take_these, len(seqs), settings, {"seqs": list(seqs)})
        return self._take([row for seq in seqs for row in self.fetch(statements.PICK_THIS, {"seq": seq})], settings)

    def _take(self, rows: Sequence[Row], settings: Settings) -> list[Claim]:
        """SQLite: take these jobs, which the write lock protects since they were read."""
        prefix, claims = os.urandom(16).hex(), []
        for row in rows:
            seq, token = row[0], f"{prefix}-{row[0]}"
            values = {"now": self.now, "worker": self._worker, "token": token, "seq": seq}
            self._transaction.execute(statements.TAKE, values)
            claims.append(_claim(row, settings, token, row[3] + 1))
        return claims

    def _take_returning(self, statement: str, n: int, settings: Settings, which: dict[str, Any]) -> list[Claim]:
        """PostgreSQL: find and take jobs in one statement."""
        values = {"now": self.now, "worker": self._worker, "token": f"{os.urandom(16).hex()}-", "n": n, **which}
        rows = sorted(self._transaction.execute(statement, values).fetchall(), key=order_of)  # RETURNING has no order
        # If the server lost this claim in a crash, another worker would run the job again.
        self._transaction.durable = self._transaction.durable or bool(rows)
        return [_claim(row, settings, row[2], row[3]) for row in rows]

    def first_of(self, label_sets: Sequence[LabelSet], n: int, pick: str) -> list[Row]:
        """The first `n` jobs of these label sets; `pick` reads one label set."""
        rows: list[Row] = []
        for label_set in label_sets:
            rows += self.fetch(pick, {**_parameters([label_set]), "n": n})
        return rows if len(label_sets) == 1 else sorted(rows, key=order_of)[:n]

    def exists(self, statement: str, label_sets: Iterable[LabelSet]) -> bool:
        """Whether one of these label sets has a job as EXCLUSIVE_IN says, or as LEFT_IN: one that has not ended."""
        return any(self.fetch(statement, _parameters([one])) for one in label_sets)

    def held(self, settings: Settings) -> list[Claim]:
        """The claims of this worker in the database: it may not know all of them, if a commit got no answer."""
        return [_claim(row, settings, *row[2:4]) for row in self.fetch(statements.HELD, {"worker": self._worker})]

    def wake_workers(self) -> None:
        """Wake waiting workers after the commit: there is work, or something is due sooner."""
        self._transaction.wakes_workers = True

    # --- what people changed ---

    def settings(self) -> Settings:
        return Settings(dict(self._transaction.execute(statements.SETTINGS).fetchall()))

    def paused_queues(self) -> frozenset[str]:
        return frozenset(name for (name,) in self.fetch(statements.PAUSED))

    def limits(self) -> Limits:
        return Limits(self.fetch(limits.READ))

    def retry_rules(self) -> dict[str, str]:
        """The retry rules of queues, as they are stored."""
        return dict(self._transaction.execute(QUEUE_RULES).fetchall())

    def label_sets(self) -> list[tuple[LabelSet, bool]]:
        """All label sets, and whether their queue is open."""
        rows = self.fetch(statements.LABEL_SETS)
        return [(LabelSet(queue, requires), bool(is_open)) for queue, requires, is_open in rows]

    def is_outdated(self) -> bool:
        """Whether a newer version has changed the schema."""
        return bool(self._transaction.execute(schema.REVISION).fetchone()[0] != schema.HEAD)

    def requested_state(self) -> tuple[str, str]:
        """What people requested of this worker (run, quiet, stop), and its state (running, expired)."""
        row = self._transaction.execute(statements.REQUESTED_STATE, {"worker": self._worker}).fetchone()
        return (row[0], row[1]) if row else ("run", "expired")

    def request_state(self, statement: str) -> None:
        """Record the state that a signal requested, so that people see it: REQUEST_QUIET, _RUN or _STOP."""
        self._transaction.execute(statement, {"worker": self._worker})

    def record_shortage(self, slots: int, text: str) -> None:
        """Record that this worker runs only `slots` jobs at a time, and why."""
        self._transaction.execute(statements.CAPACITY, {"worker": self._worker, "slots": slots})
        worker = f"worker:{self._worker}"
        events.record(self._transaction, SHORT, worker, worker, detail={"text": text})

    def tokens(self, statement: str) -> set[str]:
        """Tokens of claims whose jobs people cancelled (CANCELLED), or that other jobs follow (FOLLOWED)."""
        return {token for (token,) in self.fetch(statement, {"worker": self._worker})}


class Claims:
    """A worker's access to the queue. Belongs to one thread."""

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
        self,
        which: Union[Served, Sequence[LabelSet]],
        n: int,
        settings: Settings,
        revision: int,
        *,
        limited_later: bool = False,
    ) -> Optional[tuple[QueueState, list[Claim]]]:
        """Claim up to `n` jobs in one round trip to PostgreSQL: the first ones, or those of these label sets.

        Returns None if a whole turn has more to do: people changed something since `revision`, a job is due, a job
        must run exclusively, limited jobs wait (unless `limited_later`), or other jobs stand before those that this
        worker may run.
        """
        values = {"worker": self._worker, "token": f"{os.urandom(16).hex()}-", "n": n, "revision": revision}
        if isinstance(which, Served):
            statement, parameters = self._sql.claim_fast_path_head, which.parameters
        else:
            statement = self._sql.claim_fast_path if len(which) == 1 else self._sql.claim_fast_path_of
            parameters = _parameters(which)
        asked = clock.counter()
        rows = self._connection.query(statement, {**values, **parameters, "limited_later": limited_later})
        state, server_time = _queue_state(rows[0])
        clock.follow(server_time, asked)
        is_due = state.next_due is not None and server_time is not None and state.next_due <= server_time
        others = state.exclusive_waiting or (state.limited_waiting and not limited_later)
        if state.revision != revision or others or is_due:
            return None
        taken = sorted((row[7:] for row in rows if row[7] is not None), key=order_of)
        if state.crowded and not taken and isinstance(which, Served):
            return None
        return state, [_claim(row, settings, row[2], row[3]) for row in taken]


def _queue_state(row: Sequence[Any]) -> tuple[QueueState, Optional[int]]:
    """The first seven columns of a row, and the server's time."""
    revision, scheduled, failed, exclusive, limited, server_time, crowded = row[:7]
    due = min((due for due in (scheduled, failed) if due is not None), default=None)
    return QueueState(revision, due, bool(exclusive), bool(limited), bool(crowded)), server_time


def _parameters(label_sets: Sequence[LabelSet]) -> dict[str, Any]:
    """PostgreSQL has one statement for one label set and another for several."""
    if len(label_sets) == 1:
        return {"queue": label_sets[0].queue, "requires": label_sets[0].requires}
    return {"queues": [one.queue for one in label_sets], "requirements": [one.requires for one in label_sets]}


def order_of(row: Row) -> tuple[int, int, int]:
    """The order in which jobs are claimed."""
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
        run_exclusively=row[10] > 0,
        kill_grace=settings.kill_grace,
        due_at=row[12],
        retry=row[13],
        limits=row[14],
        followed=row[15] == 1,
        queue=row[16],
    )
