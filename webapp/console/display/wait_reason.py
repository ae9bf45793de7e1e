"""Explains why a job waits, or its state: one sentence, and the button or command that helps.

`webapp/insight/blockers.py` finds the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Optional

from flask import url_for
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.display.times import when
from webapp.console.display.wording import who
from webapp.core import labels
from webapp.db.models import Attempt, Job
from webapp.insight import blockers
from webapp.jobs import queries, settings
from webapp.lib import clock
from webapp.lib.durations import between
from webapp.lib.text import listed, plural

START_COMMAND = "python3 manage.py worker start"
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
    if job.state == "processing" and job.cancel_requested_at is not None:
        text = Markup("{} requested cancel {}. The worker stops the command, then kills it after kill_grace.")
        return Why(text.format(who(job.cancel_requested_by), when(job.cancel_requested_at)), "warn")
    if job.state == "processing":
        return Why(Markup("Running for {} on worker {}.").format(when(job.started_at, "for"), job.worker_id))
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
    workers = f" for {listed(labels.split(job.requires))} workers" if job.requires else ""
    if ahead.number == 0:
        busy = "." if fleet.free else "; all its workers are busy."
        return Why(Markup("Next in line{}{}").format(workers, busy))
    jobs = "1 job" if ahead.number == 1 else f"{ahead} jobs"
    # Rates are not counted by label.
    seconds = None if job.requires else blockers.seconds_for(session, job.queue, ahead.number)
    least = "at least " if ahead.capped else "about "
    then = "" if seconds is None else f", {about(seconds, least)} at the current rate"
    return Why(Markup("{}{} ahead in queue {}{}.").format(jobs, workers, job.queue, then))


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
    host = place(obstacle.requires)
    there = f" Start one on {host}:" if host else ""
    if obstacle.kind == "none":
        text = Markup("No workers running.{}").format(there)
        return Why(text, "alarm", command=start_command(requires=obstacle.requires))
    if obstacle.kind == "unserved":
        many = plural(len(obstacle.alive), "worker")
        text = Markup("{} running, but none serves queue {}.{}").format(many, name, there)
        return Why(text, "warn", command=start_command(name, obstacle.requires))
    if obstacle.kind == "unlabelled":
        text = Markup("Waiting for {}.{}").format(wanting(obstacle), there)
        return Why(text, "warn", command=start_command(requires=obstacle.requires))
    quiet = [view.worker.id for view in obstacle.serving if view.worker.requested_state == "quiet"]
    if quiet:
        return _quiet(obstacle, quiet)
    text = Markup("All workers that {} are stopping.{}").format(takers(name, obstacle.requires), there)
    return Why(text, "warn", command=start_command(name, obstacle.requires))


def _quiet(obstacle: blockers.Obstacle, quiet: list[str]) -> Why:
    text = Markup("All workers that {} are draining and take no more jobs until an admin resumes them.")
    fixes: tuple[Fix, ...] = (Fix("View workers", url_for("workers.index"), link=True, role="viewer"),)
    if len(quiet) <= MOST_BUTTONS:
        resume = [Fix(f"Resume {id_}", url_for("workers.wish_of", worker_id=id_, wish="resume"), role="admin")
                  for id_ in quiet]  # fmt: skip
        fixes = (*resume, *fixes)
    return Why(text.format(takers(obstacle.queue, obstacle.requires)), "warn", fixes=fixes)


def _later(session: Session, job: Job) -> Why:
    """A future start or retry, and what will keep the job waiting after that."""
    if job.state == "failed":
        reason = _failed(session, job)
    elif job.run_at <= clock.now():
        reason = Why(Markup("Due now. A worker will make it pending."))
    else:
        reason = Why(Markup("Starts {}.").format(when(job.run_at, "due")))
    run_now = Fix("Run now", url_for("acts.on_one", job_id=job.id, verb_path="run-now"), f"Run now {job.id}")
    reason = replace(reason, fixes=(run_now,))
    obstacle = blockers.fleet_of(session, job.queue, job.requires).obstacle
    if obstacle is None:
        return reason
    then = _obstacle(obstacle)
    level = then.level if job.run_at <= clock.now() else "warn"
    text = Markup("{} {}").format(reason.text, then.text)
    return Why(text, level, (*reason.fixes, *then.fixes), then.command)


def _failed(session: Session, job: Job) -> Why:
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    left = max(most + 1 - job.failures, 0)
    again = "its next retry is due"
    if job.run_at > clock.now():
        again = Markup("next retry {}").format(when(job.run_at, "due"))
    then = "If it fails again, it becomes a dead letter"
    if left > 1:
        then = f"After that, {plural(left - 1, 'retry', 'retries')} left"
    # Failures, not attempts: lost attempts and failures before a requeue do not count.
    text = Markup("{} of {} attempts failed; {}. {}.").format(job.failures, most + 1, again, then)
    return Why(text, "warn")


def _dead(session: Session, job: Job, ended: list[Attempt]) -> Why:
    last = ended[-1] if ended else None
    if last is not None and last.state == "lost":
        return Why(Markup("Workers crashed on this job repeatedly, so it is not retried."), "alarm")
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    if job.failures <= most:
        text = Markup("Failed; this error is not retried.")
    elif job.failures < 2:
        text = Markup("Failed; no retries configured.")
    elif job.failures == 2:
        text = Markup("Both attempts failed.")
    else:
        text = Markup("All {} attempts failed.").format(job.failures)
    return Why(text, "alarm")


# --- words for workers and their labels ------------------------------------------------------------------------------


def start_command(queue: str = "", requires: str = "") -> str:
    """The command that starts a worker with these labels, for this queue or for all.

    It leaves out a host label, because the command must run on that host: see `place`.
    """
    given = [label for label in labels.split(requires) if not label.startswith(labels.HOST)]
    words = [START_COMMAND, *(["--queue", queue] if queue else []), *(f"--label {label}" for label in given)]
    return " ".join(words)


def place(requires: str) -> str:
    """The required host, or ''."""
    return next((one[len(labels.HOST) :] for one in labels.split(requires) if one.startswith(labels.HOST)), "")


def takers(queue: str, requires: str) -> str:
    """A clause after 'all workers that': 'serve mail and have gpu'."""
    host, others = place(requires), _but_hosts(labels.split(requires))
    return f"serve {queue}{f' on {host}' if host else ''}{f' and have {listed(others)}' if others else ''}"


def wanting(obstacle: blockers.Obstacle) -> str:
    """The missing worker of an 'unlabelled' obstacle, after 'needs' or 'waiting for': 'a worker with label gpu'."""
    host, required = place(obstacle.requires), _but_hosts(labels.split(obstacle.requires))
    serving = "" if _no_worker_at_all(obstacle) else f" that serves {obstacle.queue}"
    if any(label.startswith(labels.HOST) for label in obstacle.missing):
        return f"a worker on {host}{serving}"
    missing = _but_hosts(obstacle.missing)
    names = missing or required
    one = "a" if missing or len(required) == 1 else "one"  # else each label exists, but not on one worker
    where = f" on {host}" if host and not missing else ""
    return f"{one} worker with label{'s' if len(names) > 1 else ''} {listed(names)}{where}{serving}"


def _no_worker_at_all(obstacle: blockers.Obstacle) -> bool:
    """Whether no worker of another queue matches either."""
    others = [view.labels for view in obstacle.alive]
    if not obstacle.missing:
        return not any(labels.suffice(had, obstacle.requires) for had in others)
    return not any(label in had for had in others for label in obstacle.missing)


def _but_hosts(names: Sequence[str]) -> list[str]:
    return [name for name in names if not name.startswith(labels.HOST)]
