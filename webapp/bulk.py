"""Bulk acts: one verb on every job that matches a filter, in transactions small enough that nobody waits for them.

An act is a row first, so that it survives whoever carries it out: its filter, the highest sequence that it may touch,
how far it has come. The moves are the same guarded ones as for named jobs.
"""

from __future__ import annotations

import json
import math
import time
from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp import audit, clock
from webapp.db import give_way, writing
from webapp.filters import JobFilter
from webapp.lifecycle import ARROWS, in_state, move
from webapp.models import Act, Job
from webapp.operations import NotFound, ask_to_stop, values_of

BATCH = 500  # jobs that one transaction moves: the write lock is held for about 50 ms at the most
LEASE = clock.seconds(30)  # an act that nobody has advanced for so long is anybody's


@dataclass(frozen=True)
class ActResult:
    """How far a bulk act has come. `skipped` jobs matched, but were moved by somebody else first."""

    act_id: int
    moved: int
    skipped: int
    done: bool


def act_on_all(verb: str, wanted: JobFilter, actor: str) -> ActResult:
    """Apply a verb to every job that matches now, in transactions of BATCH jobs. Jobs that come later are left alone.

    If this process dies on the way, a supervisor finds the act and carries it on.
    """
    return carry_out(start(verb, wanted, actor))


def carry_out(act_id: int, patience: float = math.inf) -> ActResult:
    """Bring an act to its end, or as far as it comes in `patience` seconds. Raises NotFound."""
    until = time.monotonic() + patience
    while True:
        result = advance(act_id)
        if result.done or time.monotonic() > until:
            return result
        give_way()


def start(verb: str, wanted: JobFilter, actor: str) -> int:
    """Write down a bulk act, to be carried out by `advance`. Returns its id."""
    if verb not in {"requeue", "discard", "cancel", "run_now"}:
        raise ValueError(f"no bulk act: {verb!r}")
    now = clock.now()
    with writing() as session:
        act = Act(
            verb=verb,
            filter=wanted.to_json(),
            highest_seq=session.scalar(select(func.max(Job.seq))) or 0,
            cursor_seq=0,
            actor=actor,
            state="running",
            created_at=now,
            lease_until=now + LEASE,
            moved=0,
            skipped=0,
        )
        session.add(act)
        session.flush()
        if audit.concerns(actor):
            audit.note(session, verb, [f"act:{act.id}"], actor, details=[{"filter": json.loads(act.filter)}])
        return act.id


def advance(act_id: int) -> ActResult:
    """Carry out the next BATCH jobs of an act, in one transaction. Raises NotFound."""
    with writing() as session:
        act = session.get(Act, act_id, with_for_update=True)
        if act is None:
            raise NotFound(f"no such act: {act_id}")
        if act.state == "running":
            _advance(session, act)
        return ActResult(act.id, act.moved, act.skipped, act.state != "running")


def _advance(session: Session, act: Act) -> None:
    wanted = JobFilter.from_json(act.filter)
    leaves = ARROWS[act.verb].leaves + (("processing",) if act.verb == "cancel" else ())
    matching = (
        select(Job.seq)
        .where(wanted.where(), in_state(*leaves), Job.seq > act.cursor_seq, Job.seq <= act.highest_seq)
        .order_by(Job.seq)
        .limit(BATCH)
    )
    seqs = list(session.scalars(matching))
    moved = move(
        session, act.verb, Job.seq.in_(seqs), actor=act.actor, values=values_of(act.verb, clock.now()), act_id=act.id
    )
    asked: set[str] = set()
    if act.verb == "cancel":
        asked = ask_to_stop(session, list(session.scalars(select(Job.id).where(Job.seq.in_(seqs)))), act.actor)
    act.moved += len(moved) + len(asked)
    act.skipped += len(seqs) - len(moved) - len(asked)
    act.lease_until = clock.now() + LEASE
    if len(seqs) < BATCH:
        act.state, act.finished_at = "done", clock.now()
    else:
        act.cursor_seq = seqs[-1]


def find(session: Session, act_id: int) -> Act:
    """Raises NotFound."""
    act = session.get(Act, act_id)
    if act is None:
        raise NotFound(f"no such act: {act_id}")
    return act


def abandoned(session: Session) -> list[int]:
    """Acts that nobody carries on any more."""
    return list(session.scalars(select(Act.id).where(Act.state == "running", Act.lease_until < clock.now())))
