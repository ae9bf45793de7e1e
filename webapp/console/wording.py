"""The console's words for what the queue is and does: states, verbs, actors, sizes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from webapp.core.states import ARROWS
from webapp.db.models import Job
from webapp.jobs.job_detail import TimelineEntry

NOTHING = "\N{EN DASH}"  # where a table has no value
STATE_HELP = {
    "scheduled": "not due yet",
    "pending": "due, waiting for a worker",
    "processing": "running now",
    "completed": "ended with exit code 0",
    "failed": "failed, waiting for its retry",
    "dead": "no retries left, or may not be retried",
    "cancelled": "stopped by a person",
}
ROLE_HELP = {
    "viewer": "looks at jobs, output, workers and settings, and changes nothing",
    "operator": "also submits, cancels, requeues and discards jobs, and pauses queues: may run any command",
    "admin": "also changes settings, steers workers, manages people and tokens, and reads the audit trail",
}
EMPTY = {
    "": ("No jobs yet", "A job is a shell command. Submit one here, or from a terminal."),
    "scheduled": ("Nothing is scheduled", "Jobs that were given a time or a delay wait here until they are due."),
    "pending": ("Nothing waits", "Jobs that are due stand here until a worker takes them."),
    "processing": ("Nothing runs right now", "Jobs that a worker has taken are shown here while they run."),
    "completed": ("Nothing has completed yet", "Jobs whose command ended with exit code 0 are kept here for a while."),
    "failed": ("Nothing waits for a retry", "Jobs whose last attempt failed wait here for the next one."),
    "dead": ("No dead letters", "Jobs that failed for good would lie here, until somebody requeues or discards them."),
    "cancelled": ("Nothing was cancelled", "Jobs that a person stopped are kept here for a while."),
}


@dataclass(frozen=True)
class Verb:
    """One act on jobs. `path` is its name in a URL, `past` says what was done; it `asks` even for a single job."""

    name: str
    path: str
    label: str
    past: str
    consequence: str
    asks: bool = False
    danger: bool = False


VERBS = {
    verb.path: verb
    for verb in (
        Verb("run_now", "run-now", "Run now", "Set to run now:", "They become pending at once, before their time."),
        Verb(
            "requeue",
            "requeue",
            "Requeue",
            "Requeued",
            "They become pending, with no failures to their name, and run as soon as a worker is free.",
        ),
        Verb(
            "cancel",
            "cancel",
            "Cancel",
            "Cancelled",
            "Jobs that wait will not run. Commands that run are told to end, and killed if they do not.",
            danger=True,
        ),
        Verb(
            "discard",
            "discard",
            "Discard",
            "Discarded",
            "They are deleted with their attempts and output. This cannot be undone.",
            asks=True,
            danger=True,
        ),
    )
}


def verbs_for(state: Optional[str]) -> list[Verb]:
    """The acts that make sense for jobs in a state; for None, all of them."""
    return [verb for verb in VERBS.values() if state is None or may_leave(verb, state)]


def may_leave(verb: Verb, state: str) -> bool:
    return state in ARROWS[verb.name].leaves or (verb.name == "cancel" and state == "processing")


def who(actor: Optional[str]) -> str:
    """'person:ana' as 'ana', 'token:deploy' as 'token deploy', 'rule:retention' as 'the rule retention'."""
    kind, _, name = (actor or "").partition(":")
    if not name:
        return actor or NOTHING
    words = {"person": name, "token": f"token {name}", "worker": f"worker {name}", "rule": f"the rule {name}"}
    return words.get(kind, actor or NOTHING)


_HAPPENED = {
    "enqueue": "Submitted",
    "promote": "Due: pending now",
    "requeue": "Requeued, with no failures to its name",
    "run_now": "Set to run now",
    "cancel": "Cancelled",
    "ask_cancel": "Asked to stop",
    "undo": "Put back by an undo",
    "bury": "Laid in the dead letters",
}
_ATTEMPT = {
    "start": "Attempt {n} started",
    "complete": "Attempt {n} completed",
    "fail": "Attempt {n} failed",
    "cancel": "Attempt {n} stopped",
    "release": "Attempt {n} handed back: its worker shut down",
    "lose": "Attempt {n} lost: its worker died",
}


def happened(line: TimelineEntry) -> str:
    """A line of a timeline as words."""
    if line.attempt is not None and line.verb in _ATTEMPT:
        return _ATTEMPT[line.verb].format(n=line.attempt)
    return _HAPPENED.get(line.verb, line.verb.replace("_", " ").capitalize())


def sentence(message: str) -> str:
    """A message that the command line shows behind a field's name, as a sentence of its own."""
    return message[:1].upper() + message[1:]


def number(value: Optional[float]) -> str:
    """'3,600', '0.1', '2.5'"""
    if value is None:
        return NOTHING
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


def shown_state(job: Job) -> str:
    return "processing · cancelling" if job.cancel_requested_at is not None else job.state
