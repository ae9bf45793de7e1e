"""Actions on jobs for display: a preview, a description, and the list of actions."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import Optional

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from webapp.db.models import BulkAction, Job
from webapp.jobs import filters, listing, queries, search
from webapp.jobs.actions import movable
from webapp.jobs.filters import JobFilter
from webapp.jobs.queries import Count

COUNTED_EXACTLY = ("discard", "cancel")  # verbs that cannot be undone, or not for running jobs


@dataclass(frozen=True)
class Preview:
    """The jobs that an action on all matching jobs would change: their number and a few examples in list order.

    `whole`: no search has stopped before the end. Otherwise there may be more: the action itself reads every job.
    """

    number: queries.Count
    whole: bool
    examples: list[Job]


def preview(session: Session, verb: str, wanted: JobFilter, examples: int = 5) -> Preview:
    """Count exactly what cannot be undone. Else search as long as a list does if no index helps."""
    parts = [replace(wanted, state=state) for state in movable(verb) if wanted.state in (None, state)]
    if verb in COUNTED_EXACTLY:
        counts = [queries.count_all(session, part) for part in parts]
    else:
        seconds = filters.SEARCH_SECONDS / max(1, len(parts))
        counts = [queries.count_found(session, part, seconds) for part in parts]
    jobs = [job for part in parts for job in listing.page_of_jobs(session, part, limit=examples).jobs]
    if len(parts) > 1:
        jobs.sort(key=lambda job: -job.seq)
    whole, numbers = all(whole for _, whole in counts), [one for one, _ in counts]
    number = Count(sum(one.number for one in numbers)) if verb in COUNTED_EXACTLY else queries.total(numbers)
    return Preview(number, whole, jobs[:examples])


def what(action: BulkAction) -> str:
    """Its jobs as text: 'job1', '12 named jobs: a, b, c …', 'all dead jobs in queue mail that match “exit:1 x”'."""
    if action.undoes is not None:
        return f"action {action.undoes}"
    named = json.loads(action.filter)
    if "ids" in named:
        ids, number = named["ids"], named["named"]
        return str(ids[0]) if number == 1 else f"{number:,} jobs: {', '.join(ids[:3])}{' …' * (number > 3)}"
    wanted = JobFilter.from_json(action.filter)
    terms = search.to_text(wanted, without=("state", "queue"))
    parts = {"in queue {}": wanted.queue, "of group {}": wanted.group, "matching “{}”": terms}
    words = [pattern.format(value) for pattern, value in parts.items() if value]
    return " ".join(["all", *([wanted.state] if wanted.state else []), "jobs", *words])


def newest(session: Session, limit: Optional[int], before: Optional[int] = None) -> list[BulkAction]:
    """Actions, newest first; `limit` None: all. `before` is an id, for a later page."""
    older = BulkAction.id < before if before is not None else BulkAction.id > 0
    return list(session.scalars(select(BulkAction).where(older).order_by(BulkAction.id.desc()).limit(limit)))


def count_all(session: Session) -> int:
    return session.scalar(select(func.count()).select_from(BulkAction)) or 0


def undos_of(session: Session, action_id: int) -> list[BulkAction]:
    """The undos of an action."""
    # There are few actions, and an undo is newer than its action.
    newer = BulkAction.id > action_id, BulkAction.undoes == action_id
    return list(session.scalars(select(BulkAction).where(*newer).order_by(BulkAction.id).limit(10)))
