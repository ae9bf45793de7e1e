"""What people read about actions on jobs: what one would move, what one was about, and the list of them."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Optional

from sqlalchemy import select
from sqlalchemy.orm import Session

from webapp.db.models import BulkAction, Job
from webapp.jobs import listing, queries, search
from webapp.jobs.actions import movable
from webapp.jobs.filters import JobFilter


@dataclass(frozen=True)
class Preview:
    """What an action on all that match would find: at least how many jobs, and a few of them in the list's order.

    `whole`: the number is exact. Otherwise there may be more: the action itself looks at every job.
    """

    number: queries.Count
    whole: bool
    examples: list[Job]


def preview(session: Session, verb: str, wanted: JobFilter, examples: int = 5) -> Preview:
    """Look as far as a list does: at SEARCH_CAP rows of a state where no index helps."""
    parts = [replace(wanted, state=state) for state in movable(verb) if wanted.state in (None, state)]
    counts = [queries.count_found(session, part) for part in parts]
    jobs = [job for part in parts for job in listing.page_of_jobs(session, part, limit=examples).jobs]
    if len(parts) > 1:
        jobs.sort(key=lambda job: -job.seq)
    return Preview(queries.total(one for one, _ in counts), all(whole for _, whole in counts), jobs[:examples])


def what(action: BulkAction) -> str:
    """Its jobs in words: 'job1', '12 named jobs: a, b, c …', 'all dead jobs in queue mail that match “exit:1 x”'."""
    if action.undoes is not None:
        return f"action {action.undoes}"
    named = json.loads(action.filter)
    if "ids" in named:
        ids, number = named["ids"], named["named"]
        return str(ids[0]) if number == 1 else f"{number:,} jobs: {', '.join(ids[:3])}{' …' * (number > 3)}"
    wanted = JobFilter.from_json(action.filter)
    told = {"in queue {}": wanted.queue, "of group {}": wanted.group}
    told["matching “{}”"] = search.tell(wanted, without=("state", "queue")) or None
    words = [pattern.format(value) for pattern, value in told.items() if value]
    return " ".join(["all", *([wanted.state] if wanted.state else []), "jobs", *words])


def newest(session: Session, limit: int, before: Optional[int] = None) -> list[BulkAction]:
    """Actions, newest first; `before` is an id, for a later page."""
    older = BulkAction.id < before if before is not None else BulkAction.id > 0
    return list(session.scalars(select(BulkAction).where(older).order_by(BulkAction.id.desc()).limit(limit)))


def undos_of(session: Session, action_id: int) -> list[BulkAction]:
    """The undos of an action."""
    # There are few actions, and an undo is newer than what it undoes.
    newer = BulkAction.id > action_id, BulkAction.undoes == action_id
    return list(session.scalars(select(BulkAction).where(*newer).order_by(BulkAction.id).limit(10)))
