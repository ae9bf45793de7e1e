"""Gives dead letters without a fingerprint one, and those with a fingerprint of an earlier version a new one.

Before schema 0013 the fingerprint contained the command, so one cause lay in many groups. Before 0009 some dead letters
had none. The migration changes some dead letters, the chores the rest, and what a process of such a version still adds.

What people said about an old group, its alerts and its history move to the group of which it is a part now. The row of
the old group stays and names that group, for links in old messages.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any, Optional

from sqlalchemy import Connection, text

from webapp.lib import clock
from webapp.lib.error_key import IS_OLD, error_key, old_error_keys

FIRST = 5000  # dead letters that the migration changes; the write lock is held meanwhile
GROUPS = 50  # of earlier versions that one call reads

_READ = "SELECT seq, command, coalesce(last_error, ''), finished_at FROM jobs"
_WITHOUT = f"{_READ} WHERE state = 'dead' AND error_key IS NULL ORDER BY finished_at DESC LIMIT :most"
_NEXT_OLD = f"""
SELECT error_key FROM jobs WHERE state = 'dead' AND {IS_OLD} AND error_key > :after ORDER BY error_key LIMIT 1
"""  # noqa: S608
_OF_OLD = f"{_READ} WHERE state = 'dead' AND error_key = :key ORDER BY finished_at DESC LIMIT :most"
_ASSIGN = """
UPDATE jobs SET error_key = :key WHERE seq = :seq AND state = 'dead' AND (error_key IS NULL OR error_key = :old)
"""
_BUSY = "SELECT filter FROM acts WHERE state IN ('waiting', 'running')"
_UNTIL = "SELECT folded_until FROM control"
# The deaths of a group. Also used by `jobs/group_history.py` and the roll-ups.
ADD_DEATHS = """
INSERT INTO failure_groups (key, note, changed_at, changed_by, first_at, last_at, deaths, error)
VALUES (:key, '', :now, '', :first_at, :last_at, :deaths, :error)
ON CONFLICT (key) DO UPDATE SET
    first_at = CASE WHEN failure_groups.first_at < excluded.first_at THEN failure_groups.first_at
                    ELSE excluded.first_at END,
    error = CASE WHEN failure_groups.last_at > excluded.last_at THEN failure_groups.error ELSE excluded.error END,
    last_at = CASE WHEN failure_groups.last_at > excluded.last_at THEN failure_groups.last_at
                   ELSE excluded.last_at END,
    deaths = failure_groups.deaths + excluded.deaths
"""
_SAID = """
SELECT note, owner, acknowledged_at, acknowledged_by, changed_at, changed_by, merged_into FROM failure_groups
WHERE key = :key
"""
_SAY = """
INSERT INTO failure_groups (key, note, owner, acknowledged_at, acknowledged_by, changed_at, changed_by)
VALUES (:key, :note, :owner, :acknowledged_at, :acknowledged_by, :changed_at, :changed_by)
ON CONFLICT (key) DO UPDATE SET note = excluded.note, owner = excluded.owner,
    acknowledged_at = excluded.acknowledged_at, acknowledged_by = excluded.acknowledged_by,
    changed_at = excluded.changed_at, changed_by = excluded.changed_by
"""
_MERGED = """
INSERT INTO failure_groups (key, note, changed_at, changed_by, last_at, merged_into)
VALUES (:key, '', :now, '', :now, :new)
ON CONFLICT (key) DO UPDATE SET note = '', owner = NULL, acknowledged_at = NULL, acknowledged_by = NULL,
                                last_at = excluded.last_at, merged_into = excluded.merged_into
"""
_RULES = "rule_id IN (SELECT id FROM notification_rules)"  # for the index
# A rule has one open alert about a group. The closing time of a merged one does not count for flapping.
_MOVE = (
    f"""
UPDATE alerts SET closed_at = opened_at, next_at = NULL
WHERE {_RULES} AND key = :old AND closed_at IS NULL
  AND EXISTS (SELECT 1 FROM alerts AS other
              WHERE other.rule_id = alerts.rule_id AND other.key = :new AND other.closed_at IS NULL)
""",  # noqa: S608
    f"UPDATE alerts SET key = :new WHERE {_RULES} AND key = :old",  # noqa: S608
    "UPDATE notices SET subject = :new WHERE taken_at IS NULL AND subject = :old",
    "UPDATE events SET subject = :new WHERE subject = :old",
)
_OLD_ALERTS = """
SELECT DISTINCT substr(alerts.key, 7), attempts.error, jobs.command
FROM alerts JOIN jobs ON jobs.seq = alerts.job_seq
JOIN attempts ON attempts.job_seq = jobs.seq AND attempts.error_key = substr(alerts.key, 7)
WHERE alerts.key LIKE 'group:%' AND length(alerts.key) = 22 AND attempts.error IS NOT NULL
"""
_KNOWN_OLD = "SELECT key FROM failure_groups WHERE merged_into IS NULL AND key IN ({keys})"


def assign(connection: Connection, most: int) -> int:
    """Do it for at most `most` dead letters in the connection's transaction. Returns their number.

    A group that an unfinished action names is left for later, because its jobs must stay the same.
    """
    rows = connection.execute(text(_WITHOUT), {"most": most}).all()
    if rows:
        _change(connection, None, rows)
        return len(rows)
    done, busy = 0, {json.loads(row[0]).get("group") for row in connection.execute(text(_BUSY))}
    old = connection.scalar(text(_NEXT_OLD), {"after": ""})
    for _ in range(GROUPS):
        if old is None or done == most:
            break
        if old not in busy:
            rows = connection.execute(text(_OF_OLD), {"key": old, "most": most - done}).all()
            _change(connection, old, rows)
            done += len(rows)
        old = connection.scalar(text(_NEXT_OLD), {"after": old})
    return done


def _change(connection: Connection, old: Optional[str], rows: Sequence[Any]) -> None:
    keys = [error_key(error, command) for _, command, error, _ in rows]
    if old is not None:
        adopt(connection, old, keys[0])
    connection.execute(text(_ASSIGN), [{"seq": row[0], "key": key, "old": old} for row, key in zip(rows, keys)])
    _add_deaths(connection, rows, keys)


def _add_deaths(connection: Connection, rows: Sequence[Any], keys: Sequence[str]) -> None:
    """Begin the history of these groups. The roll-ups add the deaths that they have not read yet."""
    until, now = connection.scalar(text(_UNTIL)) or 0, clock.now()
    found: dict[str, dict[str, Any]] = {}
    for (_, _, error, at), key in zip(rows, keys):  # newest first
        one = found.setdefault(key, {"key": key, "now": now, "last_at": at, "error": error, "deaths": 0})
        one["first_at"] = at
        one["deaths"] += at < until
    connection.execute(text(ADD_DEATHS), [found[key] for key in sorted(found)])


def upgrade(connection: Connection) -> None:
    """What the migration does of it: alerts, and the first dead letters."""
    _adopt_alerts(connection)
    left = FIRST
    while left > 0 and (done := assign(connection, min(left, 500))):
        left -= done


def _adopt_alerts(connection: Connection) -> None:
    """Move the alerts about groups of earlier versions, so that their groups are not told as new ones."""
    for old, error, command in connection.execute(text(_OLD_ALERTS)).all():
        adopt(connection, old, error_key(error, command))


def adopt_known(connection: Connection, deaths: Iterable[tuple[str, str, str]]) -> None:
    """For deaths (key, error, command): move what people said about the groups that these had in earlier versions."""
    new = {old: key for key, error, command in deaths for old in old_error_keys(error, command)}
    olds = sorted(new)
    if olds:
        listed = ", ".join(f":k{number}" for number in range(len(olds)))
        values = {f"k{number}": old for number, old in enumerate(olds)}
        for old in connection.scalars(text(_KNOWN_OLD.format(keys=listed)), values).all():
            adopt(connection, old, new[old])


def adopt(connection: Connection, old: str, new: str) -> None:
    """Make the group `old` a part of the group `new`, with note, owner, acknowledgement, alerts and events."""
    before = connection.execute(text(_SAID), {"key": old}).one_or_none()
    if before is not None and before.merged_into is not None:
        return
    now, target = clock.now(), connection.execute(text(_SAID), {"key": new}).one_or_none()
    if before is not None and target is None:
        connection.execute(text(_SAY), {**before._mapping, "key": new})
    elif target is not None:
        connection.execute(text(_SAY), {"key": new, **_both(target, before)})
    connection.execute(text(_MERGED), {"key": old, "new": new, "now": now})
    for statement in _MOVE:
        connection.execute(text(statement), {"old": f"group:{old}", "new": f"group:{new}", "now": now})


def _both(one: Any, other: Optional[Any]) -> dict[str, Any]:
    """What was said about two groups. The whole is acknowledged if both are."""
    said = dict(one._mapping)
    acknowledged = None if other is None else other.acknowledged_at
    if said["acknowledged_at"] is None or acknowledged is None:
        said["acknowledged_at"] = said["acknowledged_by"] = None
    else:
        said["acknowledged_at"] = max(said["acknowledged_at"], acknowledged)
    if other is None:
        return said
    notes = [said["note"]] + ([other.note] if other.note not in said["note"] else [])
    if other.owner not in (None, said["owner"]):
        notes += [f"Owner of a part of this group: {other.owner}"] if said["owner"] else []
        said["owner"] = said["owner"] or other.owner
    said["note"] = "\n\n".join(note for note in notes if note)
    if (other.changed_by and other.changed_at >= said["changed_at"]) or not said["changed_by"]:
        said.update(changed_at=other.changed_at, changed_by=other.changed_by)
    return said
