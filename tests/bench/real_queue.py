"""A queue with a history of any size: mostly completed jobs of two months, some dead with a few causes.

SQL inserts the rows as workers would leave them; the product's own code folds the roll-ups.
"""

from __future__ import annotations

from typing import Optional

from sqlalchemy import text

from tests.bench.pool import ACTOR
from webapp.core.job_spec import JobSpec
from webapp.db.engines import writing
from webapp.db.models import Worker
from webapp.insight import rollups
from webapp.jobs.actions import enqueue
from webapp.lib import clock

QUEUES = ("default", "mail", "reports")
CAUSES = 13  # of dead letters: as many groups
PAST = 60 * clock.DAY

# Of each 50 jobs, by `i % 50`: of a thousand jobs each state fills a page of its list, as it does of a million.
_STATE = """CASE WHEN i % 50 < 3 THEN 'pending' WHEN i % 50 < 6 THEN 'scheduled' WHEN i % 50 < 9 THEN 'failed'
                 WHEN i % 50 < 14 THEN 'dead' WHEN i % 50 < 17 THEN 'cancelled' ELSE 'completed' END"""

# `at`: when the job came. What else goes round does so in steps that share no factor with 50: all meets all.
_JOBS = f"""
INSERT INTO jobs (id, command, queue, priority, state, run_at, created_at, created_by, changed_at, attempts, failures,
                  losses, lone_losses, started_at, finished_at, exit_code, last_error, error_key)
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :number),
     j AS (SELECT i, {_STATE} AS state, :now - :past + i * (:past / :number) AS at FROM n)
SELECT lower(hex(randomblob(8))) || i,
       CASE i % 3 WHEN 0 THEN 'python3 report.py --day ' || (i % 31)
                  WHEN 1 THEN 'rsync -a /srv/data/' || i || ' backup:'
                  ELSE 'mail-out --list ' || (i % 39) END,
       CASE i % 7 WHEN 0 THEN 'mail' WHEN 1 THEN 'reports' ELSE 'default' END,
       i % 3 - 1,
       state,
       CASE WHEN state IN ('scheduled', 'failed') THEN :now + i % 86400 * 1000000 + 60000000 ELSE at END,
       at, 'person:' || CASE i % 3 WHEN 0 THEN 'ana' ELSE 'bench' END, at + 2000000,
       CASE WHEN state IN ('pending', 'scheduled', 'cancelled') THEN 0 ELSE 1 END,
       CASE WHEN state IN ('failed', 'dead') THEN 1 ELSE 0 END, 0, 0,
       CASE WHEN state IN ('completed', 'failed', 'dead') THEN at + 500000 END,
       CASE WHEN state IN ('completed', 'dead', 'cancelled') THEN at + 2000000 END,
       CASE state WHEN 'completed' THEN 0 WHEN 'failed' THEN 1 WHEN 'dead' THEN 1 + i % {CAUSES} END,
       CASE WHEN state IN ('failed', 'dead') THEN 'exit code ' || (1 + i % {CAUSES}) END,
       CASE WHEN state IN ('failed', 'dead') THEN 'exit:' || (1 + i % {CAUSES}) END
FROM j
"""  # noqa: S608  every part is ours
_ATTEMPTS = """
INSERT INTO attempts (job_seq, number, state, reason, error, error_key, worker_id, started_at, finished_at, exit_code,
                      cpu_time, peak_memory, output, output_runs, output_dropped, due_at)
SELECT seq, 1, CASE state WHEN 'completed' THEN 'completed' ELSE 'failed' END, 'exit', last_error, error_key,
       'bench-' || seq % 4, started_at, started_at + 1500000, exit_code, 400000, 12000000,
       CAST('done with ' || seq || char(10) AS BLOB), length('done with ' || seq) + 1, 0, created_at
FROM jobs WHERE started_at IS NOT NULL
"""
_TAILS = "INSERT INTO output_tails (job_seq, text) SELECT seq, 'done with ' || seq FROM jobs WHERE state = 'dead'"


def fill(number: int) -> str:
    """Fill the context's database with this number of jobs; return the id of a completed one."""
    for queue in QUEUES:
        enqueue([JobSpec(command="true", queue=queue)], ACTOR)  # which makes the queue
    with writing() as session:
        session.execute(text(_JOBS), {"number": number, "now": clock.now() - clock.seconds(300), "past": PAST})
        session.execute(text(_ATTEMPTS))
        session.execute(text(_TAILS))
        session.add(_worker())
    while rollups.fold(longest=60):
        pass
    with writing() as session:
        newest = "SELECT id FROM jobs WHERE state = 'completed' ORDER BY seq DESC LIMIT 1"
        found: Optional[str] = session.scalar(text(newest))
    if found is None:
        raise ValueError(f"of {number} jobs none completed")
    return found


def _worker() -> Worker:
    now = clock.now()
    return Worker(id="bench-0", supervisor_id="bench", host="bench", pid=1, boot_id="bench", version="0", slots=1,
                  state="running", requested_state="run", started_at=now, heartbeat=1, seen_at=now,
                  jobs_completed=0, jobs_failed=0)  # fmt: skip
