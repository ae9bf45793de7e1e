"""Pause, resume and remove a queue, and set its retry rules.

Console, CLI and API call the same functions; each is one durable transaction.
"""

from __future__ import annotations

import json
from typing import Optional

from sqlalchemy import delete, null, select, update
from sqlalchemy.orm import Session

from webapp.core.flow import retry_rules
from webapp.core.flow.retry_rules import RetryRules
from webapp.core.job_spec import DEFAULT_QUEUE, FieldError, SpecError
from webapp.db.engines import writing
from webapp.db.models import LabelSetRow, Queue
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import Conflict, NotFound, record
from webapp.lib import clock


class QueueInUse(Conflict):
    """The queue cannot be removed."""


def find(session: Session, name: str, *, lock: bool = False) -> Queue:
    """Raises NotFound."""
    there = select(Queue).where(Queue.name == name, Queue.removed_at.is_(None))
    queue = session.scalar(there.with_for_update() if lock else there) if "\0" not in name else None
    if queue is None:
        raise NotFound(f"no such queue: {name[:128]!r}. A queue exists once a job has named it.")
    return queue


def pause_queue(name: str, actor: str) -> bool:
    """Start no more jobs of this queue; running jobs continue. False: it was paused already. Raises NotFound."""
    return _set_pause(name, actor, clock.now())


def resume_queue(name: str, actor: str) -> bool:
    """Start the queue's jobs again. False: it was not paused. Raises NotFound."""
    return _set_pause(name, actor, None)


def _set_pause(name: str, actor: str, at: Optional[int]) -> bool:
    with writing() as session:
        find(session, name)
        before = Queue.paused_at.is_(None) if at is not None else Queue.paused_at.is_not(None)
        changed = session.execute(
            update(Queue)
            .where(Queue.name == name, Queue.removed_at.is_(None), before)
            .values(paused_at=at, paused_by=actor if at is not None else null())
            .returning(Queue.name)
        ).first()
        if changed is None:
            return False
        settings.bump_revision(session)
        paused = at is not None
        change = {"before": {"paused": not paused}, "after": {"paused": paused}}
        record(session, "pause" if paused else "resume", [("queue:" + name, None)], actor, changes=[change])
        return True


def retry_rules_of(session: Session, name: str) -> RetryRules:
    """The retry rules of a queue. Raises NotFound."""
    return retry_rules.stored(find(session, name).retry)


def read_rules(value: object) -> RetryRules:
    """Raises SpecError."""
    try:
        return retry_rules.parse(value)
    except ValueError as error:
        raise SpecError([FieldError("retry", str(error))]) from None


def set_retry_rules(name: str, rules: RetryRules, actor: str) -> bool:
    """Set the rules for jobs of this queue that have none of their own. False: they are the same. Raises NotFound."""
    with writing() as session:
        before = retry_rules_of(session, name)
        if before == rules:
            return False
        text = json.dumps(rules.as_json) if rules != RetryRules() else None
        session.execute(update(Queue).where(Queue.name == name).values(retry=text))
        settings.bump_revision(session)
        change = {"before": {"retry": before.lines}, "after": {"retry": rules.lines}}
        record(session, "retry_rules", [("queue:" + name, None)], actor, changes=[change])
        return True


def remove_queue(name: str, actor: str) -> None:
    """Remove a queue without unfinished jobs. Its finished jobs stay; its next job creates it again.

    Raises NotFound, and QueueInUse for the default queue and for a queue with unfinished jobs.

    On PostgreSQL, a transaction that stores or requeues a job locks the queue's row until it commits. So this waits for
    that transaction, and then sees its job. The row stays, because jobs refer to it.
    """
    if name == DEFAULT_QUEUE:
        raise QueueInUse(f"queue {name} cannot be removed: jobs that name no queue go to it. Nothing was changed.")
    with writing(wakes_workers=False) as session:
        queue = find(session, name, lock=True)
        left = queries.count_unfinished(session, name)
        if left:
            jobs = " and ".join(f"{count} {state}" for state, count in left.items())
            noun = "job" if queries.total(left.values()).number == 1 else "jobs"
            help_ = "Wait until they finish, or cancel or discard them. Nothing was changed."
            raise QueueInUse(f"queue {name} cannot be removed: it has {jobs} {noun}. {help_}")
        change = {"before": {"paused": queue.paused_at is not None}, "after": {}}
        session.execute(delete(LabelSetRow).where(LabelSetRow.queue == name))
        queue.removed_at, queue.paused_at, queue.paused_by, queue.retry = clock.now(), None, None, None
        settings.bump_revision(session)
        record(session, "remove_queue", [("queue:" + name, None)], actor, changes=[change])
