"""The SQL of the hot path, for both databases. `worker/loop/claims.py` executes it.

The transitions are in `core/states.py`. A worker that serves all queues claims the first pending jobs of all (`head`),
if it may run one of them. Else it claims from each label set (`pick`), which the index for claims keeps apart, so jobs
that it may not run cost it nothing.
"""

from __future__ import annotations

from webapp.core.states import ARROWS, INDEX_CONDITIONS, may_leave
from webapp.core.storage import schema

PROMOTE_LIMIT = 200  # due jobs that one claim makes pending: without it, a million due jobs held the lock for 3 s
CLAIM_LOOKAHEAD = 32  # more jobs to read, because other workers may take the first ones or run only some of them


# Not `losses = 0`: PostgreSQL would then also consider the index of the first jobs of all queues, and with old
# statistics read all jobs that stand before those of a label set.
_WHICH = "losses < 1", "losses > 0"
# Not min(run_at): PostgreSQL 13 and 14 read all rows for it if the table was never analyzed.
_FIRST_DUE = f"""
SELECT run_at FROM jobs WHERE {INDEX_CONDITIONS["failed"]} AND state = '%s' ORDER BY run_at LIMIT 1"""  # noqa: S608
# An ended parent makes the jobs that follow it due: `promote` decides about them, see `core/flow/dependencies.py`.
ENDED_PARENT = 0
_ENDED_PARENT = f"SELECT {ENDED_PARENT} FROM jobs WHERE followed = 1 AND finished_at IS NOT NULL LIMIT 1"  # noqa: S608
_LOOK = f"""
SELECT (SELECT revision FROM control) AS revision,
       coalesce(({_ENDED_PARENT}), ({_FIRST_DUE % "scheduled"})) AS scheduled,
       ({_FIRST_DUE % "failed"}) AS failed,
       EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND losses > 0 AND limits = '') AS exclusive,
       EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND limits <> '') AS limited,
       {{now}} AS told, {{crowded}} AS crowded
"""  # noqa: S608  every part is ours

_PROMOTE = f"""
UPDATE jobs SET state = '{ARROWS["promote"].enters}', changed_at = :now
WHERE {may_leave("promote")} AND seq {{due}}
"""  # noqa: S608  every part is ours
_DUE = f"SELECT seq FROM jobs WHERE {may_leave('promote')} AND run_at <= :now LIMIT {PROMOTE_LIMIT}"  # noqa: S608
# Skips jobs that another worker promotes at this moment.
_FREE = f"= ANY(ARRAY({_DUE} FOR UPDATE SKIP LOCKED))"

_COLUMNS = (
    "seq, id, token, attempts, command, timeout, cwd, env, failures, max_retries, losses, priority, run_at, retry, "
    "limits, followed, queue"
)

_TAKE = f"""
UPDATE jobs SET state = '{ARROWS["claim"].enters}', attempts = attempts + 1, started_at = :now, changed_at = :now,
                worker_id = :worker, token = {{token}},
                unique_while = CASE unique_while WHEN 'waiting' THEN 'started' ELSE unique_while END
WHERE {may_leave("claim")} AND seq {{picked}}
"""  # noqa: S608

_ORDER = "ORDER BY priority DESC, run_at, seq"
# Cast: SQLite prepares a statement again at each execution if its LIMIT is a bare parameter, for four times the cost.
_LIMIT = "LIMIT CAST(:n AS bigint)"
# Limited jobs are claimed elsewhere.
_IN_SET = "state = 'pending' AND queue = :queue AND requires = :requires AND limits = ''"
# The first n jobs of each label set are merged. SQLite holds the write lock, so jobs can be read first and then taken
# one by one; this costs a third of an UPDATE with a list and a RETURNING, which each make a temporary table. On
# PostgreSQL a round trip costs more than that. The list is an ARRAY there: with a plain IN, a nested-loop plan runs
# the locking select again for each row and claims too many.
_PICK = f"""
SELECT {_COLUMNS} FROM jobs WHERE {_IN_SET} AND {{which}}
{_ORDER} {_LIMIT}"""  # noqa: S608
# The first jobs of all queues. More of them than it takes, because the worker may not run all.
_HEAD = f"""
SELECT {_COLUMNS}, requires FROM jobs WHERE state = 'pending' AND losses = 0 AND limits = '' {_ORDER} {_LIMIT}"""  # noqa: S608
_PICKED_FIRST = f"""= ANY(ARRAY(SELECT seq FROM jobs
      WHERE state = 'pending' AND {{which}} AND seq = ANY(ARRAY(SELECT first.seq
        FROM (SELECT seq, queue, requires FROM jobs WHERE state = 'pending' AND limits = '' AND {{which}}
              {_ORDER} {_LIMIT} + {CLAIM_LOOKAHEAD}) AS first
        WHERE first.queue <> ALL(CAST(:paused AS text[]))
          AND (first.requires = '' OR string_to_array(first.requires, ',') <@ CAST(:labels AS text[]))))
      {_ORDER} {_LIMIT} FOR UPDATE SKIP LOCKED))"""  # noqa: S608
# Whether there are more pending jobs than _PICKED_FIRST reads.
_CROWDED = f"""
(SELECT count(*) > {CLAIM_LOOKAHEAD} FROM (
    SELECT 1 FROM jobs WHERE state = 'pending' AND losses = 0 AND limits = '' LIMIT {CLAIM_LOOKAHEAD + 1}
 ) AS counted)"""  # noqa: S608
_PICKED_IN_ONE = f"""= ANY(ARRAY(
      SELECT seq FROM jobs WHERE {_IN_SET} AND {{which}}
      {_ORDER} {_LIMIT} FOR UPDATE SKIP LOCKED))"""  # noqa: S608
# Locks only the jobs that it takes: otherwise other workers would find none at the same moment and go idle although
# there are more. So it reads the first jobs of each label set, and some more.
_PICKED = f"""= ANY(ARRAY(SELECT seq FROM jobs
      WHERE state = 'pending' AND {{which}} AND seq = ANY(ARRAY(SELECT first.seq
        FROM unnest(CAST(:queues AS text[]), CAST(:requirements AS text[])) AS lane(queue, requires)
        CROSS JOIN LATERAL (
          SELECT seq FROM jobs
          WHERE state = 'pending' AND queue = lane.queue AND requires = lane.requires AND limits = '' AND {{which}}
          {_ORDER} {_LIMIT} + {CLAIM_LOOKAHEAD}) AS first))
      {_ORDER} {_LIMIT} FOR UPDATE SKIP LOCKED))"""  # noqa: S608
_TAKE_RETURNING = _TAKE.replace("{token}", "CAST(:token AS TEXT) || seq") + f"RETURNING {_COLUMNS}"

# For an idle worker that was woken together with all others: look and claim in one round trip with its own commit. It
# takes nothing if there is more to do than a claim.
_FAST_PATH = """
WITH looked AS MATERIALIZED ({look}), taken AS ({take})
SELECT looked.*, taken.* FROM looked LEFT JOIN taken ON true
"""
_NOTHING_ELSE = """
(SELECT revision = :revision AND NOT exclusive AND (NOT limited OR CAST(:limited_later AS boolean))
        AND coalesce(least(scheduled, failed) > told, true) FROM looked)
"""

# --- limited jobs: worker/loop/limited.py ---
# One worker at a time chooses among them. On SQLite it holds the write lock. On PostgreSQL it needs this lock, and
# reads in later statements, which see what the last holder did.
TRY_LIMITED_LOCK = "SELECT pg_try_advisory_xact_lock(72620012)"
# What runs, and the time: starts of a key are recorded in the order of this clock.
_RUNNING = """
SELECT queue, limits, count(*), NULL FROM jobs WHERE state = 'processing' GROUP BY queue, limits
UNION ALL SELECT '', '', 0, {now}
"""
# What the choice needs of a job. Commands and variables may be long, so only the chosen jobs' are read.
_CANDIDATE = "jobs.seq, jobs.priority, jobs.run_at, jobs.losses, jobs.limits, jobs.queue, jobs.requires"
LIMITED_FIRST = f"""
SELECT {_CANDIDATE} FROM jobs WHERE state = 'pending' AND limits <> '' {_ORDER} {_LIMIT}"""  # noqa: S608
# The first job of each lane: jobs with the same keys, queue and labels. A lane with many blocked jobs costs one step.
WITH_LIMITED_LANES = """
WITH RECURSIVE found (seq, limits, queue, requires) AS (
    SELECT seq, limits, queue, requires FROM (
        SELECT seq, limits, queue, requires FROM jobs WHERE state = 'pending' AND limits <> '' AND limits > :after
        ORDER BY limits, queue, requires, priority DESC, run_at, seq LIMIT 1) AS first
    UNION ALL
    SELECT jobs.seq, jobs.limits, jobs.queue, jobs.requires
    FROM found JOIN jobs ON jobs.seq = coalesce(
        (SELECT seq FROM jobs AS later WHERE later.state = 'pending' AND later.limits <> ''
            AND later.limits = found.limits AND later.queue = found.queue AND later.requires > found.requires
         ORDER BY later.requires, later.priority DESC, later.run_at, later.seq LIMIT 1),
        (SELECT seq FROM jobs AS later WHERE later.state = 'pending' AND later.limits <> ''
            AND later.limits = found.limits AND later.queue > found.queue
         ORDER BY later.queue, later.requires, later.priority DESC, later.run_at, later.seq LIMIT 1),
        (SELECT seq FROM jobs AS later WHERE later.state = 'pending' AND later.limits <> ''
            AND later.limits > found.limits
         ORDER BY later.limits, later.queue, later.requires, later.priority DESC, later.run_at, later.seq LIMIT 1)))
"""
LIMITED_LANES = f"""{WITH_LIMITED_LANES}
SELECT {_CANDIDATE} FROM (SELECT seq FROM found {_LIMIT}) AS lane JOIN jobs ON jobs.seq = lane.seq
"""  # noqa: S608
# The first jobs of each label set of queues that have a limit.
_FIRST_OF_SET = f"""
    SELECT {{columns}} FROM jobs AS first
    WHERE first.state = 'pending' AND first.queue = lane.queue AND first.requires = lane.requires AND first.limits = ''
    ORDER BY first.priority DESC, first.run_at, first.seq {_LIMIT}"""  # noqa: S608
_OF_SETS_SQLITE = f"""
SELECT {_CANDIDATE} FROM (
    SELECT json_extract(value, '$[0]') AS queue, json_extract(value, '$[1]') AS requires FROM json_each(:sets)) AS lane
CROSS JOIN jobs WHERE jobs.seq IN ({_FIRST_OF_SET.format(columns="first.seq")})"""  # noqa: S608
_OF_SETS_POSTGRESQL = f"""
SELECT {_CANDIDATE} FROM unnest(CAST(:queues AS text[]), CAST(:requirements AS text[])) AS lane(queue, requires)
CROSS JOIN LATERAL ({_FIRST_OF_SET.format(columns="first.*")}) AS jobs"""  # noqa: S608
# The last starts of a key that matter for the next ones, and the number of its last start.
STARTS = f"""
SELECT number, started_at, last.number_of_last FROM limit_starts
CROSS JOIN (SELECT max(number) AS number_of_last FROM limit_starts WHERE key = :key) AS last
WHERE key = :key AND number > last.number_of_last - :rate ORDER BY number {_LIMIT}"""  # noqa: S608
ADD_START = "INSERT INTO limit_starts (key, number, started_at) VALUES (:key, :number, :at)"
DROP_STARTS = "DELETE FROM limit_starts WHERE key = :key AND number <= :number"
# Workers that take jobs: a job that this worker may not run waits for one of them.
TAKING_WORKERS = "SELECT queues, labels, host FROM workers WHERE state = 'running' AND wish = 'run'"
PICK_THIS = f"SELECT {_COLUMNS} FROM jobs WHERE seq = :seq"  # noqa: S608
_PICKED_THESE = """= ANY(ARRAY(SELECT seq FROM jobs
      WHERE state = 'pending' AND seq = ANY(CAST(:seqs AS bigint[])) FOR UPDATE SKIP LOCKED))"""

# Without RETURNING, which makes a temporary table on SQLite.
TAKE = _TAKE.format(token=":token", picked="= :seq")  # noqa: S106

# A requested cancel wins if the verb allows it: the caller then settles again, as cancelled.
SETTLE = """
UPDATE jobs SET state = :state, changed_at = :now, finished_at = :finished_at, run_at = coalesce(:run_at, run_at),
                failures = failures + :failed, exit_code = :exit_code, last_error = :error, error_key = :error_key,
                worker_id = NULL, token = NULL, cancel_requested_at = NULL, cancel_requested_by = NULL
WHERE seq = :seq AND token = :token AND state = 'processing' AND (cancel_requested_at IS NULL OR :may_be_asked)
"""

# Nothing ran, so the next attempt gets the same number.
UNCLAIM = f"""
UPDATE jobs SET state = '{ARROWS["unclaim"].enters}', attempts = attempts - 1, changed_at = :now, worker_id = NULL,
                token = NULL
WHERE seq = :seq AND token = :token AND {may_leave("unclaim")} AND cancel_requested_at IS NULL
"""  # noqa: S608

_ATTEMPT = """
INSERT INTO attempts (job_seq, number, state, reason, error, error_key, worker_id, started_at, finished_at, exit_code,
                      signal, cpu_time, peak_memory, output, output_runs, output_cut, output_dropped, due_at,
                      output_times)
{from_what}
"""
_ENDED = """:number, :kind, :reason, :error, :error_key, :worker, :started_at, :ended_at, :exit_code,
        :signal, :cpu_time, :peak_memory, :output, :runs, :cut, :dropped, :due_at, :times"""
ATTEMPT = _ATTEMPT.format(from_what=f"VALUES (:seq, {_ENDED})")
# PostgreSQL: both in one round trip.
_SETTLED = f"WITH settled AS ({SETTLE} RETURNING seq)"
SETTLE_WITH_ATTEMPT = _SETTLED + _ATTEMPT.format(from_what=f"SELECT seq, {_ENDED} FROM settled")  # noqa: S608

TAIL = """
INSERT INTO output_tails (job_seq, text) VALUES (:seq, :text) ON CONFLICT (job_seq) DO UPDATE SET text = excluded.text
"""

CHUNK = """
INSERT INTO output_chunks (job_seq, attempt, position, data, runs, times)
SELECT seq, attempts, :position, :data, :runs, :times FROM jobs
WHERE seq = :seq AND token = :token AND state = 'processing'
"""

DROP_CHUNKS = """
DELETE FROM output_chunks
WHERE job_seq = :seq AND attempt = :attempt AND position >= :first AND position + length(data) <= :behind
"""

_MINE = "FROM jobs WHERE state = 'processing' AND worker_id = :worker"
CANCELLED = f"SELECT token {_MINE} AND cancel_requested_at IS NOT NULL"
FOLLOWED = f"SELECT token {_MINE} AND followed = 1"
HELD = f"SELECT {_COLUMNS} {_MINE}"

SETTINGS = "SELECT key, value FROM settings"
PAUSED = "SELECT name FROM queues WHERE paused_at IS NOT NULL"
LABEL_SETS = """
SELECT name, '', paused_at IS NULL FROM queues WHERE removed_at IS NULL
UNION ALL SELECT lanes.queue, lanes.requires, paused_at IS NULL FROM lanes JOIN queues ON queues.name = lanes.queue
"""
# Label sets with pending jobs, in the order of their first jobs. Each step reads the next entry of the index after all
# jobs of the last label set, so it costs the same however many jobs a label set has. The jobs without limits of a label
# set come first.
_BUSY_LABEL_SETS = """
WITH RECURSIVE found (seq, queue, requires, limits, priority, run_at) AS (
    SELECT seq, queue, requires, limits, priority, run_at FROM (
        SELECT seq, queue, requires, limits, priority, run_at FROM jobs WHERE state = 'pending' AND {which}
        ORDER BY queue, requires, limits, priority DESC, run_at, seq LIMIT 1) AS first
    UNION ALL
    SELECT jobs.seq, jobs.queue, jobs.requires, jobs.limits, jobs.priority, jobs.run_at
    FROM found JOIN jobs ON jobs.seq = coalesce(
        (SELECT seq FROM jobs AS later
         WHERE later.state = 'pending' AND {which} AND later.queue = found.queue AND later.requires > found.requires
         ORDER BY later.requires, later.limits, later.priority DESC, later.run_at, later.seq LIMIT 1),
        (SELECT seq FROM jobs AS later WHERE later.state = 'pending' AND {which} AND later.queue > found.queue
         ORDER BY later.queue, later.requires, later.limits, later.priority DESC, later.run_at, later.seq LIMIT 1)))
SELECT queue, requires FROM found WHERE {of_found} ORDER BY priority DESC, run_at, seq
"""
BUSY_LABEL_SETS, EXCLUSIVE_LABEL_SETS = (
    _BUSY_LABEL_SETS.format(which=which, of_found="limits = ''") for which in _WHICH
)
ALL_LABEL_SETS = _BUSY_LABEL_SETS.format(which="losses >= 0", of_found="true")  # also of limited jobs
# The earliest due time among pending jobs; {jobs} is a condition. Their indexes sort by priority first, so the
# recursion steps from priority to priority, not from row to row.
OLDEST_PENDING = """
WITH RECURSIVE levels(priority) AS (
  SELECT max(priority) FROM jobs WHERE {jobs}
  UNION ALL
  SELECT (SELECT max(priority) FROM jobs WHERE {jobs} AND priority < levels.priority)
  FROM levels WHERE levels.priority IS NOT NULL)
SELECT min((SELECT min(run_at) FROM jobs WHERE {jobs} AND priority = levels.priority)) FROM levels
"""
# The same for the pending jobs of a label set. Their index sorts by keys of limits and then by priority, so the
# recursion steps from one pair to the next, at most MOST_PAIRS times.
MOST_PAIRS = 500
OLDEST_IN_SET = f"""
WITH RECURSIVE pairs(limits, priority, run_at) AS (
  SELECT limits, priority, run_at FROM (
    SELECT limits, priority, run_at FROM jobs WHERE {{jobs}}
    ORDER BY limits, priority DESC, run_at, seq LIMIT 1) AS first
  UNION ALL
  SELECT next.limits, next.priority, next.run_at FROM pairs JOIN jobs AS next ON next.seq = coalesce(
    (SELECT seq FROM jobs WHERE {{jobs}} AND limits = pairs.limits AND priority < pairs.priority
     ORDER BY priority DESC, run_at, seq LIMIT 1),
    (SELECT seq FROM jobs WHERE {{jobs}} AND limits > pairs.limits
     ORDER BY limits, priority DESC, run_at, seq LIMIT 1)))
SELECT min(run_at) FROM (SELECT run_at FROM pairs LIMIT {MOST_PAIRS}) AS read
"""  # noqa: S608
REQUESTED_STATE = "SELECT wish, state FROM workers WHERE id = :worker"
CAPACITY = "UPDATE workers SET slots = :slots WHERE id = :worker"
REQUEST_QUIET = "UPDATE workers SET wish = 'quiet' WHERE id = :worker AND wish = 'run'"
REQUEST_RUN = "UPDATE workers SET wish = 'run' WHERE id = :worker AND wish = 'quiet'"
REQUEST_STOP = "UPDATE workers SET wish = 'stop' WHERE id = :worker AND state = 'running' AND wish <> 'stop'"

# After a restore or a move: the decider records what was due as skipped, as after a pause that ends now.
SKIP_DUE_FIRES = """
UPDATE schedules SET paused_at = :now, paused_until = :now + 1, paused_by = :rule
WHERE paused_at IS NULL OR paused_until <= :now
"""
RULE_RESTORE, RULE_MOVE = "rule:restore", "rule:move"
# A schedule replaces its earlier jobs. People cancel through `jobs/actions.py`.
CANCEL = f"""
UPDATE jobs SET state = '{ARROWS["cancel"].enters}', changed_at = :now, finished_at = :now, act_id = NULL
WHERE id = :id AND {may_leave("cancel")} RETURNING seq
"""  # noqa: S608
ASK_CANCEL = """
UPDATE jobs SET cancel_requested_at = :now, cancel_requested_by = :actor
WHERE id = :id AND state = 'processing' AND cancel_requested_at IS NULL RETURNING seq
"""

_IN_LABEL_SET = "queue = :queue AND requires = :requires"
EXCLUSIVE_IN = f"SELECT 1 FROM jobs WHERE {_IN_SET} AND losses > 0 LIMIT 1"  # noqa: S608
# Each by its own index: no index has all three states.
_LEFT = ("state = 'pending'", "state = 'processing'", f"{INDEX_CONDITIONS['failed']} AND state = 'failed'")
_EACH = " OR ".join(f"EXISTS (SELECT 1 FROM jobs WHERE {state} AND {_IN_LABEL_SET})" for state in _LEFT)  # noqa: S608
LEFT_IN = f"SELECT 1 WHERE {_EACH}"


class Statements:
    """The statements that differ between SQLite and PostgreSQL."""

    def __init__(self, *, is_sqlite: bool) -> None:
        self.look = _LOOK.format(
            now="NULL" if is_sqlite else f"({schema.SERVER_TIME})", crowded="NULL" if is_sqlite else _CROWDED
        )
        self.head = _HEAD if is_sqlite else _TAKE_RETURNING.format(picked=_PICKED_FIRST).format(which="losses = 0")
        self.running = _RUNNING.format(now="NULL" if is_sqlite else f"({schema.SERVER_TIME})")
        self.of_sets = _OF_SETS_SQLITE if is_sqlite else _OF_SETS_POSTGRESQL
        self.take_these = _TAKE_RETURNING.format(picked=_PICKED_THESE)
        self.promote = _PROMOTE.format(due=f"IN ({_DUE})" if is_sqlite else _FREE)
        of_one = _PICK if is_sqlite else _TAKE_RETURNING.format(picked=_PICKED_IN_ONE)
        self.peek, self.peek_head = _PICK.format(which=_WHICH[0]), _HEAD
        self.pick, self.pick_exclusive = (of_one.format(which=which) for which in _WHICH)
        of_several = _PICK if is_sqlite else _TAKE_RETURNING.format(picked=_PICKED)
        self.pick_of, self.pick_exclusive_of = (of_several.format(which=which) for which in _WHICH)
        self.claim_fast_path_head, self.claim_fast_path, self.claim_fast_path_of = (
            _FAST_PATH.format(look=self.look, take=take.replace(":now", "(SELECT told FROM looked)"))
            for take in (
                _TAKE_RETURNING.format(picked=picked).format(which=f"{which} AND {_NOTHING_ELSE}")
                for picked, which in ((_PICKED_FIRST, "losses = 0"), (_PICKED_IN_ONE, _WHICH[0]), (_PICKED, _WHICH[0]))
            )
        )
