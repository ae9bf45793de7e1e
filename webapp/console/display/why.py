"""Explains a job's state: one sentence, and the button or command that helps."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from flask import url_for
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.display.times import when
from webapp.console.display.wait_reason import place, start_command, takers, wanting
from webapp.console.display.wording import who
from webapp.core import labels
from webapp.db.models import Attempt, Job
from webapp.insight import blockers
from webapp.jobs import queries, settings
from webapp.lib import clock
from webapp.lib.durations import between
from webapp.lib.text import listed, plural

MOST_BUTTONS = 3  # resume buttons; with more workers, only the link to the workers page


@dataclass(frozen=True)
class Fix:
    """A button: label, URL, accessible name, needed role. With `link` it is a plain link."""

    label: str
    url: str
    name: str = ""
    role: str = "operator"
    link: bool = False


@dataclass(frozen=True)
class Why:
    """`text` is safe HTML. `fixes` are buttons, `command` is for a terminal."""

    text: Markup
    level: str = "info"  # info, warn, alarm
    fixes: tuple[Fix, ...] = ()
    command: Optional[str] = None


def why(session: Session, job: Job, ended: list[Attempt]) -> Why:
    """Explain a job's state."""
    if job.state == "pending":
        return _pending(session, job)
    if job.state == "processing":
        return _processing(job)
    if job.state in {"scheduled", "failed"}:
        return _later(session, job)
    if job.state == "dead":
        return _dead(session, job, ended)
    if job.state == "completed":
        return Why(
            Markup("Completed {} in {}.").format(when(job.finished_at), between(job.started_at, job.finished_at))
        )
    return Why(Markup("Cancelled {}. Requeue it to run it again.").format(when(job.finished_at)))


# --- waiting for a worker --------------------------------------------------------------------------------------------


def _pending(session: Session, job: Job) -> Why:
    fleet = blockers.fleet_of(session, job.queue, job.requires)
    if fleet.obstacle is not None:
        return _obstacle(fleet.obstacle)
    if job.losses:
        return Why(Markup("A worker crashed on this job; it now waits for an idle one."))
    ahead = queries.count_ahead(session, job)
    busy = "." if fleet.free else "; all its workers are busy."
    if ahead.number == 0 and job.requires:
        return Why(Markup("Next in line for {} workers{}").format(_asked(job), busy))
    if ahead.number == 0:
        return Why(Markup("Next in line{}").format(busy))
    jobs = "1 job" if ahead.number == 1 else f"{ahead} jobs"
    if job.requires:  # rates are not counted by label
        return Why(Markup("{} for {} workers ahead in queue {}.").format(jobs, _asked(job), job.queue))
    return Why(Markup("{} ahead in queue {}{}.").format(jobs, job.queue, _at_this_rate(session, job.queue, ahead)))


def _asked(job: Job) -> str:
    return listed(labels.split(job.requires))


def _at_this_rate(session: Session, queue: str, ahead: queries.Count) -> str:
    seconds = blockers.seconds_for(session, queue, ahead.number)
    if seconds is None:
        return ""
    least = "at least " if ahead.capped else "about "
    return f", {about(seconds, least)} at the current rate"


def about(seconds: float, least: str = "about ") -> str:
    """'under a minute', 'about 3 min', 'about 5 h': one unit, because it is an estimate."""
    if seconds < 55:
        return "under a minute"
    for length, unit, most in ((60, "min", 90), (3600, "h", 36), (86400, "days", 10_000)):
        if seconds / length < most:
            return f"{least}{max(round(seconds / length), 1):,} {unit}"
    return f"{least}{round(seconds / 86400 / 365):,} years"


def _obstacle(obstacle: blockers.Obstacle) -> Why:
    name = obstacle.queue
    if obstacle.kind == "paused":
        text = Markup("Queue {} was paused by {} {}.").format(name, who(obstacle.paused_by), when(obstacle.paused_at))
        resume = Fix(f"Resume {name}", url_for("queues.resume", name=name))
        return Why(text, "warn", fixes=(resume,))
    if obstacle.kind == "none":
        text = Markup("No workers running.{}").format(_start_there(obstacle))
        return Why(text, "alarm", command=start_command(requires=obstacle.requires))
    if obstacle.kind == "unserved":
        many = plural(len(obstacle.alive), "worker")
        text = Markup("{} running, but none serves queue {}.{}").format(many, name, _start_there(obstacle))
        return Why(text, "warn", command=start_command(name, obstacle.requires))
    if obstacle.kind == "unlabelled":
        text = Markup("Waiting for {}.{}").format(wanting(obstacle), _start_there(obstacle))
        return Why(text, "warn", command=start_command(requires=obstacle.requires))
    return _quiet(obstacle)


def _start_there(obstacle: blockers.Obstacle) -> str:
    """The host on which the command must run, if only one will do."""
    host = place(obstacle.requires)
    return f" Start one on {host}:" if host else ""


def _quiet(obstacle: blockers.Obstacle) -> Why:
    serve = takers(obstacle.queue, obstacle.requires)
    quiet = [view.worker.id for view in obstacle.serving if view.worker.requested_state == "quiet"]
    if not quiet:
        text = Markup("All workers that {} are stopping.{}").format(serve, _start_there(obstacle))
        return Why(text, "warn", command=start_command(obstacle.queue, obstacle.requires))
    text = Markup("All workers that {} are draining and take no more jobs until an admin resumes them.")
    fixes: tuple[Fix, ...] = (Fix("View workers", url_for("workers.index"), link=True, role="viewer"),)
    if len(quiet) <= MOST_BUTTONS:
        resume = [Fix(f"Resume {id_}", url_for("workers.wish_of", worker_id=id_, wish="resume"), role="admin")
                  for id_ in quiet]  # fmt: skip
        fixes = (*resume, *fixes)
    return Why(text.format(serve), "warn", fixes=fixes)


# --- waiting for its time -------------------------------------------------------------------------------------------


def _later(session: Session, job: Job) -> Why:
    """A future start or retry, and what will keep the job waiting after that."""
    told = _scheduled(job) if job.state == "scheduled" else _failed(session, job)
    run_now = Fix("Run now", url_for("acts.on_one", job_id=job.id, verb_path="run-now"), f"Run now {job.id}")
    told = replace(told, fixes=(run_now,))
    obstacle = blockers.fleet_of(session, job.queue, job.requires).obstacle
    if obstacle is None:
        return told
    hindered = _obstacle(obstacle)
    level = hindered.level if job.run_at <= clock.now() else "warn"
    text = Markup("{} {}").format(told.text, hindered.text)
    return Why(text, level, (*told.fixes, *hindered.fixes), hindered.command)


def _scheduled(job: Job) -> Why:
    if job.run_at <= clock.now():
        return Why(Markup("Due now. A worker will make it pending."))
    return Why(Markup("Starts {}.").format(when(job.run_at, "due")))


def _failed(session: Session, job: Job) -> Why:
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    left = max(most + 1 - job.failures, 0)
    # Failures, not attempts: lost attempts and failures before a requeue do not count.
    again = Markup("next retry {}").format(when(job.run_at, "due"))
    text = Markup("{} of {} attempts failed; {}. {}.").format(
        job.failures,
        most + 1,
        again if job.run_at > clock.now() else "its next retry is due",
        f"After that, {plural(left - 1, 'retry', 'retries')} left"
        if left > 1
        else "If it fails again, it becomes a dead letter",
    )
    return Why(text, "warn")


# --- running and finished -----------------------------------------------------------------------------------------


def _processing(job: Job) -> Why:
    if job.cancel_requested_at is not None:
        return Why(
            Markup("{} requested cancel {}. The worker stops the command, then kills it after kill_grace.").format(
                who(job.cancel_requested_by), when(job.cancel_requested_at)
            ),
            "warn",
        )
    return Why(Markup("Running for {} on worker {}.").format(when(job.started_at, "for"), job.worker_id))


def _dead(session: Session, job: Job, ended: list[Attempt]) -> Why:
    last = ended[-1] if ended else None
    if last is not None and last.state == "lost":
        return Why(Markup("Workers crashed on this job repeatedly, so it is not retried."), "alarm")
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    if job.failures > most:
        if job.failures < 2:
            return Why(Markup("Failed; no retries configured."), "alarm")
        both = Markup("Both attempts failed.")
        return Why(both if job.failures == 2 else Markup("All {} attempts failed.").format(job.failures), "alarm")
    return Why(Markup("Failed; this error is not retried."), "alarm")
