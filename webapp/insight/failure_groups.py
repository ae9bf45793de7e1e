"""Groups of dead letters: those that failed alike, how many and since when, and what people say of them.

A group is the jobs in state dead with one `error_key` (`worker/runner/failure_text.py` makes it). It is there while it has jobs;
what people said of it stays. It is open until somebody acknowledges it, and again as soon as one more dies of it.
Nothing here costs more because there are many dead letters: groups are found by skipping through an index.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from webapp.db.engines import writing
from webapp.db.models import Group, Job, User
from webapp.jobs.lifecycle import in_state, record
from webapp.jobs.operations import NotFound, insert_ignore
from webapp.jobs.queries import COUNT_CAP, Count
from webapp.lib import clock
from webapp.lib.text import can_be_stored

MOST_GROUPS = 500  # that a list sorts
LOOK = 5_000  # of the newest dead letters, whose groups are listed where there are more than that
COUNTED = 100_000  # index entries that one list counts at the most: with many groups, each up to fewer
HOUR = clock.seconds(3600)
DAY = 24 * HOUR
BARS = 50_000  # index entries that the hours of all groups shown are counted by, likewise
LONGEST_NOTE = 2_000  # characters
ORDERS = ("last", "count")

# Texts, because SQLAlchemy takes longer to put such statements together than the database to answer them. Their
# condition is not `in_state`'s, which leads SQLite to the index of all dead letters by time: 2.7 s for a million.

# MOST_GROUPS keys and one more, each found by a step of the index from the one before it.
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
_END = f"(SELECT finished_at {_OF_GROUP} ORDER BY finished_at {{way}}, seq {{way}} LIMIT 1)"
_COUNT = f"(SELECT count(*) FROM (SELECT 1 {_OF_GROUP} {{within}} LIMIT :cap) AS these)"  # noqa: S608 -- our own words
_SURVEY = """
WITH keys(error_key) AS (VALUES {keys})
SELECT error_key, {last}, {many}, (SELECT acknowledged_at FROM failure_groups WHERE key = keys.error_key) FROM keys
"""
_GROUPS = f"""
WITH keys(error_key) AS (VALUES {{keys}})
SELECT error_key, {{first}}, {{last}}, {{many}},
       (SELECT seq {_OF_GROUP} ORDER BY finished_at DESC, seq DESC LIMIT 1)
FROM keys
"""  # noqa: S608
_DEATHS = """
WITH keys(error_key) AS (VALUES {keys}), hours(start) AS (VALUES {hours})
SELECT error_key, start, {many} FROM keys CROSS JOIN hours
"""


class GroupError(ValueError):
    """A note or an owner that cannot be taken. `field` is 'note' or 'owner'."""

    def __init__(self, field: str, message: str) -> None:
        self.field = field
        super().__init__(message)


class Recurred(Exception):
    """The group has a newer death than the one that the caller has seen. The message says so."""


class Changed(Exception):
    """Note or owner were changed since the caller read them. The message says by whom."""


@dataclass(frozen=True)
class Deaths:
    """How many died in each hour since `since`, oldest first; what reaches `cap` is that or more."""

    since: int
    hours: tuple[int, ...]
    cap: int

    @property
    def total(self) -> Count:
        return Count(sum(self.hours), any(number >= self.cap for number in self.hours))


@dataclass(frozen=True)
class DeadGroup:
    """A group that has jobs now. `example` is the newest of them; `said` is what people have written down."""

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
        """Somebody had acknowledged it, and it went on."""
        return self.is_open and self.said is not None and self.said.acknowledged_at is not None


@dataclass(frozen=True)
class Listing:
    """One page of groups, open ones first.

    `number` of all pages, `open_ones` those of them that are open. `capped`: there are more than MOST_GROUPS; these are
    the groups of the newest LOOK dead letters.
    """

    groups: list[DeadGroup]
    number: int
    open_ones: int
    capped: bool
    page: int
    more: bool


def _is_open(acknowledged_at: Optional[int], last_at: int) -> bool:
    return acknowledged_at is None or acknowledged_at < last_at


# --- finding ---------------------------------------------------------------------------------------------------------


def listing(session: Session, *, by: str = "last", page: int = 1, size: int = 25) -> Listing:
    """Groups by their newest death, or by `count`; page 1 is the first."""
    seen, capped = _survey(session, counted=by == "count")
    seen.sort(key=lambda one: (not one.is_open, -one.count, -one.last_at, one.key))
    start = (page - 1) * size
    keys = [one.key for one in seen[start : start + size]]
    open_ones = sum(one.is_open for one in seen)
    return Listing(_groups(session, keys), len(seen), open_ones, capped, page, len(seen) > start + size)


def find(session: Session, key: str) -> Optional[DeadGroup]:
    """One group; None where it has no dead letters, by now or ever."""
    found = _groups(session, [key])
    return found[0] if found else None


def said_of(session: Session, key: str) -> Optional[Group]:
    """What people have written down of a group, whether or not it has dead letters now."""
    return session.get(Group, key)


@dataclass(frozen=True)
class _Seen:
    key: str
    last_at: int
    count: int
    is_open: bool


def _survey(session: Session, *, counted: bool) -> tuple[list[_Seen], bool]:
    """What sorts the groups, `count` 0 where nobody needs it; and whether there are more than these."""
    keys = session.scalars(text(_FIRST_KEYS), {"most": MOST_GROUPS}).all()
    capped = len(keys) > MOST_GROUPS
    if capped:
        keys = session.scalars(text(_NEWEST_KEYS), {"look": LOOK, "most": MOST_GROUPS}).all()
    if not keys:
        return [], False
    some, parameters = _listed("k", keys)
    many = _COUNT.format(within="") if counted else "0"
    statement = text(_SURVEY.format(keys=some, last=_END.format(way="DESC"), many=many))
    if counted:
        parameters["cap"] = min(COUNTED // len(keys), COUNT_CAP)
    rows = session.execute(statement, parameters).tuples()
    return [_Seen(key, at, number, _is_open(known, at)) for key, at, number, known in rows if at is not None], capped


def _groups(session: Session, keys: Sequence[str]) -> list[DeadGroup]:
    """The groups of these keys that have jobs, in this order."""
    if not keys:
        return []
    some, parameters = _listed("k", keys)
    cap = min(COUNTED // len(keys), COUNT_CAP)
    statement = text(
        _GROUPS.format(
            keys=some, first=_END.format(way="ASC"), last=_END.format(way="DESC"), many=_COUNT.format(within="")
        )
    )
    rows = {row[0]: row for row in session.execute(statement, {**parameters, "cap": cap + 1})}
    jobs = {job.seq: job for job in session.scalars(select(Job).where(Job.seq.in_(row[4] for row in rows.values())))}
    said = {one.key: one for one in session.scalars(select(Group).where(Group.key.in_(keys)))}
    there = [key for key in keys if rows[key][4] in jobs]
    deaths = _deaths(session, {key: rows[key][2] for key in there})
    return [
        DeadGroup(
            key,
            Count(min(rows[key][3], cap), rows[key][3] > cap),
            rows[key][1],
            rows[key][2],
            jobs[rows[key][4]],
            deaths[key],
            said.get(key),
        )
        for key in there
    ]


def _deaths(session: Session, last_at: dict[str, int]) -> dict[str, Deaths]:
    """By full hours, the last of which is the one that runs: nothing moves from one minute to the next."""
    since = clock.now() // HOUR * HOUR + HOUR - DAY
    lately = [key for key, at in last_at.items() if at >= since]
    cap = min(max(BARS // (24 * max(len(lately), 1)), 50), 500)
    counts = {key: [0] * 24 for key in last_at}
    if lately:
        some, parameters = _listed("k", lately)
        hours, starts = _listed("h", range(since, since + DAY, HOUR))
        many = _COUNT.format(within="AND finished_at >= hours.start AND finished_at < hours.start + :hour")
        statement = text(_DEATHS.format(keys=some, hours=hours, many=many))
        for key, start, number in session.execute(statement, {**parameters, **starts, "cap": cap, "hour": HOUR}):
            counts[key][(start - since) // HOUR] = number
    return {key: Deaths(since, tuple(numbers), cap) for key, numbers in counts.items()}


def _listed(name: str, values: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """Rows of a VALUES, and their parameters."""
    parameters = {f"{name}{number}": value for number, value in enumerate(values)}
    return ", ".join(f"(:{one})" for one in parameters), parameters


# --- what people say of a group --------------------------------------------------------------------------------------


def fingerprint(said: Optional[Group]) -> str:
    """The version of note and owner: what a form and a program send along, so that they overwrite nothing unseen."""
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

    What is None stays as it is, '' clears it. `seen` is the `fingerprint` of note and owner that the caller was shown,
    `seen_death` the time of the newest death. Raises NotFound, with `only_with_jobs` for an empty group too;
    GroupError, Changed and Recurred. Then nothing is stored.
    """
    note = None if note is None else _checked_note(note)
    with writing() as session:
        said, last_at = _written(session, key), _last_death(session, key)
        if last_at is None and only_with_jobs:
            raise NotFound(f"dead letter group {key[:64]!r} does not exist. It may be empty by now.")
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
        raise Changed(f"{said.changed_by.partition(':')[2]} has changed it")
    change = {"before": _told(said)}
    said.note, said.owner = new
    change["after"] = _told(said)
    _stamp(session, said, "describe", actor, change)
    return True


def _acknowledge(session: Session, said: Group, actor: str, last_at: Optional[int], seen: Optional[int]) -> bool:
    """Until one more dies of it. False: it was so already."""
    if last_at is None:
        raise NotFound("this group has no dead letters any more, so there is nothing to acknowledge.")
    if seen is not None and seen < last_at:
        raise Recurred("One more has died of it in the meantime. Look at it first.")
    if not _is_open(said.acknowledged_at, last_at):
        return False
    # The time of the death, not of now: one that is being written right now shall open it again.
    said.acknowledged_at, said.acknowledged_by = last_at, actor
    _stamp(session, said, "acknowledge", actor, {"after": {"last_death": clock.to_iso(last_at)}})
    return True


def _reopen(session: Session, said: Group, actor: str, last_at: Optional[int]) -> bool:
    """False: no acknowledgement holds."""
    if said.acknowledged_at is None or (last_at is not None and said.acknowledged_at < last_at):
        return False
    change = {"before": {"acknowledged_by": said.acknowledged_by}}
    said.acknowledged_at = said.acknowledged_by = None
    _stamp(session, said, "reopen", actor, change)
    return True


def _written(session: Session, key: str) -> Group:
    """The row of a group, new where nobody has said anything yet, locked. Raises NotFound for a key that is none."""
    said = session.get(Group, key, with_for_update=True)
    if said is not None:
        return said
    if _last_death(session, key) is None:
        raise NotFound(f"dead letter group {key[:64]!r} does not exist.")
    row = {"key": key, "note": "", "changed_at": clock.now(), "changed_by": ""}
    session.execute(insert_ignore(session, Group), [row])  # somebody else may write the first word at the same time
    return session.get_one(Group, key, with_for_update=True)


def _last_death(session: Session, key: str) -> Optional[int]:
    statement = select(Job.finished_at).where(in_state("dead"), Job.error_key == key)
    return session.scalar(statement.order_by(Job.finished_at.desc(), Job.seq.desc()).limit(1))


def _stamp(session: Session, said: Group, verb: str, actor: str, change: dict[str, Any]) -> None:
    said.changed_at, said.changed_by = clock.now(), actor
    detail = change.get("after") if verb == "describe" else None
    record(session, verb, [("group:" + said.key, None)], actor, detail, changes=[change])


def _told(said: Group) -> dict[str, Any]:
    return {"note": said.note, "owner": said.owner}


def _checked_note(note: str) -> str:
    note = note.replace("\r\n", "\n").strip()
    if len(note) > LONGEST_NOTE:
        raise GroupError("note", f"has {len(note):,} characters; at most {LONGEST_NOTE:,} are allowed.")
    if not can_be_stored(note):
        raise GroupError("note", "contains an invalid character.")
    return note


def _check_owner(session: Session, name: str, said: Group) -> None:
    """Somebody who can log in; who owned it already may stay, even if they cannot any more."""
    if not name or name == said.owner:
        return
    user = session.scalar(select(User).where(User.name == name, User.disabled_at.is_(None)))
    if user is None:
        raise GroupError("owner", f"{name[:64]!r} is not an active user. Expected a user name.")
