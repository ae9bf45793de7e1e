"""Why a job waits, and the words for the workers that it waits for. `templates/job/_why.html` makes the sentence.

`webapp/insight/blockers.py` finds the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

from sqlalchemy.orm import Session

from webapp.core import labels
from webapp.db.models import Job
from webapp.insight import blockers
from webapp.jobs import queries
from webapp.jobs.flow import chains, limit_use
from webapp.lib import clock
from webapp.lib.text import listed

START_COMMAND = "python3 manage.py worker start"


@dataclass(frozen=True)
class Why:
    """Why a job is in its state.

    Attributes:
        due: its start time has come.
        obstacle: what keeps every worker from a job that waits.
        ahead: jobs that a worker takes before a pending one. None: another reason comes first.
        estimate: how long they take, or ''.
        all_busy: no worker for the job has a free slot.
        block: the limit that keeps it from starting.
        blocked: what a blocked job waits for.
    """

    job: Job
    due: bool
    obstacle: Optional[blockers.Obstacle] = None
    ahead: Optional[queries.Count] = None
    estimate: str = ""
    all_busy: bool = False
    block: Optional[limit_use.Block] = None
    blocked: Optional[chains.Waiting] = None

    @property
    def level(self) -> str:
        """info, warn or alarm"""
        job, obstacle = self.job, self.obstacle
        if job.state == "dead" or (obstacle is not None and obstacle.kind == "none" and self.due):
            return "alarm"
        cancelling = job.state == "processing" and job.cancel_requested_at is not None
        stuck = self.blocked is not None and bool(self.blocked.failed)
        return "warn" if obstacle is not None or cancelling or stuck or job.state == "failed" else "info"

    @property
    def quiet(self) -> list[str]:
        """Ids of draining workers that would take the job."""
        if self.obstacle is None or self.obstacle.kind != "quiet":
            return []
        return [view.worker.id for view in self.obstacle.serving if view.worker.requested_state == "quiet"]

    @property
    def command(self) -> str:
        """The command that starts a worker for the job, if that helps, or ''."""
        obstacle = self.obstacle
        if obstacle is None or obstacle.kind == "paused" or self.quiet:
            return ""
        other_queues = obstacle.kind in {"none", "unlabelled"}
        return start_command("" if other_queues else obstacle.queue, obstacle.requires)


def why(session: Session, job: Job) -> Why:
    due = job.state == "pending" or job.run_at <= clock.now()
    if job.state not in {"pending", "scheduled", "failed"}:
        return Why(job, due, blocked=chains.waiting(session, job))
    fleet = blockers.fleet_of(session, job.queue, job.requires)
    if fleet.obstacle is not None or job.state != "pending":
        return Why(job, due, fleet.obstacle)
    block = limit_use.block(session, job)
    if block is not None or job.losses:
        return Why(job, due, block=block)
    ahead = queries.count_ahead(session, job)
    # Rates are not counted by label.
    seconds = None if job.requires else blockers.seconds_for(session, job.queue, ahead.number)
    estimate = "" if seconds is None else about(seconds, "at least " if ahead.capped else "about ")
    return Why(job, due, None, ahead, estimate, fleet.free == 0)


# What a list shows beside 'pending', by the kind of the obstacle.
SHORT = {
    "paused": "queue paused",
    "none": "no workers",
    "unserved": "no worker for {queue}",
    "unlabelled": "needs {labels}",
    "quiet": "workers draining",
}


def short_reasons(session: Session, jobs: Sequence[Job], lease: float) -> dict[int, str]:
    """Why pending and blocked jobs wait, in a few words, by their `seq`. Not those that only wait for their turn."""
    pending = {job.seq: labels.LabelSet(job.queue, job.requires) for job in jobs if job.state == "pending"}
    found = blockers.obstacles(session, pending.values(), lease)
    reasons = {seq: _short(found[one]) for seq, one in pending.items() if one in found}
    may_start = [job for job in jobs if job.seq in pending and job.seq not in reasons]
    reasons.update((seq, block.short) for seq, block in limit_use.blocks(session, may_start).items())
    reasons.update((seq, unmet.short) for seq, unmet in chains.waiting_of_each(session, jobs).items())
    return reasons


def _short(obstacle: blockers.Obstacle) -> str:
    names = obstacle.missing or tuple(labels.split(obstacle.requires))
    words = listed([name.removeprefix(labels.HOST) for name in names])
    return SHORT[obstacle.kind].format(queue=obstacle.queue, labels=words)


def about(seconds: float, least: str = "about ") -> str:
    """'under a minute', 'about 3 min', 'about 5 h': one unit, because it is an estimate."""
    if seconds < 55:
        return "under a minute"
    for length, unit, most in ((60, "min", 90), (3600, "h", 36), (86400, "days", 10_000)):
        if seconds / length < most:
            return f"{least}{max(round(seconds / length), 1):,} {unit}"
    return f"{least}{round(seconds / 86400 / 365):,} years"


# --- words for workers and their labels ------------------------------------------------------------------------------


def start_command(queue: str = "", requires: str = "") -> str:
    """The command that starts a worker with these labels, for this queue or for all.

    It leaves out a host label, because the command must run on that host: see `place`.
    """
    queues = ["--queue", queue] if queue else []
    return " ".join([START_COMMAND, *queues, *(f"--label {label}" for label in _but_hosts(labels.split(requires)))])


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
