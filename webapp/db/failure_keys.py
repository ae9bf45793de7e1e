"""Gives dead letters without a fingerprint one, so that they are in a group.

Versions before schema 0009 made such rows. The migration does it for the newest ones, the chores for the rest and for
what a process of such a version still adds.
"""

from __future__ import annotations

from sqlalchemy import Connection, text

from webapp.lib.error_key import error_key

# By the index of the groups. The last attempt may be gone: retention deletes those of a large job first.
_WITHOUT = """
SELECT jobs.seq, jobs.command, jobs.last_error, attempts.reason
FROM jobs LEFT JOIN attempts ON attempts.job_seq = jobs.seq AND attempts.number = jobs.attempts
WHERE jobs.state = 'dead' AND jobs.error_key IS NULL
ORDER BY jobs.finished_at DESC LIMIT :most
"""
_ASSIGN = "UPDATE jobs SET error_key = :key WHERE seq = :seq AND state = 'dead' AND error_key IS NULL"


def assign(connection: Connection, most: int) -> int:
    """Do it for the `most` newest in the connection's transaction. Returns their number."""
    rows = connection.execute(text(_WITHOUT), {"most": most}).all()
    keys = [
        {"seq": seq, "key": error_key(reason or "unknown", error or "", command)}
        for seq, command, error, reason in rows
    ]
    if keys:
        connection.execute(text(_ASSIGN), keys)
    return len(keys)
