"""Dependencies: a job that follows other jobs, its parents, is blocked until they have ended as required.

An edge is a row of `dependencies`. `enqueue` stores it; `decide` sets its `met_at` when the parent has ended, and
unblocks the job when all its edges are decided. A parent has `followed` = 1 while jobs may wait for its end, 0 once all
that can be decided is decided, and no value without followers. A parent always has a lower `seq` than its followers.

A worker runs `decide` in its turn. Actions on jobs go through `jobs/lifecycle.py`, which calls it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Callable, NamedTuple, Optional

from webapp.core.job_spec import After, FieldError, JobSpec, SpecError
from webapp.core.states import ARROWS, TERMINAL, may_leave
from webapp.core.storage.transaction import Transaction
from webapp.lib import clock

STEP = 200  # edges, and parents, that one call decides: about 10 ms under the write lock
RULE = "rule:dependencies"

Execute = Callable[[str, Mapping[str, Any]], Any]

_SQLITE_LIST = "IN (SELECT value FROM json_each(:{0}))"
_POSTGRESQL_LIST = "= ANY(:{0})"
# An edge that this end of the parent decides. A completed job can no longer fail, so a job that waits for its failure
# is cancelled.
_DECIDABLE = "(dependencies.wants <> 'success' OR {parent}.state = 'completed')"
_ENDED = """
SELECT seq FROM jobs WHERE followed = 1 AND finished_at IS NOT NULL {among}
ORDER BY finished_at, seq LIMIT :n {lock}
"""
# The parents come first, and for each the index (parent_seq, met_at, wants, job_seq).
_EDGES_SQLITE = f"""
SELECT dependencies.job_seq, dependencies.parent_id, dependencies.wants = 'failure' AND parent.state = 'completed'
FROM json_each(:parents) AS given CROSS JOIN jobs AS parent ON parent.seq = given.value
CROSS JOIN dependencies ON dependencies.parent_seq = parent.seq
WHERE dependencies.met_at IS NULL AND {_DECIDABLE.format(parent="parent")} LIMIT :n
"""  # noqa: S608  every part is ours
_EDGES_POSTGRESQL = f"""
SELECT edge.job_seq, edge.parent_id, edge.never
FROM unnest(CAST(:parents AS bigint[])) AS given(seq) JOIN jobs AS parent ON parent.seq = given.seq
CROSS JOIN LATERAL (
  SELECT job_seq, parent_id, wants = 'failure' AND parent.state = 'completed' AS never FROM dependencies
  WHERE parent_seq = parent.seq AND met_at IS NULL AND {_DECIDABLE.format(parent="parent")} LIMIT :n) AS edge
LIMIT :n
"""  # noqa: S608
_LOCK_CHILDREN = "SELECT seq FROM jobs WHERE seq = ANY(:seqs) FOR NO KEY UPDATE SKIP LOCKED"
_MEET = "UPDATE dependencies SET met_at = :now WHERE job_seq = :job AND parent_id = :parent"
_UNMET = "EXISTS (SELECT 1 FROM dependencies WHERE job_seq = jobs.seq AND met_at IS NULL)"
# It became ready now: until now it did not wait for a worker.
_UNBLOCK = f"""
UPDATE jobs SET state = '{ARROWS["unblock"].enters}', changed_at = :now,
                run_at = CASE WHEN run_at < :now THEN :now ELSE run_at END
WHERE {may_leave("unblock")} AND seq {{listed}} AND NOT {_UNMET}
"""  # noqa: S608
_BLOCK_AGAIN = (
    f"UPDATE jobs SET state = 'blocked' WHERE state IN ('pending', 'scheduled') AND seq {{listed}} AND {_UNMET}"  # noqa: S608
)
_CANCEL = f"""
UPDATE jobs SET state = '{ARROWS["cancel"].enters}', changed_at = :now, finished_at = :now, act_id = NULL
WHERE seq {{listed}} AND state = 'blocked' RETURNING seq, id
"""  # noqa: S608
_CANCELLED = """
INSERT INTO events (at, verb, actor, subject, job_seq, detail) VALUES (:now, 'cancel', :actor, :subject, :seq, :detail)
"""
_TOLD = f"""
UPDATE jobs SET followed = 0 WHERE seq {{listed}} AND followed = 1 AND NOT EXISTS (
  SELECT 1 FROM dependencies WHERE parent_seq = jobs.seq AND met_at IS NULL AND {_DECIDABLE.format(parent="jobs")})
"""  # noqa: S608
# Followers that have not started wait for the next end of these parents.
_UNDECIDE = """
UPDATE dependencies SET met_at = NULL
WHERE parent_seq {listed} AND met_at IS NOT NULL
  AND EXISTS (SELECT 1 FROM jobs WHERE seq = job_seq
              AND (state IN ('blocked', 'cancelled') OR (state IN ('pending', 'scheduled') AND act_id = :act)))
"""


# --- at submit -------------------------------------------------------------------------------------------------------


def in_order(specs: Sequence[JobSpec]) -> Sequence[int]:
    """The places of jobs, with parents before their followers, otherwise in order. Raises SpecError for a cycle."""
    if not any(spec.after for spec in specs):
        return range(len(specs))
    places = {spec.id: place for place, spec in enumerate(specs) if spec.id is not None}
    parents = [{places[one.job] for one in spec.after if one.job in places} for spec in specs]
    followers: dict[int, list[int]] = {}
    for place, found in enumerate(parents):
        for parent in found:
            followers.setdefault(parent, []).append(place)
    left = [len(found) for found in parents]
    ready = [place for place, number in enumerate(left) if not number]
    for place in ready:  # it grows
        for follower in followers.get(place, ()):
            left[follower] -= 1
            if not left[follower]:
                ready.append(follower)
    if len(ready) < len(specs):
        raise SpecError([_cycle_error(specs, parents, left)])
    return ready


def _cycle_error(specs: Sequence[JobSpec], parents: Sequence[set[int]], left: Sequence[int]) -> FieldError:
    place = next(place for place, number in enumerate(left) if number)
    seen: dict[int, int] = {}
    way: list[int] = []
    while place not in seen:
        seen[place] = len(way)
        way.append(place)
        place = next(parent for parent in sorted(parents[place]) if left[parent])
    cycle = [str(specs[one].id) for one in [*way[seen[place] :], place]]
    if len(cycle) == 2:
        return FieldError("after", f"{cycle[0]!r} is the job itself.", place)
    names = cycle if len(cycle) <= 8 else [*cycle[:6], "…", cycle[-1]]
    return FieldError("after", f"these jobs wait for each other: {' after '.join(names)}.", place)


class Edge(NamedTuple):
    """A dependency to store. `parent_seq` None: the parent is a job of the same call."""

    child_id: str
    parent_id: str
    parent_seq: Optional[int]
    wants: str
    met: bool


def resolve(
    transaction: Transaction, jobs: Sequence[tuple[str, tuple[After, ...], int]], new: Iterable[str]
) -> tuple[list[Edge], bool]:
    """The edges of new jobs, given as id, parents and place. Locks parents that exist, and marks them as followed.

    `new`: ids of the jobs of this call. Also returns whether a worker runs one of the parents: it must read that it is
    followed, so the caller increments the revision. Raises SpecError for a parent that does not exist, or cannot end as
    wanted.
    """
    own = set(new)
    outside = sorted({one.job for _, after, _ in jobs for one in after} - own)
    known = _follow(transaction, outside) if outside else {}
    errors = [
        FieldError("after", problem, place)
        for _, after, place in jobs
        for one in after
        if one.job not in own and (problem := _problem(one, known)) is not None
    ]
    if errors:
        raise SpecError(errors)
    edges = []
    for child_id, after, _ in jobs:
        for one in after:
            seq, state = known.get(one.job, (None, "")) if one.job not in own else (None, "")
            edges.append(Edge(child_id, one.job, seq, one.on, _is_met(one.on, state)))
    return edges, any(state == "processing" for _, state in known.values())


def _problem(one: After, known: Mapping[str, tuple[int, str]]) -> Optional[str]:
    if one.job not in known:
        return f"no such job: {one.job!r}. It may have been discarded."
    if one.on == "failure" and known[one.job][1] == "completed":
        return f"{one.job!r} has completed, so a job that waits for its failure can never run."
    return None


def _is_met(wants: str, state: str) -> bool:
    return state in TERMINAL and (wants == "finish" or (wants == "success") == (state == "completed"))


def _follow(transaction: Transaction, ids: Sequence[str]) -> dict[str, tuple[int, str]]:
    """Lock these jobs, mark them as followed, and return their sequence and state by id."""
    select = "SELECT seq, id, state FROM jobs"
    found = transaction.select_where_in(select, "id", ids)
    if not transaction.is_sqlite:  # in one order, and again: the state before the lock may be old
        lock = f"{select} WHERE seq = ANY(:seqs) ORDER BY seq FOR NO KEY UPDATE"
        found = transaction.execute(lock, {"seqs": [row[0] for row in found]}).fetchall()
    seqs = [row[0] for row in found]
    follow = "UPDATE jobs SET followed = CASE WHEN finished_at IS NULL THEN 1 ELSE coalesce(followed, 0) END WHERE seq"
    transaction.execute(f"{follow} {_listed(transaction.is_sqlite)}", {"seqs": _values(seqs, transaction.is_sqlite)})
    return {job_id: (seq, state) for seq, job_id, state in found}


def store(transaction: Transaction, edges: Sequence[Edge]) -> None:
    """Store the edges of jobs that have been inserted."""
    ids = sorted({edge.child_id for edge in edges} | {edge.parent_id for edge in edges if edge.parent_seq is None})
    seqs = dict(transaction.select_where_in("SELECT id, seq FROM jobs", "id", ids))
    now = clock.now()
    rows = [
        (
            seqs[edge.child_id],
            edge.parent_id,
            seqs[edge.parent_id] if edge.parent_seq is None else edge.parent_seq,
            edge.wants,
            now if edge.met else None,
        )
        for edge in edges
    ]
    transaction.insert("dependencies", ("job_seq", "parent_id", "parent_seq", "wants", "met_at"), rows)


# --- when a parent has ended -----------------------------------------------------------------------------------------


def decide(execute: Execute, now: int, *, is_sqlite: bool, parents: Optional[Sequence[int]] = None) -> int:
    """Decide at most STEP edges of parents that have ended, and unblock the jobs that wait for nothing else.

    `parents`: only those of these jobs. Returns how many edges and parents were decided; 0: nothing is left, or another
    transaction holds the rows.

    On PostgreSQL, two transactions may decide the last two edges of a job at the same time. So it locks the job first:
    the other one skips it, and decides that edge later, when it sees this one.
    """
    values = {"n": STEP} if parents is None else {"n": STEP, "seqs": _values(parents, is_sqlite)}
    among = "" if parents is None else f"AND seq {_listed(is_sqlite)}"
    ended_now = _ENDED.format(among=among, lock="" if is_sqlite else "FOR NO KEY UPDATE SKIP LOCKED")
    ended = [row[0] for row in execute(ended_now, values).fetchall()]
    if not ended:
        return 0
    listed = _listed(is_sqlite)
    find = _EDGES_SQLITE if is_sqlite else _EDGES_POSTGRESQL
    edges = execute(find, {"parents": _values(ended, is_sqlite), "n": STEP}).fetchall()
    children = sorted({edge[0] for edge in edges})
    if children and not is_sqlite:
        free = {row[0] for row in execute(_LOCK_CHILDREN, {"seqs": children}).fetchall()}
        edges = [edge for edge in edges if edge[0] in free]
        children = sorted(free)
    for job, parent, _ in edges:
        execute(_MEET, {"now": now, "job": job, "parent": parent})
    never = sorted({job for job, _, cannot in edges if cannot})
    if never:
        _cancel(execute, now, never, {job: parent for job, parent, cannot in edges if cannot}, is_sqlite)
    if children:
        execute(_UNBLOCK.format(listed=listed), {"now": now, "seqs": _values(children, is_sqlite)})
    told = execute(_TOLD.format(listed=listed), {"seqs": _values(ended, is_sqlite)}).rowcount
    return len(edges) + int(told)


def _cancel(execute: Execute, now: int, seqs: Sequence[int], parents: Mapping[int, str], is_sqlite: bool) -> None:
    rows = execute(_CANCEL.format(listed=_listed(is_sqlite)), {"now": now, "seqs": _values(seqs, is_sqlite)}).fetchall()
    for seq, job_id in rows:
        detail = json.dumps({"text": f"{parents[seq]} completed, and this job waited for its failure"})
        values = {"now": now, "actor": RULE, "subject": f"job:{job_id}", "seq": seq, "detail": detail}
        execute(_CANCELLED, values)


# --- when people move jobs -------------------------------------------------------------------------------------------


def undecide(execute: Execute, parents: Sequence[int], act_id: int, *, is_sqlite: bool) -> None:
    """These parents run again: followers that have not started wait for them, also those of the same action."""
    execute(_UNDECIDE.format(listed=_listed(is_sqlite)), {"seqs": _values(parents, is_sqlite), "act": act_id})


def block_again(execute: Execute, seqs: Sequence[int], *, is_sqlite: bool) -> None:
    """Of these jobs, which a user moved to pending or scheduled, block those that still wait for a parent."""
    execute(_BLOCK_AGAIN.format(listed=_listed(is_sqlite)), {"seqs": _values(seqs, is_sqlite)})


def unblock(execute: Execute, seqs: Sequence[int], now: int, *, is_sqlite: bool) -> None:
    """Unblock those of these jobs that wait for nothing more."""
    execute(_UNBLOCK.format(listed=_listed(is_sqlite)), {"now": now, "seqs": _values(seqs, is_sqlite)})


def _listed(is_sqlite: bool) -> str:
    return (_SQLITE_LIST if is_sqlite else _POSTGRESQL_LIST).format("seqs")


def _values(seqs: Sequence[int], is_sqlite: bool) -> Any:
    return json.dumps(list(seqs)) if is_sqlite else list(seqs)
