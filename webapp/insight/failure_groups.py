"""Dead-letter groups: jobs with the same cause, their number and times, notes and owners.

A group is the dead jobs with one `error_key` (`webapp/lib/error_key.py`), whatever their commands. Its row stays when
it has no more jobs: note, owner and history (`jobs/group_history.py`). It is open until a user acknowledges it, and
again when another job dies with the same key. Queries skip through an index, so their cost does not depend on the
number of dead letters.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session

from webapp.db.engines import writing
from webapp.db.models import Group, Job, User
from webapp.jobs.lifecycle import Conflict, NotFound, in_state, record
from webapp.jobs.queries import COUNT_CAP, Count
from webapp.lib import clock
from webapp.lib.text import can_be_stored

MAX_GROUPS = 500  # in one sorted list
NEWEST_JOBS = 5_000  # with more groups than that, the list has the groups of this many newest dead letters
COUNT_BUDGET = 100_000  # index entries that one list counts, shared by its groups
HOURS_BUDGET = 50_000  # index entries for the deaths per hour, shared by the groups of a page
MAX_NOTE_LENGTH = 2_000  # characters
ORDERS = ("last", "count")

# SQL texts, because SQLAlchemy needs longer to build these statements than the database to answer them. The condition
# is not `in_state`, with which SQLite uses the index of all dead letters by time: 2.7 s for a million.

# MAX_GROUPS keys and one more, each found by one index step from the key before.
_FIRST_KEYS = """
WITH RECURSIVE keys(error_key, number) AS (
    SELECT (SELECT error_key FROM jobs WHERE state = 'dead' AND error_key IS NOT NULL ORDER BY error_key LIMIT 1), 1
    UNION ALL
    SELECT (SELECT error_key FROM jobs WHERE state = 'dead' AND error_key > keys.error_key ORDER BY error_key LIMIT 1),
           number + 1
    FROM keys WHERE error_key IS NOT NULL AND number <= :most
)
SELECT error_key FROM keys WHERE error_key IS NOT NULL
"""
_NEWEST_KEYS = """
SELECT error_key FROM (
    SELECT error_key, finished_at FROM jobs WHERE state = 'dead' AND finished_at IS NOT NULL
    ORDER BY finished_at DESC, seq DESC LIMIT :look
) AS newest
WHERE error_key IS NOT NULL GROUP BY error_key ORDER BY max(finished_at) DESC LIMIT :most
"""
_OF_GROUP = "FROM jobs WHERE state = 'dead' AND error_key = keys.error_key"
_FIRST = f"(SELECT finished_at {_OF_GROUP} ORDER BY finished_at, seq LIMIT 1)"
_LAST = f"(SELECT finished_at {_OF_GROUP} ORDER BY finished_at DESC, seq DESC LIMIT 1)"
_NUMBER = f"(SELECT count(*) FROM (SELECT 1 {_OF_GROUP} LIMIT :cap) AS these)"  # noqa: S608 -- no part comes from a user
_SURVEY = f"""
WITH keys(error_key) AS (VALUES {{keys}})
SELECT error_key AS key, {_LAST} AS last_at, {{number}} AS number,
       (SELECT acknowledged_at FROM failure_groups WHERE key = keys.error_key) AS acknowledged_at
FROM keys
"""  # noqa: S608
_GROUPS = f"""
WITH keys(error_key) AS (VALUES {{keys}})
SELECT error_key AS key, {_FIRST} AS first_at, {_LAST} AS last_at, {_NUMBER} AS number,
       (SELECT seq {_OF_GROUP} ORDER BY finished_at DESC, seq DESC LIMIT 1) AS newest
FROM keys
"""  # noqa: S608
_DEATHS = f"""
WITH keys(error_key) AS (VALUES {{keys}}), hours(start) AS (VALUES {{hours}})
SELECT error_key, start, (SELECT count(*) FROM (
    SELECT 1 {_OF_GROUP} AND finished_at >= hours.start AND finished_at < hours.start + :hour LIMIT :cap
) AS these)
FROM keys CROSS JOIN hours
"""  # noqa: S608
# Those that the roll-ups have read, and later ones.
_ALL_DEATHS = f"""
WITH keys(error_key, since) AS (SELECT CAST(:key AS TEXT), (SELECT folded_until FROM control))
SELECT (SELECT deaths FROM failure_groups WHERE key = keys.error_key),
       (SELECT count(*) FROM (SELECT 1 {_OF_GROUP} AND finished_at >= keys.since LIMIT :cap) AS later)
FROM keys
"""  # noqa: S608
# DO NOTHING: another user may create the row at the same time.
_INSERT_ROW = """
INSERT INTO failure_groups (key, note, changed_at, changed_by) VALUES (:key, '', :now, '') ON CONFLICT (key) DO NOTHING
"""


class GroupError(ValueError):
    """An invalid note or owner. `field` is 'note' or 'owner'."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Recurred(Conflict):
    """Another job died after the death that the caller has seen."""


class Changed(Exception):
    """Another user changed note or owner after the caller read them; the message names the user."""


@dataclass(frozen=True)
class Deaths:
    """Deaths per hour since `since`, oldest first; `cap` means that many or more."""

    since: int
    hours: tuple[int, ...]
    cap: int

    @property
    def total(self) -> Count:
        return Count(sum(self.hours), any(number >= self.cap for number in self.hours))


@dataclass(frozen=True)
class DeadGroup:
    """A group that has jobs. `example` is the newest job; `said` is the row with note, owner and acknowledgement.

    `first_at`: the first death of the group, also of a job that was requeued since.
    """

    key: str
    count: Count
    first_at: int
    last_at: int
    example: Job
    deaths: Deaths
    said: Optional[Group]

    @property
    def is_open(self) -> bool:
        return _is_open(self.said.acknowledged_at if self.said else None, self.last_at)

    @property
    def recurred(self) -> bool:
        """It was acknowledged, and another job died since."""
        return self.is_open and self.said is not None and self.said.acknowledged_at is not None


@dataclass(frozen=True)
class Listing:
    """One page of groups, open ones first."""

    groups: list[DeadGroup]
    number: int  # of groups on all pages
    open_ones: int  # of them
    capped: bool  # there are more than MAX_GROUPS: only the groups of the NEWEST_JOBS newest dead letters are counted
    page: int
    more: bool


def _is_open(acknowledged_at: Optional[int], last_at: int) -> bool:
    return acknowledged_at is None or acknowledged_at < last_at


# --- finding ---------------------------------------------------------------------------------------------------------


def listing(session: Session, *, by: str = "last", page: int = 1, size: int = 25) -> Listing:
    """Groups by their last death or by `count`; page 1 is the first."""
    seen, capped = _survey(session, counted=by == "count")
    open_keys = {one.key for one in seen if _is_open(one.acknowledged_at, one.last_at)}
    seen.sort(key=lambda one: (one.key not in open_keys, -one.number, -one.last_at, one.key))
    start = (page - 1) * size
    groups = _groups(session, [one.key for one in seen[start : start + size]])
    return Listing(groups, len(seen), len(open_keys), capped, page, len(seen) > start + size)


def find(session: Session, key: str) -> Optional[DeadGroup]:
    """One group; None if it has no dead letters."""
    found = _groups(session, [key])
    return found[0] if found else None


def _survey(session: Session, *, counted: bool) -> tuple[list[Row[Any]], bool]:
    """The sort values of the groups (`number` of jobs 0 unless counted), and whether there are more groups."""
    keys = session.scalars(text(_FIRST_KEYS), {"most": MAX_GROUPS}).all()
    capped = len(keys) > MAX_GROUPS
    if capped:
        keys = session.scalars(text(_NEWEST_KEYS), {"look": NEWEST_JOBS, "most": MAX_GROUPS}).all()
    if not keys:
        return [], False
    some, parameters = _listed("k", keys)
    statement = text(_SURVEY.format(keys=some, number=_NUMBER if counted else "0"))
    if counted:
        parameters["cap"] = min(COUNT_BUDGET // len(keys), COUNT_CAP)
    return [row for row in session.execute(statement, parameters) if row.last_at is not None], capped


def _groups(session: Session, keys: Sequence[str]) -> list[DeadGroup]:
    """The groups with these keys that have jobs, in this order."""
    if not keys:
        return []
    some, parameters = _listed("k", keys)
    cap = min(COUNT_BUDGET // len(keys), COUNT_CAP)
    statement = text(_GROUPS.format(keys=some))
    rows = {row.key: row for row in session.execute(statement, {**parameters, "cap": cap + 1})}
    jobs = {
        job.seq: job for job in session.scalars(select(Job).where(Job.seq.in_(row.newest for row in rows.values())))
    }
    said = {one.key: one for one in session.scalars(select(Group).where(Group.key.in_(keys)))}
    there = [rows[key] for key in keys if rows[key].newest in jobs]
    deaths = _deaths(session, {row.key: row.last_at for row in there})
    groups = []
    for row in there:
        count = Count(min(row.number, cap), row.number > cap)
        one = said.get(row.key)
        first_at = min(row.first_at, one.first_at) if one is not None and one.first_at is not None else row.first_at
        groups.append(DeadGroup(row.key, count, first_at, row.last_at, jobs[row.newest], deaths[row.key], one))
    return groups


def current_key(session: Session, key: str) -> str:
    """The key of a group now, for a key that an earlier version may have given it."""
    return session.scalar(select(Group.merged_into).where(Group.key == key[:128])) or key


def check_current(session: Session, key: Optional[str]) -> None:
    """Raises NotFound for a key of an earlier version: to act on its jobs would also act on those of other commands."""
    now = current_key(session, key) if key and can_be_stored(key) else key
    if key is not None and now != key:
        raise NotFound(f"dead letter group {key!r} is a part of group {now!r} now, which may have more commands.")


def count_deaths(session: Session, key: str) -> Count:
    """All deaths of a group: those that the roll-ups have read, and later ones of jobs that are still dead."""
    read, later = session.execute(text(_ALL_DEATHS), {"key": key, "cap": COUNT_CAP + 1}).one()
    return Count((read or 0) + min(later, COUNT_CAP), later > COUNT_CAP)


def _deaths(session: Session, last_at: dict[str, int]) -> dict[str, Deaths]:
    """Deaths by full hours up to the current one, so that the hours do not shift every minute."""
    since = clock.now() // clock.HOUR * clock.HOUR + clock.HOUR - clock.DAY
    lately = [key for key, at in last_at.items() if at >= since]
    cap = min(max(HOURS_BUDGET // (24 * max(len(lately), 1)), 50), 500)
    counts = {key: [0] * 24 for key in last_at}
    if lately:
        some, parameters = _listed("k", lately)
        hours, starts = _listed("h", range(since, since + clock.DAY, clock.HOUR))
        statement = text(_DEATHS.format(keys=some, hours=hours))
        for key, start, number in session.execute(statement, {**parameters, **starts, "cap": cap, "hour": clock.HOUR}):
            counts[key][(start - since) // clock.HOUR] = number
    return {key: Deaths(since, tuple(numbers), cap) for key, numbers in counts.items()}


def _listed(name: str, values: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """The rows for VALUES and their parameters."""
    parameters = {f"{name}{number}": value for number, value in enumerate(values)}
    return ", ".join(f"(:{one})" for one in parameters), parameters


# --- note, owner, acknowledgement ------------------------------------------------------------------------------------


def fingerprint(said: Optional[Group]) -> str:
    """The version of note and owner. Forms and programs send it back, so that they overwrite no unseen change."""
    words = "\0".join((said.note, said.owner or "")) if said else "\0"
    return hashlib.blake2b(words.encode(errors="replace"), digest_size=8).hexdigest()


def update(
    key: str,
    actor: str,
    *,
    note: Optional[str] = None,
    owner: Optional[str] = None,
    acknowledged: Optional[bool] = None,
    seen: Optional[str] = None,
    seen_death: Optional[int] = None,
    only_with_jobs: bool = False,
) -> bool:
    """Set a group's note and owner, acknowledge or reopen it, in one transaction. False: nothing changed.

    None changes nothing, '' clears. `seen` is the `fingerprint` of note and owner that the caller has seen,
    `seen_death` the time of the last death. Raises NotFound (with `only_with_jobs` also for an empty group),
    GroupError, Changed and Recurred; then nothing is stored.
    """
    note = None if note is None else _checked_note(note)
    with writing() as session:
        key = current_key(session, key)
        said, last_at = session.get(Group, key, with_for_update=True), _last_death(session, key)
        if last_at is None and (said is None or only_with_jobs):
            why = "" if said is None else " It may be empty by now."
            raise NotFound(f"dead letter group {key[:64]!r} does not exist.{why}")
        if said is None:
            session.execute(text(_INSERT_ROW), {"key": key, "now": clock.now()})
            said = session.get_one(Group, key, with_for_update=True)
        changed = _describe(session, said, actor, note, owner, seen)
        if acknowledged is None:
            return changed
        if acknowledged:
            return _acknowledge(session, said, actor, last_at, seen_death) or changed
        return _reopen(session, said, actor, last_at) or changed


def _describe(
    session: Session, said: Group, actor: str, note: Optional[str], owner: Optional[str], seen: Optional[str]
) -> bool:
    if owner is not None:
        owner = owner.strip()
        _check_owner(session, owner, said)
    new = (said.note if note is None else note, said.owner if owner is None else owner or None)
    if new == (said.note, said.owner):
        return False
    if seen is not None and seen != fingerprint(said):
        raise Changed(f"{said.changed_by.partition(':')[2] or 'another user'} has changed it")
    change = {"before": {"note": said.note, "owner": said.owner}, "after": {"note": new[0], "owner": new[1]}}
    said.note, said.owner = new
    _stamp(session, said, "describe", actor, change)
    return True


def _acknowledge(session: Session, said: Group, actor: str, last_at: Optional[int], seen: Optional[int]) -> bool:
    """Until another job dies. False: it was acknowledged already."""
    if last_at is None:
        raise NotFound("this group has no dead letters left, so there is nothing to acknowledge.")
    if seen is not None and seen < last_at:
        raise Recurred("This group has a new dead letter. Review it first.")
    if not _is_open(said.acknowledged_at, last_at):
        return False
    # The time of the last death, not of now: a death that commits at this moment reopens the group.
    said.acknowledged_at, said.acknowledged_by = last_at, actor
    _stamp(session, said, "acknowledge", actor, {"after": {"last_death": clock.to_iso(last_at)}})
    return True


def _reopen(session: Session, said: Group, actor: str, last_at: Optional[int]) -> bool:
    """False: it was open already."""
    if said.acknowledged_at is None or (last_at is not None and said.acknowledged_at < last_at):
        return False
    change = {"before": {"acknowledged_by": said.acknowledged_by}}
    said.acknowledged_at = said.acknowledged_by = None
    _stamp(session, said, "reopen", actor, change)
    return True


def _last_death(session: Session, key: str) -> Optional[int]:
    statement = select(Job.finished_at).where(in_state("dead"), Job.error_key == key)
    return session.scalar(statement.order_by(Job.finished_at.desc(), Job.seq.desc()).limit(1))


def _stamp(session: Session, said: Group, verb: str, actor: str, change: dict[str, Any]) -> None:
    said.changed_at, said.changed_by = clock.now(), actor
    detail = change.get("after") if verb == "describe" else None
    record(session, verb, [("group:" + said.key, None)], actor, detail, changes=[change])


def _checked_note(note: str) -> str:
    note = note.replace("\r\n", "\n").strip()
    if len(note) > MAX_NOTE_LENGTH:
        raise GroupError("note", f"has {len(note):,} characters; at most {MAX_NOTE_LENGTH:,} are allowed.")
    if not can_be_stored(note):
        raise GroupError("note", "contains an invalid character.")
    return note


def _check_owner(session: Session, name: str, said: Group) -> None:
    """An active user, or the present owner, even if disabled by now."""
    if not name or name == said.owner:
        return
    user = session.scalar(select(User).where(User.name == name, User.disabled_at.is_(None)))
    if user is None:
        raise GroupError("owner", f"{name[:64]!r} is not an active user. Expected a user name.")
