"""Bulk acts: one verb on every job that matches a filter, in transactions small enough that nobody waits for them.

An act is a row first, so that it survives whoever carries it out: its filter, the highest sequence that it may touch,
how far it has come. The moves are the same guarded ones as for named jobs. What people do to named jobs in the console
is an act too, done at once, so that it can be undone. An undo is an act itself; a canary (`jobs/canary.py`) is one that
waits.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Optional

from sqlalchemy import ColumnElement, case, func, select
from sqlalchemy.orm import Session

from webapp.core import audit_lines
from webapp.core.locks import BUSY_TIMEOUT
from webapp.core.states import ARROWS
from webapp.db import audit
from webapp.db.engines import give_way, reading, writing
from webapp.db.models import Act, Job
from webapp.jobs import filters, listing, queries, search
from webapp.jobs.filters import JobFilter
from webapp.jobs.lifecycle import in_state, may_be_taken_back, move, record, take_back
from webapp.jobs.operations import NotFound, Outcome, ask_to_stop, move_named, values_of
from webapp.lib import clock

BATCH = 500  # jobs that one transaction moves: the write lock is held for about 50 ms at the most
LOOKS = 5  # reads of SEARCH_CAP rows each that look for them
LEASE = clock.seconds(30)  # an act that nobody has advanced for so long is anybody's
VERBS = ("requeue", "discard", "cancel", "run_now")
CAN_BE_UNDONE = ("requeue", "cancel", "run_now")
KEPT_IDS = 20  # ids that an act on named jobs keeps for people to read


@dataclass(frozen=True)
class ActResult:
    """How far a bulk act has come. `skipped` jobs matched, but were moved by somebody else first."""

    act_id: int
    moved: int
    skipped: int
    done: bool


class CannotUndo(Exception):
    """The message says why."""


@dataclass(frozen=True)
class Preview:
    """What an act on all that match would find: how many jobs at least, and a few of them, in the list's order.

    `whole`: all were looked at, so it is the number. Otherwise there may be more: the act itself looks at every job.
    """

    number: queries.Count
    whole: bool
    examples: list[Job]


def preview(session: Session, verb: str, wanted: JobFilter, examples: int = 5) -> Preview:
    """Look ahead as far as a list does: at SEARCH_CAP rows of a state, for what no index finds."""
    parts = [replace(wanted, state=state) for state in movable(verb) if wanted.state in (None, state)]
    counts = [queries.count_found(session, part) for part in parts]
    jobs = [job for part in parts for job in listing.page_of_jobs(session, part, limit=examples).jobs]
    if len(parts) > 1:
        jobs.sort(key=lambda job: -job.seq)
    return Preview(queries.total(one for one, _ in counts), all(whole for _, whole in counts), jobs[:examples])


def act_on_all(verb: str, wanted: JobFilter, actor: str) -> ActResult:
    """Apply a verb to every job that matches now, in transactions of BATCH jobs. Jobs that come later are left alone.

    If this process dies on the way, a supervisor finds the act and carries it on.
    """
    return carry_out(start(verb, wanted, actor))


def act_on_named(verb: str, ids: Iterable[str], actor: str) -> tuple[Outcome, Optional[int]]:
    """Apply a verb to jobs by their ids, in one transaction. Returns the act's id too, None where nothing moved."""
    wanted = list(dict.fromkeys(ids))
    with writing() as session:
        act = new_act(session, verb, {"ids": wanted[:KEPT_IDS], "named": len(wanted)}, actor, state="done")
        outcome = move_named(session, verb, wanted, actor, act_id=act.id)
        act.moved, act.skipped = len(outcome.moved) + len(outcome.asked), len(outcome.refused)
        act.finished_at = clock.now()
        if not act.moved:
            session.delete(act)
            return outcome, None
        return outcome, act.id


def carry_out(act_id: int, within: float = math.inf, patience: float = BUSY_TIMEOUT) -> ActResult:
    """Bring an act to its end, or as far as it comes in so many seconds. Raises NotFound, and Busy as `writing()`."""
    until = time.monotonic() + within
    while True:
        result = advance(act_id, patience)
        if result.done or time.monotonic() > until:
            return result
        give_way()


def start(verb: str, wanted: JobFilter, actor: str) -> int:
    """Write down a bulk act, to be carried out by `advance`. Returns its id."""
    if verb not in VERBS:
        raise ValueError(f"no bulk act: {verb!r}")
    with writing() as session:
        act = new_act(session, verb, json.loads(wanted.to_json()), actor)
        if audit_lines.is_audited(actor):
            audit.note(session, verb, [f"act:{act.id}"], actor, details=[{"filter": json.loads(act.filter)}])
        return act.id


def new_act(session: Session, verb: str, what: Any, actor: str, *, state: str = "running", **more: Any) -> Act:
    now = clock.now()
    act = Act(
        verb=verb,
        filter=json.dumps(what),
        highest_seq=session.scalar(select(func.max(Job.seq))) or 0,
        cursor_seq=0,
        actor=actor,
        state=state,
        created_at=now,
        lease_until=now + LEASE,
        moved=0,
        skipped=0,
        **more,
    )
    session.add(act)
    session.flush()
    return act


def advance(act_id: int, patience: float = BUSY_TIMEOUT) -> ActResult:
    """Carry out the next BATCH jobs of an act, in one transaction. Raises NotFound, and Busy as `writing()`.

    They are looked for before it, so that nobody waits for a search.
    """
    with reading() as session:
        act = find(session, act_id)
    begun = act.cursor_seq
    seqs: list[int] = []
    cursor: Optional[int] = None
    if act.state == "running" and act.verb != "undo":
        seqs, cursor = _next_of(act)
    with writing(patience) as session:
        act = find(session, act_id, lock=True)
        if act.state == "running" and act.cursor_seq == begun:  # else somebody else carries it on, or has ended it
            if act.verb == "undo":
                cursor = _put_back(session, act)
            else:
                _move(session, act, seqs)
            act.lease_until = clock.now() + LEASE
            if cursor is None:
                act.state, act.finished_at = "done", clock.now()
            else:
                act.cursor_seq = cursor
        return ActResult(act.id, act.moved, act.skipped, act.state != "running")


def _move(session: Session, act: Act, seqs: list[int]) -> None:
    which, values = Job.seq.in_(seqs) & JobFilter.from_json(act.filter).where(), values_of(act.verb, clock.now())
    moved = move(session, act.verb, which, actor=act.actor, values=values, act_id=act.id, audited=False)
    asked: set[str] = set()
    if act.verb == "cancel":
        asked = ask_to_stop(session, list(session.scalars(select(Job.id).where(which))), act.actor)
    act.moved += len(moved) + len(asked)
    act.skipped += len(seqs) - len(moved) - len(asked)


def movable(verb: str) -> tuple[str, ...]:
    """The states that a verb finds jobs in; those that run are asked to stop."""
    return ARROWS[verb].leaves + (("processing",) if verb == "cancel" else ())


def _next_of(act: Act) -> tuple[list[int], Optional[int]]:
    """The next jobs of an act, and the row that it has come to; None where it is through.

    It gives up for now after LOOKS reads that found too few, so that the act's lease does not run out.
    """
    seqs: list[int] = []
    cursor: Optional[int] = act.cursor_seq
    for _ in range(LOOKS):
        with reading() as session:
            found, cursor = _look(session, act, cursor or 0, BATCH - len(seqs))
        seqs += found
        if cursor is None or len(seqs) == BATCH:
            break
    return seqs, cursor


def _look(session: Session, act: Act, cursor: int, limit: int) -> tuple[list[int], Optional[int]]:
    """One read: all that an index leaves, where that is little, else the next SEARCH_CAP rows of the table."""
    wanted, there = JobFilter.from_json(act.filter), in_state(*movable(act.verb))
    matches: ColumnElement[bool] = wanted.where() & there
    last: Optional[int] = None
    rows = select(Job.seq).where(Job.seq > cursor, Job.seq <= act.highest_seq).order_by(Job.seq)
    little = select(Job.seq).where(wanted.found(), there).offset(filters.SEARCH_CAP).limit(1)
    if session.scalar(little) is not None:
        last = session.scalar(rows.offset(filters.SEARCH_CAP - 1).limit(1))
        if last is not None:
            rows = rows.where(Job.seq <= last)
        # Inside a CASE no index is seen: by one, a planner would fetch a million rows and sort them for each batch.
        matches = case((matches, 1), else_=0) == 1
    seqs = list(session.scalars(rows.where(matches).limit(limit)))
    return seqs, seqs[-1] if len(seqs) == limit else last


# --- taking back -----------------------------------------------------------------------------------------------------


def undo(act_id: int, actor: str) -> int:
    """Write down the undo of an act, which ends the act if it still goes on. Returns the undo's id.

    It puts back what nobody has claimed or moved since. Raises NotFound, CannotUndo.
    """
    with writing() as session:
        act = find(session, act_id, lock=True)
        if act.verb not in CAN_BE_UNDONE:
            what = "An undo" if act.verb == "undo" else "A discard"
            raise CannotUndo(f"{what} cannot be undone.")
        if act.state in {"running", "waiting"}:
            _stop(session, act, actor)
        if not queries.count(session, may_be_taken_back(act.verb, act.id)).number:
            raise CannotUndo("Nothing is left to undo: workers have claimed the jobs, or somebody else moved them.")
        back = new_act(session, "undo", {}, actor, undoes=act.id)
        record(session, "undo", [(f"act:{act.id}", None)], actor, act_id=back.id)
        return back.id


def _put_back(session: Session, act: Act) -> Optional[int]:
    undone = find(session, act.undoes or 0)
    there = may_be_taken_back(undone.verb, undone.id)
    seqs = list(session.scalars(select(Job.seq).where(there, Job.seq > act.cursor_seq).order_by(Job.seq).limit(BATCH)))
    moved = take_back(session, undone.verb, undone.id, Job.seq.in_(seqs), actor=act.actor, act_id=act.id)
    act.moved += moved
    act.skipped += len(seqs) - moved
    return seqs[-1] if len(seqs) == BATCH else None


def can_be_undone(session: Session, act: Act) -> queries.Count:
    """How many of an act's jobs its undo would put back now."""
    if act.verb not in CAN_BE_UNDONE:
        return queries.Count(0)
    return queries.count(session, may_be_taken_back(act.verb, act.id))


def stop(act_id: int, actor: str) -> bool:
    """End an act where it stands; what it has moved stays moved. False: it had ended. Raises NotFound."""
    with writing() as session:
        act = find(session, act_id, lock=True)
        if act.state not in {"running", "waiting"}:
            return False
        _stop(session, act, actor)
        return True


def _stop(session: Session, act: Act, actor: str) -> None:
    before, act.state, act.finished_at = act.state, "stopped", clock.now()
    change = {"before": {"state": before}, "after": {"state": "stopped", "moved": act.moved}}
    record(session, "stop", [(f"act:{act.id}", None)], actor, act_id=act.id, changes=[change])


# --- reading ---------------------------------------------------------------------------------------------------------


def find(session: Session, act_id: int, *, lock: bool = False) -> Act:
    """Raises NotFound."""
    act = session.get(Act, act_id, with_for_update=lock)
    if act is None:
        raise NotFound(f"no such act: {act_id}")
    return act


def what(act: Act) -> str:
    """What it is about: 'job1', '12 named jobs: a, b, c …', 'all dead jobs in queue mail that match “exit:1 x”'."""
    named = json.loads(act.filter)
    if act.undoes is not None:
        return f"act {act.undoes}"
    if "ids" in named:
        ids, number = named["ids"], named["named"]
        return str(ids[0]) if number == 1 else f"{number:,} named jobs: {', '.join(ids[:3])}{' …' * (number > 3)}"
    wanted = JobFilter.from_json(act.filter)
    told = {"in queue {}": wanted.queue, "of group {}": wanted.group}
    told["that match “{}”"] = search.tell(wanted, without=("state", "queue")) or None
    words = [pattern.format(value) for pattern, value in told.items() if value]
    return " ".join(["all", *([wanted.state] if wanted.state else []), "jobs", *words])


def newest(session: Session, limit: int, before: Optional[int] = None) -> list[Act]:
    """Acts, newest first; `before` an id on a later page."""
    older = Act.id < before if before is not None else Act.id > 0
    return list(session.scalars(select(Act).where(older).order_by(Act.id.desc()).limit(limit)))


def undos_of(session: Session, act_id: int) -> list[Act]:
    """The acts that took back some of this one."""
    # Acts are few, and none is older than the one that it undoes.
    return list(session.scalars(select(Act).where(Act.id > act_id, Act.undoes == act_id).order_by(Act.id).limit(10)))


def abandoned(session: Session) -> list[int]:
    """Acts that nobody carries on any more."""
    return list(session.scalars(select(Act.id).where(Act.state == "running", Act.lease_until < clock.now())))
