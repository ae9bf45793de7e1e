"""Chains of jobs: what a job waits for, and the graph around it.

`core/flow/dependencies.py` has the rules. Each read stops at a number of rows.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import Row, select, text
from sqlalchemy.orm import Session, aliased

from webapp.core.states import TERMINAL
from webapp.db.engines import is_sqlite
from webapp.db.models import Dependency, Job
from webapp.jobs import actions
from webapp.jobs.actions import Result
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.text import plural

SHOWN = 20  # parents that an answer names
FEW = 50  # parents of each job of a list that are read
MOST_JOBS = 500  # of a graph
MOST_EDGES = 5_000
MOST_BELOW = 100_000  # jobs that "cancel all below" cancels

_NEAR_SQLITE = """
WITH RECURSIVE near (seq) AS (
  SELECT :seq
  UNION
  SELECT CASE WHEN dependencies.job_seq = near.seq THEN dependencies.parent_seq ELSE dependencies.job_seq END
  FROM near JOIN dependencies ON dependencies.parent_seq = near.seq OR dependencies.job_seq = near.seq
  LIMIT :most)
SELECT seq FROM near
"""
_NEAR_POSTGRESQL = """
WITH RECURSIVE near (seq) AS (
  SELECT CAST(:seq AS bigint)
  UNION
  SELECT other.seq FROM near CROSS JOIN LATERAL (
    SELECT job_seq AS seq FROM dependencies WHERE parent_seq = near.seq
    UNION ALL SELECT parent_seq FROM dependencies WHERE job_seq = near.seq) AS other)
SELECT seq FROM near LIMIT :most
"""
_BELOW = """
WITH RECURSIVE below (seq) AS (
  SELECT job_seq FROM dependencies WHERE parent_seq = :seq
  UNION
  SELECT dependencies.job_seq FROM below JOIN dependencies ON dependencies.parent_seq = below.seq)
SELECT jobs.id FROM below JOIN jobs ON jobs.seq = below.seq WHERE jobs.state = 'blocked'
ORDER BY jobs.seq DESC LIMIT :most
"""


# The first parents of each job, and their states; NULL: the parent is gone.
_PARENT = "edge.parent_id, edge.wants, (SELECT state FROM jobs WHERE seq = edge.parent_seq)"
_UNMET_OF_EACH_SQLITE = f"""
SELECT edge.job_seq, {_PARENT} FROM json_each(:seqs) AS given CROSS JOIN dependencies AS edge ON edge.rowid IN (
  SELECT rowid FROM dependencies WHERE job_seq = given.value AND met_at IS NULL LIMIT :most)
"""  # noqa: S608  every part is ours
_UNMET_OF_EACH_POSTGRESQL = f"""
SELECT edge.job_seq, {_PARENT} FROM unnest(CAST(:seqs AS bigint[])) AS given(seq) CROSS JOIN LATERAL (
  SELECT * FROM dependencies WHERE job_seq = given.seq AND met_at IS NULL LIMIT :most) AS edge
"""  # noqa: S608
_NODES = "SELECT seq, id, state, batch, started_at, finished_at FROM jobs WHERE seq "
_EDGES = "SELECT job_seq, parent_seq, parent_id FROM dependencies WHERE job_seq"


@dataclass(frozen=True)
class Parent:
    """A job that another one waits for. `state` None: it was discarded, or deleted after some time."""

    id: str
    wants: str
    state: Optional[str]

    @property
    def has_failed(self) -> bool:
        """Whether it will not end as wanted unless a user acts."""
        return self.state is None or (self.wants == "success" and self.state in ("dead", "cancelled"))

    @property
    def text(self) -> str:
        """'job1 is dead', 'job2 was discarded'"""
        if self.state is None:
            return f"{self.id} was discarded"
        return f"{self.id} is {'running' if self.state == 'processing' else self.state}"


@dataclass(frozen=True)
class Waiting:
    """What a blocked job waits for: the first SHOWN parents, failed ones first, and whether there are more."""

    parents: list[Parent]
    more: bool

    @property
    def failed(self) -> list[Parent]:
        return [parent for parent in self.parents if parent.has_failed]

    @property
    def short(self) -> str:
        """The same for a list: 'after job1 and 2 more', 'parent dead: job1'; '' if a worker will unblock it."""
        if not self.parents:
            return ""
        first, others = self.parents[0], len(self.parents) - 1
        if first.has_failed:
            return f"parent {first.state or 'discarded'}: {first.id}"
        return f"after {first.id}" + (f" and {others}{'+' if self.more else ''} more" if others else "")

    @property
    def text(self) -> str:
        """Why it is blocked, as a sentence."""
        if not self.parents:
            return "The jobs it waits for have ended. A worker will unblock it."
        shown = self.failed or self.parents
        names = "; ".join(parent.text for parent in shown[:3])
        more = " …" if len(shown) > 3 or self.more else ""
        if self.failed:
            return f"Blocked: {names}{more}. Requeue it, run this job now, or cancel it."
        number = f"{plural(len(self.parents), 'job')}{'+' if self.more else ''}"
        return f"Waits for {number}: {names}{more}."


def parents(session: Session, job: Job, *, only_unmet: bool = False, limit: int = SHOWN) -> tuple[list[Parent], bool]:
    """The jobs that a job follows, and whether there are more."""
    columns = Dependency.parent_id, Dependency.wants, Job.state
    found = select(*columns).outerjoin(Job, Job.seq == Dependency.parent_seq).where(Dependency.job_seq == job.seq)
    if only_unmet:
        found = found.where(Dependency.met_at.is_(None))
    rows = session.execute(found.order_by(Dependency.parent_id).limit(limit + 1)).all()
    return [Parent(*row) for row in rows[:limit]], len(rows) > limit


def followed(session: Session, job: Job) -> list[Parent]:
    """The jobs that a job follows, the first 1,000."""
    return parents(session, job, limit=1_000)[0]


def waiting(session: Session, job: Job) -> Optional[Waiting]:
    """What a blocked job waits for; None if it is not blocked."""
    if job.state != "blocked":
        return None
    found, more = parents(session, job, only_unmet=True, limit=10 * SHOWN)
    return _waiting(found, more)


def waiting_of_each(session: Session, jobs: Iterable[Job]) -> dict[int, Waiting]:
    """What the blocked ones of these jobs wait for, by their `seq`. One statement, at most FEW parents of each job."""
    found: dict[int, list[Parent]] = {job.seq: [] for job in jobs if job.state == "blocked"}
    if not found:
        return {}
    statement = text(_UNMET_OF_EACH_SQLITE if is_sqlite() else _UNMET_OF_EACH_POSTGRESQL)
    for seq, *parent in session.execute(statement, {"seqs": _listed(found), "most": FEW + 1}):
        found[seq].append(Parent(*parent))
    return {seq: _waiting(sorted(rows, key=lambda one: one.id)[:FEW], len(rows) > FEW) for seq, rows in found.items()}


def _waiting(found: Sequence[Parent], more: bool) -> Waiting:
    first = sorted(found, key=lambda parent: not parent.has_failed)
    return Waiting(first[:SHOWN], more or len(found) > SHOWN)


def _listed(seqs: Iterable[int]) -> Any:
    """Numbers as one value of a statement."""
    return json.dumps(list(seqs)) if is_sqlite() else list(seqs)


def orphaned(session: Session, limit: int) -> Sequence[Row[tuple[str, str]]]:
    """Blocked jobs, as `id` and `parent_id`, that wait for a job that is gone, among the first MOST_JOBS."""
    first = select(Job.seq, Job.id).where(in_state("blocked")).order_by(Job.run_at, Job.seq).limit(MOST_JOBS).subquery()
    parent = aliased(Job)
    found = (
        select(first.c.id, Dependency.parent_id)
        .join(Dependency, Dependency.job_seq == first.c.seq)
        .outerjoin(parent, parent.seq == Dependency.parent_seq)
        .where(Dependency.met_at.is_(None), parent.seq.is_(None))
    )
    return session.execute(found.limit(limit)).all()


def blocked_below(session: Session, job: Job, most: int = MOST_BELOW) -> list[str]:
    """Ids of the blocked jobs that depend on a job, directly or indirectly; the last of a chain first."""
    if job.followed is None:
        return []
    return list(session.scalars(text(_BELOW), {"seq": job.seq, "most": most}))


def cancel_below(ids: Sequence[str], actor: str, within: float = math.inf) -> Result:
    """Cancel the jobs that `blocked_below` found, in one action."""
    return actions.apply("cancel", ids, actor, only="blocked", within=within)


def as_json(session: Session, job: Job) -> dict[str, Any]:
    """`after` and `waiting_for` of a job, for `show --json` and the API."""
    unmet = waiting(session, job)
    return {
        "after": [{"job": one.id, "on": one.wants, "state": one.state} for one in followed(session, job)],
        "blocked_because": None if unmet is None else unmet.text,
    }


# --- the graph -------------------------------------------------------------------------------------------------------


@dataclass
class Node:
    """A job of a graph. `state` None: it is gone. `layer`: edges of the longest path that leads to it."""

    seq: int
    id: str
    state: Optional[str] = None
    batch: Optional[str] = None
    started_at: Optional[int] = None
    finished_at: Optional[int] = None
    layer: int = 0
    critical: bool = False
    parents: list[int] = field(default_factory=list)

    @property
    def seconds(self) -> Optional[float]:
        """How long its latest attempt has run; None: it has not."""
        if self.started_at is None or self.state not in (*TERMINAL, "processing", "failed"):
            return None
        end = self.finished_at if self.finished_at is not None else clock.now()
        return max(end - self.started_at, 0) / clock.SECOND


@dataclass(frozen=True)
class Graph:
    """The jobs that are connected with a job, in the order of their submit. `whole`: they are all there."""

    nodes: list[Node]
    whole: bool
    critical_seconds: float


def graph(session: Session, job: Job) -> Optional[Graph]:
    """The graph around a job, at most MOST_JOBS; None: it follows none, and none follows it."""
    near = text(_NEAR_SQLITE if is_sqlite() else _NEAR_POSTGRESQL)
    seqs = list(session.scalars(near, {"seq": job.seq, "most": MOST_JOBS + 1}))
    if len(seqs) < 2:
        return None
    whole, seqs = len(seqs) <= MOST_JOBS, seqs[:MOST_JOBS]
    given = {"seqs": _listed(seqs)}
    listed = "IN (SELECT value FROM json_each(:seqs))" if is_sqlite() else "= ANY(:seqs)"
    # As text: with SQLAlchemy's own list of a thousand values, this takes four times as long.
    nodes = {row[0]: Node(*row) for row in session.execute(text(_NODES + listed), given)}
    rows = session.execute(text(f"{_EDGES} {listed} LIMIT :most"), {**given, "most": MOST_EDGES + 1}).all()
    whole = whole and len(rows) <= MOST_EDGES
    wanted = set(seqs)
    for child, parent, parent_id in rows:
        if child in nodes and parent in wanted:
            nodes.setdefault(parent, Node(parent, parent_id))
            nodes[child].parents.append(parent)
    ordered = [nodes[seq] for seq in sorted(nodes)]  # parents come before their followers
    _set_layers(ordered, nodes)
    return Graph(ordered, whole, _mark_critical(ordered, nodes))


def _set_layers(ordered: Sequence[Node], nodes: dict[int, Node]) -> None:
    for node in ordered:
        node.layer = max((nodes[parent].layer + 1 for parent in node.parents), default=0)


def _mark_critical(ordered: Sequence[Node], nodes: dict[int, Node]) -> float:
    """Mark the path whose jobs have run longest together. Returns its seconds; 0 if it has no two such jobs."""
    longest: dict[int, float] = {}
    before: dict[int, Optional[int]] = {}
    for node in ordered:
        best = max(node.parents, key=lambda parent: longest[parent], default=None)
        before[node.seq] = best
        longest[node.seq] = (node.seconds or 0.0) + (longest[best] if best is not None else 0.0)
    ran = [node.seq for node in ordered if node.seconds is not None]
    at: Optional[int] = max(ran, key=lambda seq: longest[seq], default=None)
    if at is None or len(ran) < 2:
        return 0.0
    total = longest[at]
    while at is not None:
        nodes[at].critical = True
        at = before[at]
    return total
