"""Why a job stands where it stands: one sentence, and the button or command that changes it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Optional

from flask import url_for
from markupsafe import Markup
from sqlalchemy.orm import Session

from webapp.console.times import when
from webapp.console.wait_reason import place, start_command, takers, wanting
from webapp.console.wording import who
from webapp.core import labels
from webapp.db.models import Attempt, Job
from webapp.insight import blockers
from webapp.jobs import queries, settings
from webapp.lib import clock
from webapp.lib.text import listed, plural

MOST_BUTTONS = 3  # workers that can be resumed from here; of more, the page of workers shows all


@dataclass(frozen=True)
class Fix:
    """A button: what it says and is called, where it posts to, and who may press it. `link`: it only leads there."""

    label: str
    url: str
    name: str = ""
    role: str = "operator"
    link: bool = False


@dataclass(frozen=True)
class Why:
    """`text` is safe HTML. `fixes` are buttons, `command` is what helps in a terminal."""

    text: Markup
    level: str = "info"  # info, warn, alarm
    fixes: tuple[Fix, ...] = ()
    command: Optional[str] = None


def why(session: Session, job: Job, ended: list[Attempt]) -> Why:
    """Explain a job's state as a person would be told it."""
    if job.state == "pending":
        return _pending(session, job)
    if job.state == "processing":
        return _processing(job)
    if job.state in {"scheduled", "failed"}:
        return _later(session, job)
    if job.state == "dead":
        return _dead(session, job, ended)
    if job.state == "completed":
        return Why(Markup("Its command ended with exit code 0, {}.").format(when(job.finished_at)))
    return Why(Markup("A person stopped it, {}. It runs again only if it is requeued.").format(when(job.finished_at)))


# --- what waits for a worker -----------------------------------------------------------------------------------------


def _pending(session: Session, job: Job) -> Why:
    fleet = blockers.fleet_of(session, job.queue, job.requires)
    if fleet.obstacle is not None:
        return _obstacle(fleet.obstacle)
    if job.losses:
        return Why(
            Markup("A worker died under it before, so it runs alone now: it waits for a worker that runs nothing else.")
        )
    ahead = queries.count_ahead(session, job)
    busy = "." if fleet.free else "; every worker that serves it is busy."
    if ahead.number == 0 and job.requires:
        return Why(Markup("Of its queue it is next among those that ask for {}{}").format(_asked(job), busy))
    if ahead.number == 0:
        return Why(Markup("It is next in its queue{}").format(busy))
    jobs, be = ("1 job", "is") if ahead.number == 1 else (f"{ahead} jobs", "are")
    if job.requires:  # how fast those end, nobody counts
        ask = "asks" if ahead.number == 1 else "ask"
        return Why(Markup("{} in {} that {} for {} {} ahead of it.").format(jobs, job.queue, ask, _asked(job), be))
    return Why(
        Markup("{} in {} {} ahead of it{}.").format(jobs, job.queue, be, _at_this_rate(session, job.queue, ahead))
    )


def _asked(job: Job) -> str:
    return listed(labels.split(job.requires))


def _at_this_rate(session: Session, queue: str, ahead: queries.Count) -> str:
    seconds = blockers.seconds_for(session, queue, ahead.number)
    if seconds is None:
        return ""
    least = "at least " if ahead.capped else "about "
    return f", {about(seconds, least)} at the present rate"


def about(seconds: float, least: str = "about ") -> str:
    """'under a minute', 'about 3 min', 'about 5 h': one unit, for what is only guessed."""
    if seconds < 55:
        return "under a minute"
    for length, unit, most in ((60, "min", 90), (3600, "h", 36), (86400, "days", 10_000)):
        if seconds / length < most:
            return f"{least}{max(round(seconds / length), 1):,} {unit}"
    return f"{least}{round(seconds / 86400 / 365):,} years"


def _obstacle(obstacle: blockers.Obstacle) -> Why:
    name = obstacle.queue
    if obstacle.kind == "paused":
        text = Markup("Its queue {} is paused by {}, {}.").format(
            name, who(obstacle.paused_by), when(obstacle.paused_at)
        )
        resume = Fix(f"Resume {name}", url_for("queues.resume", name=name))
        return Why(text, "warn", fixes=(resume,))
    if obstacle.kind == "none":
        text = Markup("No worker is running, so nothing will take it.{}").format(_start_there(obstacle))
        return Why(text, "alarm", command=start_command(requires=obstacle.requires))
    if obstacle.kind == "unserved":
        many = plural(len(obstacle.alive), "worker runs,", "workers run,")
        text = Markup("{} but none serves the queue {}.{}").format(many, name, _start_there(obstacle))
        return Why(text, "warn", command=start_command(name, obstacle.requires))
    if obstacle.kind == "unlabelled":
        text = Markup("It asks for {}.{}").format(wanting(obstacle), _start_there(obstacle))
        return Why(text, "warn", command=start_command(requires=obstacle.requires))
    return _quiet(obstacle)


def _start_there(obstacle: blockers.Obstacle) -> str:
    """Where a command helps, in front of it, if not everywhere."""
    host = place(obstacle.requires)
    return f" Start one on the host {host}:" if host else ""


def _quiet(obstacle: blockers.Obstacle) -> Why:
    serve = takers(obstacle.queue, obstacle.requires)
    quiet = [view.worker.id for view in obstacle.serving if view.worker.wish == "quiet"]
    if not quiet:
        text = Markup("Every worker that {} is stopping.{}").format(serve, _start_there(obstacle))
        return Why(text, "warn", command=start_command(obstacle.queue, obstacle.requires))
    text = Markup("Every worker that {} is quiet and takes no more jobs, until an administrator resumes it.")
    fixes: tuple[Fix, ...] = (Fix("See workers", url_for("workers.index"), link=True, role="viewer"),)
    if len(quiet) <= MOST_BUTTONS:
        resume = [Fix(f"Resume {id_}", url_for("workers.wish_of", worker_id=id_, wish="resume"), role="admin")
                  for id_ in quiet]  # fmt: skip
        fixes = (*resume, *fixes)
    return Why(text.format(serve), "warn", fixes=fixes)


# --- what waits for its time -----------------------------------------------------------------------------------------


def _later(session: Session, job: Job) -> Why:
    """A retry or a start that lies ahead; and what will keep the job waiting even then."""
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
        return Why(Markup("It is due: the next worker that looks makes it pending."))
    return Why(Markup("It is not due yet: it becomes pending {}.").format(when(job.run_at, "due")))


def _failed(session: Session, job: Job) -> Why:
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    left = max(most + 1 - job.failures, 0)
    # Failures, not attempts: those before a requeue and those that were lost do not count.
    again = Markup("it runs again {}").format(when(job.run_at, "due"))
    text = Markup("{} of {} attempts failed; {}. {}.").format(
        job.failures,
        most + 1,
        again if job.run_at > clock.now() else "its retry is due",
        f"After that, {plural(left - 1, 'retry is', 'retries are')} left"
        if left > 1
        else "If it fails again, it is a dead letter",
    )
    return Why(text, "warn")


# --- what runs, and what is over -------------------------------------------------------------------------------------


def _processing(job: Job) -> Why:
    if job.cancel_requested_at is not None:
        return Why(
            Markup("{} asked it to stop, {}. Its worker ends it within about a second, or after the grace.").format(
                who(job.cancel_requested_by), when(job.cancel_requested_at)
            ),
            "warn",
        )
    return Why(Markup("Worker {} has run it for {}.").format(job.worker_id, when(job.started_at, "for")))


def _dead(session: Session, job: Job, ended: list[Attempt]) -> Why:
    last = ended[-1] if ended else None
    if last is not None and last.state == "lost":
        return Why(Markup("Workers died under it again and again, so it is not tried any more."), "alarm")
    most = settings.load(session).max_retries if job.max_retries is None else job.max_retries
    if job.failures > most:
        text = Markup("All {} attempts failed. Find out why, then requeue it with a fresh start.")
        return Why(text.format(job.failures) if job.failures > 1 else Markup(
            "Its attempt failed, and it has no retries. Find out why, then requeue it."), "alarm")  # fmt: skip
    return Why(Markup("It may not be retried. Find out why it failed, then requeue it."), "alarm")
