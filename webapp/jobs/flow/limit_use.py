"""Who holds the keys of limits, and who waits for them. Reads only.

What runs is read from the table of jobs, as claims do. Waiting jobs are counted by lane: jobs with the same keys, queue
and labels.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from webapp.core.flow import limits
from webapp.core.flow.limits import OF_QUEUE, Key, Limit, Limits
from webapp.core.statements import WITH_LIMITED_LANES
from webapp.db.engines import is_sqlite
from webapp.db.label_sets import busy_label_sets
from webapp.db.models import Job
from webapp.db.models import Limit as LimitRow
from webapp.jobs.lifecycle import in_state
from webapp.jobs.queries import COUNT_CAP, Count, count, total
from webapp.lib import clock

KINDS = ("zero", "rate", "full", "exclusive", "behind")
MOST_SHOWN = 20  # holders of a key that are named
NONE = Count(0)
MOST_QUEUES = 200  # whose waiting jobs are counted
MOST_LANES = 500  # of waiting jobs that are read
LANE_CAP = 100  # waiting jobs that are counted in a lane
_LANES = text(
    WITH_LIMITED_LANES  # noqa: S608  every part is ours
    + """
SELECT found.limits, found.queue, found.requires, (SELECT count(*) FROM (SELECT 1 FROM jobs WHERE
    state = 'pending' AND limits <> '' AND limits = found.limits AND queue = found.queue AND requires = found.requires
    LIMIT :most) AS counted), head.seq, head.id, head.priority, head.run_at
FROM (SELECT seq, limits, queue, requires FROM found LIMIT :n) AS found JOIN jobs AS head ON head.seq = found.seq
"""
)
# The oldest of the last `rate` starts of each key: one more may happen when it has left the window.
_FIRST_STARTS = """
SELECT given.key, (SELECT started_at FROM limit_starts WHERE key = given.key
  AND number = 1 - CAST(CAST(given.value AS text) AS integer)
               + (SELECT max(number) FROM limit_starts WHERE key = given.key))
FROM {given} AS given
"""


class RunningJob(NamedTuple):
    """A running job that has keys."""

    id: str
    queue: str
    limits: str


class Lane(NamedTuple):
    """Waiting jobs with the same keys, queue and labels. `number` is counted up to LANE_CAP + 1; then the first job."""

    text: str
    queue: str
    requires: str
    number: int
    seq: int
    id: str
    priority: int
    run_at: int


@dataclass
class KeyUse:
    """A key with the jobs that hold it, first started first, and the number of jobs that wait for it."""

    key: str
    limit: Limit
    holders: list[RunningJob] = field(default_factory=list)
    waiting: Count = NONE
    opens_at: Optional[int] = None  # when its rate allows the next start, if that is later than now


@dataclass
class LimitView:
    """A limit with what it holds back. `keys`: of a pattern, how many of its keys are in use."""

    row: LimitRow
    keys: int = 0
    holders: list[RunningJob] = field(default_factory=list)
    waiting: Count = NONE
    opens_at: Optional[int] = None  # when its rate allows the next start; of a pattern, of the first key

    @property
    def queue(self) -> Optional[str]:
        """The queue that it limits, or a pattern for queues."""
        return self.row.key[len(OF_QUEUE) :] if self.row.key.startswith(OF_QUEUE) else None

    @property
    def rate(self) -> Optional[str]:
        return limits.rate_text(self.row.rate, self.row.per)

    def json(self) -> dict[str, Any]:
        row = self.row
        return {
            "key": row.key,
            "max": row.most,
            "rate": self.rate,
            "note": row.note,
            "running": len(self.holders),
            "holders": [job.id for job in self.holders[:MOST_SHOWN]],
            "waiting": self.waiting.number,
            "waiting_is_more": self.waiting.capped,
            "keys": self.keys,
            "opens_at": clock.to_iso(self.opens_at),
            "changed_at": clock.to_iso(row.changed_at),
            "changed_by": row.changed_by,
        }


@dataclass(frozen=True)
class Block:
    """Why a job's limits keep it from starting.

    `kind` is zero (the limit is 0), rate (`opens_at` says until when), full (`holders` hold all slots), exclusive
    (`holders` hold the key, and one of them or the job excludes others) or behind (an earlier job, `first`, waits for
    the key).
    """

    kind: str
    key: Key
    limit: Limit
    holders: Sequence[RunningJob] = ()
    opens_at: Optional[int] = None
    first: str = ""  # a job's id

    @property
    def name(self) -> str:
        """The key for display: 'customer-7', or 'queue mail'."""
        name = self.key.name
        return f"queue {name[len(OF_QUEUE) :]}" if name.startswith(OF_QUEUE) else name

    @property
    def text(self) -> str:
        """Why the job waits, as a clause: 'limit db is full (at most 2 at a time): job1, job2'."""
        name = self.name
        if self.kind == "zero":
            return f"limit {name} is 0, so none of its jobs start"
        if self.kind == "rate":
            return f"limit {name} allows {limits.describe(None, self.limit.rate, self.limit.per)}"
        if self.kind == "behind":
            return f"job {self.first} is ahead of it and waits for {name}"
        shown = ", ".join(job.id for job in self.holders[:3])
        more = f" and {len(self.holders) - 3} more" if len(self.holders) > 3 else ""
        if self.kind == "full":
            return f"limit {name} is full ({limits.describe(self.limit.most, None, None)}): {shown}{more}"
        if self.key.exclusive:
            return f"it needs {name} for itself, but {shown}{more} still use{'s' * (len(self.holders) == 1)} it"
        return f"{shown} has exclusive use of {name}"

    @property
    def short(self) -> str:
        """The same for a list: 'limit db full', 'limit mail 10/min'."""
        words = {"zero": "is 0", "rate": limits.rate_text(self.limit.rate, self.limit.per)}
        return f"limit {self.name} {words.get(self.kind, self.kind)}"

    def json(self) -> dict[str, Any]:
        return {
            "reason": self.kind,
            "key": self.key.name,
            "text": self.text,
            "holders": [job.id for job in self.holders[:MOST_SHOWN]],
            "opens_at": clock.to_iso(self.opens_at),
            "first": self.first or None,
        }


def read(session: Session) -> Limits:
    return Limits(session.execute(text(limits.READ)).tuples())


def waiting_lanes(session: Session) -> list[Lane]:
    """Lanes of waiting jobs that name keys. At most MOST_LANES."""
    return [Lane(*row) for row in session.execute(_LANES, {"after": "", "n": MOST_LANES, "most": LANE_CAP + 1})]


def uses(session: Session, known: Limits) -> dict[str, KeyUse]:
    """The keys that running or waiting jobs have."""
    found: dict[str, KeyUse] = {}

    def use(key: Key, limit: Limit) -> KeyUse:
        if key.name not in found:
            found[key.name] = KeyUse(key.name, limit)
        return found[key.name]

    for job in _running(session, known):
        for key, limit in known.keys_of(job.queue, job.limits):
            use(key, limit).holders.append(job)
    for lane in waiting_lanes(session):
        for key, limit in known.keys_of("", lane.text):
            one = use(key, limit)
            number = one.waiting.number + min(lane.number, LANE_CAP)
            one.waiting = Count(number, one.waiting.capped or lane.number > LANE_CAP)
    for name, opens_at in _rates_open_at(session, {name: one.limit for name, one in found.items()}).items():
        found[name].opens_at = opens_at
    return found


def views(session: Session, rows: Sequence[LimitRow]) -> list[LimitView]:
    """Limits with the jobs that hold their keys and those that wait. `rows`: some or all."""
    known = read(session)
    found = {row.key: LimitView(row) for row in rows}
    for use in uses(session, known).values():
        view = found.get(use.limit.key)
        if view is not None:
            view.keys += 1
            view.holders += use.holders
            view.waiting = total([view.waiting, use.waiting])
            if use.opens_at is not None:
                view.opens_at = min(use.opens_at, view.opens_at or use.opens_at)
    if any(row.key.startswith(OF_QUEUE) for row in rows):
        busy = {one.queue for one in busy_label_sets(session, limit=MOST_LANES)}
        for queue in sorted(busy)[:MOST_QUEUES]:
            limit = known.of_queue(queue)
            if limit is not None and limit.key in found:
                pending = count(session, in_state("pending"), Job.queue == queue)
                found[limit.key].waiting = total([found[limit.key].waiting, pending])
    return list(found.values())


def _rates_open_at(session: Session, keys: Mapping[str, Limit]) -> dict[str, int]:
    """When one more job with each of these keys may start. A key is left out if its rate allows that now."""
    rated = {name: limit for name, limit in keys.items() if limit.rate is not None}
    if not rated:
        return {}
    statement = _FIRST_STARTS.format(given="json_each(:rates)" if is_sqlite() else "json_each(CAST(:rates AS json))")
    rates = json.dumps({name: limit.rate for name, limit in rated.items()})
    found, now = {}, clock.now()
    for name, started_at in session.execute(text(statement), {"rates": rates}):
        # A start far in the future was stamped before the machine's clock was set back.
        if started_at is not None and now - (per := rated[name].per or 0) < started_at <= now + per:
            found[name] = started_at + per
    return found


def blocks(session: Session, jobs: Iterable[Job]) -> dict[int, Block]:
    """Why pending jobs may not start because of their limits, by sequence number; jobs that may start have none.

    Costs at most three statements for any number of jobs. It does not look for earlier jobs that wait for the same
    key, as `block` does.
    """
    pending = [job for job in jobs if job.state == "pending"]
    known = read(session) if pending else Limits()
    asked = {job.seq: keys for job in pending if (keys := known.keys_of(job.queue, job.limits))}
    if not asked:
        return {}
    held: dict[str, list[tuple[RunningJob, bool]]] = {}
    for job in _running(session, known):
        for key, _ in known.keys_of(job.queue, job.limits):
            held.setdefault(key.name, []).append((job, key.exclusive))
    opens = _rates_open_at(session, {key.name: limit for keys in asked.values() for key, limit in keys})
    found = {seq: _block(keys, held, opens) for seq, keys in asked.items()}
    return {seq: why for seq, why in found.items() if why is not None}


def block(session: Session, job: Job) -> Optional[Block]:
    """Why a pending job may not start because of its limits; also, which earlier job waits for one of its keys."""
    why = blocks(session, [job]).get(job.seq)
    if why is not None or not job.limits or job.state != "pending":
        return why
    mine = {key.name: (key, limit) for key, limit in read(session).keys_of(job.queue, job.limits)}
    ahead = [
        (-lane.priority, lane.run_at, lane.seq, lane.id, name)
        for lane in waiting_lanes(session)
        for name in (key.name for key in limits.split(lane.text))
        if name in mine and (-lane.priority, lane.run_at, lane.seq) < (-job.priority, job.run_at, job.seq)
    ]
    if not ahead:
        return None
    *_, first, name = min(ahead)
    return Block("behind", *mine[name], first=first)


def _block(
    keys: Sequence[tuple[Key, Limit]],
    held: dict[str, list[tuple[RunningJob, bool]]],
    opens: Mapping[str, int],
) -> Optional[Block]:
    """The first reason, in the order in which a claim looks."""
    for key, limit in keys:
        if limit.most == 0:
            return Block("zero", key, limit)
    for key, limit in keys:
        if key.name in opens:
            return Block("rate", key, limit, opens_at=opens[key.name])
    for key, limit in keys:
        holders = held.get(key.name, [])
        jobs = [job for job, _ in holders]
        if holders and (key.exclusive or any(exclusive for _, exclusive in holders)):
            return Block("exclusive", key, limit, jobs)
        if limit.most is not None and len(holders) >= limit.most:
            return Block("full", key, limit, jobs)
    return None


def _running(session: Session, known: Limits) -> list[RunningJob]:
    """Running jobs that have keys, first started first."""
    named = Job.limits != ""
    which = in_state("processing") if known.of_queues else in_state("processing") & named
    rows = select(Job.id, Job.queue, Job.limits).where(which).order_by(Job.started_at).limit(COUNT_CAP)
    return [RunningJob(*row) for row in session.execute(rows)]
