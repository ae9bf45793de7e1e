"""Claim and settle without a command in between: ours with the worker's code, procrastinate's with its SQL.

Of procrastinate, only its database functions are called, each as one statement with its own commit and the durability
of ours. Its Python does more: it tests the connection, begins, commits, and waits for the disk. So it is measured at
its best.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from typing import Any, Protocol

from tests.bench import BenchError
from tests.bench.peers.running import Running
from tests.bench.pool import ACTOR
from tests.bench.postgresql.server import Database
from tests.bench.scratch import Scratch, opened
from tests.worker_connection import worker_connection
from webapp.core.job_spec import JobSpec
from webapp.core.labels import LabelSet
from webapp.core.settings import Settings
from webapp.jobs.actions import enqueue
from webapp.lib import clock


class Door(Protocol):
    """The claims of one worker. It keeps the held job itself."""

    database: Database

    def fill(self, finished: int, pending: int) -> None:
        """Put this number of jobs into an empty queue, without dead rows."""

    def claim(self) -> None:
        """Claim one job. Raises BenchError if there is none."""

    def settle(self) -> None:
        """Settle the job as completed."""

    def turn(self) -> None:
        """Settle the held job and claim the next, like a busy worker."""


_OURS = """
INSERT INTO jobs (id, command, queue, priority, state, run_at, created_at, created_by, changed_at, attempts, failures,
                  losses, lone_losses, started_at, finished_at, exit_code)
SELECT substr(md5(random()::text), 1, 4) || '-' || lpad(i::text, 9, '0'), 'true', 'default', 0,
       CASE WHEN i <= %(finished)s THEN 'completed' ELSE 'pending' END,
       i, i, 'person:bench', i, ended, 0, 0, 0,
       CASE ended WHEN 1 THEN i END, CASE ended WHEN 1 THEN i END, CASE ended WHEN 1 THEN 0 END
FROM (SELECT i, CASE WHEN i <= %(finished)s THEN 1 ELSE 0 END AS ended
      FROM generate_series(1, %(finished)s + %(pending)s) AS i) AS one
"""
_OUR_ATTEMPTS = """
INSERT INTO attempts (job_seq, number, state, reason, worker_id, started_at, finished_at, exit_code, cpu_time,
                      peak_memory, output, output_runs, output_dropped, due_at)
SELECT seq, 1, 'completed', 'exit', 'bench', started_at, finished_at, 0, 1000, 1000000, '', '', 0, run_at
FROM jobs WHERE state = 'completed'
"""


class Ours:
    """The worker's own code, as the dispatcher calls it."""

    def __init__(self, stack: ExitStack, scratch: Scratch, database: Database) -> None:
        """Its database stays open until the stack is closed."""
        from worker.attempt import Claim
        from worker.loop.claims import Claims

        self.database = database
        stack.enter_context(opened(scratch.home(), database.for_us))
        enqueue([JobSpec(command="true")], ACTOR)  # which makes the queue
        connection = worker_connection()
        stack.callback(connection.close)
        self._claims = Claims(connection, "bench")
        self._settings = Settings()
        self._held: list[Claim] = []
        with self._claims as turn:
            self._revision = turn.read_state().revision

    def fill(self, finished: int, pending: int) -> None:
        self.database.run("TRUNCATE jobs CASCADE")
        self.database.run(_OURS, {"finished": finished, "pending": pending})
        self.database.run(_OUR_ATTEMPTS)
        self.database.run("VACUUM (ANALYZE)")

    def claim(self) -> None:
        """Claim like an idle worker."""
        found = self._claims.claim_fast_path([LabelSet("default")], 1, self._settings, self._revision)
        self._hold([] if found is None else found[1])

    def settle(self) -> None:
        with self._claims as turn:
            turn.read_state()
            self._give(turn)

    def turn(self) -> None:
        with self._claims as turn:
            turn.read_state()
            self._give(turn)
            self._take(turn)

    def _take(self, turn: Any) -> None:
        self._hold(turn.claim([LabelSet("default")], 1, self._settings))

    def _hold(self, claimed: list[Any]) -> None:
        self._held = claimed
        if len(claimed) != 1:
            raise BenchError(f"a claim took {len(claimed)} jobs; expected 1.")

    def _give(self, turn: Any) -> None:
        from worker.attempt import AttemptResult

        for held in self._held:
            now = clock.now()
            ended = AttemptResult(
                held, "completed", "exit", now, now, exit_code=0, cpu_time=1000, peak_memory=1_000_000
            )
            if turn.settle(ended, self._settings, 0.0) != "completed":
                raise BenchError("a claim was gone before it was settled.")


_QUERIES = """
import json
from procrastinate.sql import queries
print(json.dumps([queries["fetch_job"], queries["finish_job"]]))
"""
_WITHOUT = "ALTER TABLE procrastinate_jobs DISABLE TRIGGER USER"  # which write the events that are written below
_WITH = "ALTER TABLE procrastinate_jobs ENABLE TRIGGER USER"
_THEIRS = """
INSERT INTO procrastinate_jobs (queue_name, task_name, status, attempts)
SELECT 'default', 'run', (CASE WHEN i <= %(finished)s THEN 'succeeded' ELSE 'todo' END)::procrastinate_job_status,
       CASE WHEN i <= %(finished)s THEN 1 ELSE 0 END
FROM generate_series(1, %(finished)s + %(pending)s) AS i
"""
_THEIR_EVENTS = """
INSERT INTO procrastinate_events (job_id, type)
SELECT id, type::procrastinate_job_event_type
FROM procrastinate_jobs CROSS JOIN unnest(ARRAY['deferred', 'started', 'succeeded']) AS type
WHERE status = 'succeeded' OR type = 'deferred'
"""
_WORKER = "INSERT INTO procrastinate_workers DEFAULT VALUES RETURNING id"


class Theirs:
    """Procrastinate's functions, on a connection of ours."""

    def __init__(self, stack: ExitStack, peer: Running, database: Database) -> None:
        """`peer` is installed; its schema is made in this database."""
        self.database = database
        peer.at(database.url).reset()
        self._fetch, self._finish = json.loads(peer.place.run(peer.place.program("python"), "-c", _QUERIES))
        self._connection = stack.enter_context(database.connect())
        self._worker = 0
        self._held = 0

    def fill(self, finished: int, pending: int) -> None:
        self.database.run("TRUNCATE procrastinate_jobs CASCADE")
        self.database.run(_WITHOUT)
        self.database.run(_THEIRS, {"finished": finished, "pending": pending})
        self.database.run(_THEIR_EVENTS)
        self.database.run(_WITH)
        [(self._worker,)] = self.database.run(_WORKER)
        self.database.run("VACUUM (ANALYZE)")

    def claim(self) -> None:
        row = self._connection.execute(self._fetch, {"queues": None, "worker_id": self._worker}).fetchone()
        if row is None or row[0] is None:
            raise BenchError("procrastinate found no job where there was one.")
        self._held = row[0]

    def settle(self) -> None:
        self._connection.execute(self._finish, {"job_id": self._held, "status": "succeeded", "delete_job": False})

    def turn(self) -> None:
        self.settle()
        self.claim()
