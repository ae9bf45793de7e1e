"""The statements of the hot path: texts, compiled once for the connection's dialect. Who executes them is `worker/loop/claims.py`.

The arrows come from `lifecycle.ARROWS`. Jobs are claimed lane by lane, by the index for that (see `webapp/db/label_sets.py`).
"""

from __future__ import annotations

from webapp.db import migrations, postgresql
from webapp.db.engines import WorkerConnection
from webapp.jobs.lifecycle import ARROWS

PROMOTE_LIMIT = 200  # due jobs that one claim makes pending: a million due at once held the lock for 3 s
AT_THE_HEAD = 32  # jobs of a lane that others may be taking at the same moment


def _states(verb: str) -> str:
    return "(" + ", ".join(f"'{state}'" for state in ARROWS[verb].leaves) + ")"


# SQLite uses a partial index only where its condition stands word for word, hence `IN` beside `=`. For a min(),
# PostgreSQL 13 and 14 read all rows where the table was never analyzed.
_FIRST_DUE = f"""
SELECT run_at FROM jobs WHERE state IN {_states("promote")} AND state = '%s' ORDER BY run_at LIMIT 1"""  # noqa: S608
_LOOK = f"""
SELECT (SELECT revision FROM control) AS revision,
       ({_FIRST_DUE % "scheduled"}) AS scheduled,
       ({_FIRST_DUE % "failed"}) AS failed,
       EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND losses > 0) AS lone,
       {{now}} AS told
"""  # noqa: S608  every part is ours

_PROMOTE = f"""
UPDATE jobs SET state = '{ARROWS["promote"].enters}', changed_at = :now
WHERE state IN {_states("promote")} AND seq {{due}}
"""  # noqa: S608  every part is ours
_DUE = f"SELECT seq FROM jobs WHERE state IN {_states('promote')} AND run_at <= :now LIMIT {PROMOTE_LIMIT}"  # noqa: S608
# What another worker promotes already is not waited for.
_FREE = f"= ANY(ARRAY({_DUE} FOR UPDATE SKIP LOCKED))"

_COLUMNS = "seq, id, token, attempts, command, timeout, cwd, env, failures, max_retries, losses, priority, run_at"

_TAKE = f"""
UPDATE jobs SET state = '{ARROWS["claim"].enters}', attempts = attempts + 1, started_at = :now, changed_at = :now,
                worker_id = :worker, token = {{token}}
WHERE state IN {_states("claim")} AND seq {{picked}}
"""  # noqa: S608

_ORDER = "ORDER BY priority DESC, run_at, seq"
_WHICH = "losses = 0", "losses > 0"

# Both merge the first n of each lane. On SQLite the write lock is held: who has looked may take one by one. That costs
# a third of an UPDATE with a list and a RETURNING, for each of these makes a table of its own. On PostgreSQL a round
# trip costs more than that. The list is an ARRAY there: with a plain IN, a nested-loop plan runs the locking select
# again for each row and claims too many.
_PICK = f"""
SELECT {_COLUMNS} FROM jobs WHERE state = 'pending' AND queue = :queue AND requires = :requires AND {{which}}
{_ORDER} LIMIT :n"""  # noqa: S608
_PICKED_IN_ONE = f"""= ANY(ARRAY(
      SELECT seq FROM jobs WHERE state = 'pending' AND queue = :queue AND requires = :requires AND {{which}}
      {_ORDER} LIMIT :n FOR UPDATE SKIP LOCKED))"""  # noqa: S608
# Only what is taken is locked: else others that look at the same time find nothing and rest beside what was left. So
# the first of each lane are looked at, some more than are wanted, for others may be taking those at the head.
_PICKED = f"""= ANY(ARRAY(SELECT seq FROM jobs
      WHERE state = 'pending' AND {{which}} AND seq = ANY(ARRAY(SELECT first.seq
        FROM unnest(CAST(:queues AS text[]), CAST(:requirements AS text[])) AS lane(queue, requires)
        CROSS JOIN LATERAL (
          SELECT seq FROM jobs
          WHERE state = 'pending' AND queue = lane.queue AND requires = lane.requires AND {{which}}
          {_ORDER} LIMIT CAST(:n AS bigint) + {AT_THE_HEAD}) AS first))
      {_ORDER} LIMIT :n FOR UPDATE SKIP LOCKED))"""  # noqa: S608
_TAKE_AND_TELL = _TAKE.replace("{token}", "CAST(:token AS TEXT) || seq") + f"RETURNING {_COLUMNS}"

# An idle worker that was told of a job, with all its colleagues: a look and a claim in one trip to the server, and a
# commit of its own. It takes nothing where a whole turn has more to do.
_GLANCE = """
WITH looked AS MATERIALIZED ({look}), taken AS ({take})
SELECT looked.*, taken.* FROM looked LEFT JOIN taken ON true
"""
_NOTHING_ELSE = """
(SELECT revision = :revision AND NOT lone AND coalesce(least(scheduled, failed) > told, true) FROM looked)
"""

# `cancel` wins where the verb lets it: the caller then settles once more, as cancelled.
_SETTLE = """
UPDATE jobs SET state = :state, changed_at = :now, finished_at = :finished_at, run_at = coalesce(:run_at, run_at),
                failures = failures + :failed, exit_code = :exit_code, last_error = :error, error_key = :error_key,
                worker_id = NULL, token = NULL, cancel_requested_at = NULL, cancel_requested_by = NULL
WHERE seq = :seq AND token = :token AND state = 'processing' AND (cancel_requested_at IS NULL OR :may_be_asked)
"""

_ATTEMPT = """
INSERT INTO attempts (job_seq, number, state, reason, error, error_key, worker_id, started_at, finished_at, exit_code,
                      signal, cpu_time, peak_memory, output, output_runs, output_cut, output_dropped, due_at)
{from_what}
"""
_ENDED = """:number, :kind, :reason, :error, :error_key, :worker, :started_at, :ended_at, :exit_code,
        :signal, :cpu_time, :peak_memory, :output, :runs, :cut, :dropped, :due_at"""

_TAIL = """
INSERT INTO output_tails (job_seq, text) VALUES (:seq, :text) ON CONFLICT (job_seq) DO UPDATE SET text = excluded.text
"""

_CHUNK = """
INSERT INTO output_chunks (job_seq, attempt, position, data, runs)
SELECT seq, attempts, :position, :data, :runs FROM jobs WHERE seq = :seq AND token = :token AND state = 'processing'
"""

_DROP_CHUNKS = """
DELETE FROM output_chunks
WHERE job_seq = :seq AND attempt = :attempt AND position >= :first AND position + length(data) <= :behind
"""

_MINE = "FROM jobs WHERE state = 'processing' AND worker_id = :worker"
ASKED = f"SELECT token {_MINE} AND cancel_requested_at IS NOT NULL"

_LANES = """
SELECT name, '', paused_at IS NULL FROM queues
UNION ALL SELECT lanes.queue, lanes.requires, paused_at IS NULL FROM lanes JOIN queues ON queues.name = lanes.queue
"""

EVENT = """
INSERT INTO events (at, verb, actor, subject, job_seq, detail) VALUES (:now, :verb, :actor, :subject, :seq, :detail)
"""


class Statements:
    """The texts above, compiled for one connection."""

    def __init__(self, connection: WorkerConnection) -> None:
        prepare = connection.prepare
        sqlite = connection.dialect == "sqlite"
        look = _LOOK.format(now="NULL" if sqlite else f"({postgresql.NOW})")
        self.look = prepare(look)
        self.promote = prepare(_PROMOTE.format(due=f"IN ({_DUE})" if sqlite else _FREE))
        of_one = _PICK if sqlite else _TAKE_AND_TELL.format(picked=_PICKED_IN_ONE)
        self.pick, self.pick_lone = (prepare(of_one.format(which=which)) for which in _WHICH)
        of_several = _PICK if sqlite else _TAKE_AND_TELL.format(picked=_PICKED)
        self.pick_of, self.pick_lone_of = (prepare(of_several.format(which=which)) for which in _WHICH)
        self.claim_fast_path, self.claim_fast_path_of = (
            prepare(_GLANCE.format(look=look, take=take.replace(":now", "(SELECT told FROM looked)")))
            for take in (
                _TAKE_AND_TELL.format(picked=one).format(which=f"losses = 0 AND {_NOTHING_ELSE}")
                for one in (_PICKED_IN_ONE, _PICKED)
            )
        )
        self.take = prepare(_TAKE.format(token=":token", picked="= :seq"))  # noqa: S106
        self.settle = prepare(_SETTLE)
        self.attempt = prepare(_ATTEMPT.format(from_what=f"VALUES (:seq, {_ENDED})"))
        # Both in one trip to the server.
        settled = f"WITH settled AS ({_SETTLE} RETURNING seq)"
        self.end = prepare(settled + _ATTEMPT.format(from_what=f"SELECT seq, {_ENDED} FROM settled"))  # noqa: S608
        self.tail = prepare(_TAIL)
        self.chunk = prepare(_CHUNK)
        self.drop_chunks = prepare(_DROP_CHUNKS)
        self.event = prepare(EVENT)
        self.settings = prepare("SELECT key, value FROM settings")
        self.lanes = prepare(_LANES)
        self.schema = prepare(migrations.SCHEMA)
        self.wish = prepare("SELECT wish, state FROM workers WHERE id = :worker")
        self.asked = prepare(ASKED)
        self.held = prepare(f"SELECT {_COLUMNS} {_MINE}")
        lane = "queue = :queue AND requires = :requires"
        self.lone_in = prepare(f"SELECT 1 FROM jobs WHERE state = 'pending' AND losses > 0 AND {lane} LIMIT 1")  # noqa: S608
        self.be_quiet = prepare("UPDATE workers SET wish = 'quiet' WHERE id = :worker AND wish = 'run'")
        self.be_stopping = prepare("UPDATE workers SET wish = 'stop' WHERE id = :worker AND wish <> 'stop'")
        # One by one, each by its own index: no index has all three states.
        left = ("state = 'pending'", "state = 'processing'", f"state IN {_states('promote')} AND state = 'failed'")
        each = " OR ".join(f"EXISTS (SELECT 1 FROM jobs WHERE {state} AND {lane})" for state in left)  # noqa: S608
        self.left_in = prepare(f"SELECT 1 WHERE {each}")
