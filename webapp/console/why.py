"""Why a job stands where it stands: one sentence, and the button or command that changes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from flask import url_for
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp import queries, settings
from webapp.console.overview import START_COMMAND
from webapp.console.times import when
from webapp.console.words import plural, who
from webapp.models import Attempt, Job, Queue


@dataclass(frozen=True)
class Why:
    """`text` is safe HTML. `fix`: a label and the URL to post to. `command`: what helps in a terminal."""

    text: Markup
    level: str = "info"  # info, warn, alarm
    fix: Optional[tuple[str, str]] = None
    command: Optional[str] = None


def why(session: Session, job: Job, ended: list[Attempt]) -> Why:
    """Explain a job's state as a person would be told it."""
    if job.state == "pending":
        return _pending(session, job)
    if job.state == "processing":
        return _processing(job)
    explain = {"scheduled": _scheduled, "failed": _failed, "dead": _dead}.get(job.state)
    if explain is not None:
        return explain(session, job, ended)
    if job.state == "completed":
        text = Markup("Its command ended with exit code 0, {}.").format(when(job.finished_at))
        return Why(text)
    return Why(Markup("A person stopped it, {}. It runs again only if it is requeued.").format(when(job.finished_at)))


def _pending(session: Session, job: Job) -> Why:
    queue = session.get(Queue, job.queue)
    if queue is not None and queue.paused_at is not None:
        text = Markup("Its queue {} is paused by {}, {}.").format(
            job.queue, who(queue.paused_by), when(queue.paused_at)
        )
        return Why(text, "warn", fix=(f"Resume {job.queue}", url_for("queues.resume", name=job.queue)))
    alive = [view for view in queries.workers(session, settings.load(session).lease) if view.alive]
    if not alive:
        return Why(Markup("No worker is running, so nothing will take it."), "alarm", command=START_COMMAND)
    serving = [view for view in alive if view.queues is None or job.queue in view.queues]
    if not serving:
        text = Markup("{} but none serves the queue {}.").format(
            plural(len(alive), "worker runs,", "workers run,"), job.queue
        )
        return Why(text, "warn", command=f"python3 manage.py worker start --queue {job.queue}")
    if all(view.worker.wish != "run" for view in serving):
        return Why(Markup("Every worker that serves {} is quiet or stopping.").format(job.queue), "warn")
    ahead = queries.count_ahead(session, job)
    free = sum(max(view.worker.slots - len(view.jobs), 0) for view in serving if view.worker.wish == "run")
    if ahead.number == 0:
        return Why(
            Markup("It is next in its queue{}").format("." if free else "; every worker that serves it is busy.")
        )
    jobs = "1 job" if ahead.number == 1 else f"{ahead} jobs"
    return Why(Markup("{} in {} {} ahead of it.").format(jobs, job.queue, "is" if ahead.number == 1 else "are"))


def _processing(job: Job) -> Why:
    if job.cancel_requested_at is not None:
        return Why(
            Markup("{} asked it to stop, {}. Its worker ends it within about a second, or after the grace.").format(
                who(job.cancel_requested_by), when(job.cancel_requested_at)
            ),
            "warn",
        )
    return Why(Markup("Worker {} has run it for {}.").format(job.worker_id, when(job.started_at, "for")))


def _scheduled(_session: Session, job: Job, _ended: list[Attempt]) -> Why:
    return Why(Markup("It is not due yet: it becomes pending {}.").format(when(job.run_at)))


def _failed(session: Session, job: Job, _ended: list[Attempt]) -> Why:
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    left = max(most + 1 - job.failures, 0)
    # Failures, not attempts: those before a requeue and those that were lost do not count.
    text = Markup("{} of {} attempts failed; it runs again {}. {}.").format(
        job.failures,
        most + 1,
        when(job.run_at),
        f"After that, {plural(left - 1, 'retry is', 'retries are')} left"
        if left > 1
        else "If it fails again, it is a dead letter",
    )
    return Why(text, "warn")


def _dead(session: Session, job: Job, ended: list[Attempt]) -> Why:
    last = ended[-1] if ended else None
    if last is not None and last.reason == "poison":
        return Why(Markup("Workers died under it again and again, so it is not tried any more."), "alarm")
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    if job.failures > most:
        text = Markup("All {} attempts failed. Find out why, then requeue it with a fresh start.")
        return Why(text.format(job.failures) if job.failures > 1 else Markup(
            "Its attempt failed, and it has no retries. Find out why, then requeue it."), "alarm")  # fmt: skip
    return Why(Markup("It may not be retried. Find out why it failed, then requeue it."), "alarm")
