"""Who holds the keys of limits, and who waits for them. Reads only.

What runs is read from the table of jobs, as claims do. Waiting jobs are counted by lane: jobs with the same keys, queue
and labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Optional

from sqlalchemy import select, text
from sqlalchemy.orm import Session, defer

from webapp.core.flow import limits
from webapp.core.flow.limits import OF_QUEUE, Key, Limit, Limits
from webapp.core.statements import STARTS, WITH_LIMITED_LANES
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
    holders: list[Job] = field(default_factory=list)
    waiting: Count = NONE
    opens_at: Optional[int] = None  # when its rate allows the next start, if that is later than now


@dataclass
class LimitView:
    """A limit with what it holds back. `keys`: of a pattern, how many of its keys are in use."""

    row: LimitRow
    keys: int = 0
    holders: list[Job] = field(default_factory=list)
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
    holders: Sequence[Job] = ()
    opens_at: Optional[int] = None
    first: str = ""  # a job's id

    @property
    def name(self) -> str:
        """The key for people: 'customer-7', or 'queue mail'."""
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
            return f"job {self.first} is before it and waits for {name}"
        shown = ", ".join(job.id for job in self.holders[:3])
        more = f" and {len(self.holders) - 3} more" if len(self.holders) > 3 else ""
        if self.kind == "full":
            return f"limit {name} is full ({limits.describe(self.limit.most, None, None)}): {shown}{more}"
        if self.key.exclusive:
            return f"no other job may use {name} beside it, but {shown}{more} still run{'s' * (len(self.holders) == 1)}"
        return f"{shown} uses {name} exclusively"

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
            found[key.name] = KeyUse(key.name, limit, opens_at=rate_opens_at(session, key.name, limit))
        return found[key.name]

    for job in _running(session, known):
        for key, limit in known.keys_of(job.queue, job.limits):
            use(key, limit).holders.append(job)
    for lane in waiting_lanes(session):
        for key, limit in known.keys_of("", lane.text):
            one = use(key, limit)
            number = one.waiting.number + min(lane.number, LANE_CAP)
            one.waiting = Count(number, one.waiting.capped or lane.number > LANE_CAP)
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


def rate_opens_at(session: Session, name: str, limit: Limit) -> Optional[int]:
    """When one more job with the key may start, if that is later than now."""
    if limit.rate is None or limit.per is None:
        return None
    rows = session.execute(text(STARTS), {"key": name, "rate": limit.rate, "n": 1}).all()
    now = clock.now()
    if not rows or rows[0][0] > rows[0][2] + 1 - limit.rate or rows[0][1] > now + limit.per:
        return None
    opens_at: int = rows[0][1] + limit.per
    return opens_at if opens_at > now else None


def blocks(session: Session, jobs: Iterable[Job]) -> dict[int, Block]:
    """Why pending jobs may not start because of their limits, by sequence number; jobs that may start have none.

    Costs three statements for any number of jobs, and one for each key with a rate. It does not look for earlier jobs
    that wait for the same key, as `block` does.
    """
    known = read(session)
    asked = {job.seq: keys for job in jobs if job.state == "pending" and (keys := known.keys_of(job.queue, job.limits))}
    if not asked:
        return {}
    held: dict[str, list[tuple[Job, bool]]] = {}
    for job in _running(session, known):
        for key, _ in known.keys_of(job.queue, job.limits):
            held.setdefault(key.name, []).append((job, key.exclusive))
    opens: dict[str, Optional[int]] = {}
    found = {}
    for seq, keys in asked.items():
        for key, limit in keys:
            if limit.rate is not None and key.name not in opens:
                opens[key.name] = rate_opens_at(session, key.name, limit)
        why = _block(keys, held, opens)
        if why is not None:
            found[seq] = why
    return found


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
    held: dict[str, list[tuple[Job, bool]]],
    opens: dict[str, Optional[int]],
) -> Optional[Block]:
    """The first reason, in the order in which a claim looks."""
    for key, limit in keys:
        if limit.most == 0:
            return Block("zero", key, limit)
    for key, limit in keys:
        if opens.get(key.name) is not None:
            return Block("rate", key, limit, opens_at=opens[key.name])
    for key, limit in keys:
        holders = held.get(key.name, [])
        jobs = [job for job, _ in holders]
        if holders and (key.exclusive or any(exclusive for _, exclusive in holders)):
            return Block("exclusive", key, limit, jobs)
        if limit.most is not None and len(holders) >= limit.most:
            return Block("full", key, limit, jobs)
    return None


def _running(session: Session, known: Limits) -> list[Job]:
    """Running jobs that have keys, first started first."""
    named = Job.limits != ""
    which = in_state("processing") if known.of_queues else in_state("processing") & named
    rows = select(Job).where(which).options(defer(Job.env)).order_by(Job.started_at).limit(COUNT_CAP)
    return list(session.scalars(rows))
