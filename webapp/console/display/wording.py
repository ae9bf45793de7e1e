"""The console's texts for states, verbs, actors, numbers and browsers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Optional

from webapp.core.states import ARROWS
from webapp.lib.text import shorten

NOTHING = "\N{EN DASH}"  # a table cell without a value
ROLE_HELP = {
    "viewer": "can read jobs, output, workers and settings; cannot change anything",
    "operator": "also submits, cancels, requeues and discards jobs, and pauses and removes queues; can run any command",
    "admin": "also changes settings, controls workers, manages users and tokens, and reads the audit trail",
}
EMPTY = {
    "": ("No jobs yet", "A job is a shell command. Submit one here, or from a terminal."),
    "blocked": ("No blocked jobs", "Jobs that depend on other jobs wait here until those have ended."),
    "scheduled": ("No scheduled jobs", "Jobs with a start time or a delay wait here until they are due."),
    "pending": ("No pending jobs", "Jobs that are due wait here for a worker."),
    "processing": ("No running jobs", "Jobs appear here while a worker runs them."),
    "completed": ("No completed jobs", "Jobs that end with exit code 0 are kept here for some time."),
    "failed": ("No jobs to retry", "Failed jobs wait here for their next attempt."),
    "dead": ("No dead letters", "Jobs that run out of retries stay here until you requeue or discard them."),
    "cancelled": ("No cancelled jobs", "Cancelled jobs are kept here for some time."),
}


@dataclass(frozen=True)
class Verb:
    """One action on jobs. `path` is its name in a URL. With `asks` it needs confirmation even for a single job."""

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
        Verb("run_now", "run-now", "Run now", "Set to run now:", "They start as soon as a worker is free."),
        Verb("requeue", "requeue", "Requeue", "Requeued", "They rejoin the queue with retries reset."),
        Verb("cancel", "cancel", "Cancel", "Cancelled",
             "Waiting jobs will not run. Running commands get TERM, and are killed if they do not stop.", danger=True),
        Verb("discard", "discard", "Discard", "Discarded",
             "Jobs, attempts and output are deleted. This cannot be undone.", asks=True, danger=True),
    )
}  # fmt: skip


def verbs_for(state: Optional[str]) -> list[Verb]:
    """The actions that jobs in a state allow. None: all actions."""
    return [
        verb
        for verb in VERBS.values()
        if state is None or state in ARROWS[verb.name].leaves or (verb.name == "cancel" and state == "processing")
    ]


def who(actor: Optional[str]) -> str:
    """'person:ana' as 'ana', 'token:deploy' as 'token deploy', 'rule:retention' as 'rule retention'."""
    kind, _, name = (actor or "").partition(":")
    if not name:
        return actor or NOTHING
    words = {
        "person": name,
        "token": f"token {name}",
        "worker": f"worker {name}",
        "rule": f"rule {name}",
        "schedule": f"schedule {name}",
        "batch": f"batch {name}",
    }
    return words.get(kind, actor or NOTHING)


def number(value: Optional[float]) -> str:
    """'3,600', '0.1', '2.5'"""
    if value is None:
        return NOTHING
    return f"{int(value):,}" if value == int(value) else f"{value:,}"


# The first match counts: most browsers also name other browsers.
_BROWSERS = (
    ("Edge", re.compile(r"Edg(?:e|A|iOS)?/(\d+)")),
    ("Opera", re.compile(r"(?:OPR|Opera)/(\d+)")),
    ("Samsung Internet", re.compile(r"SamsungBrowser/(\d+)")),
    ("Firefox", re.compile(r"(?:Firefox|FxiOS)/(\d+)")),
    ("Chrome", re.compile(r"(?:HeadlessChrome|Chrome|CriOS|Chromium)/(\d+)")),
    ("Safari", re.compile(r"Version/(\d+)\S* .*Safari/")),
)
_SYSTEMS = (
    ("Android", "Android"),
    ("iPhone", "iPhone"),
    ("iPad", "iPad"),
    ("Windows", "Windows"),
    ("CrOS", "ChromeOS"),
    ("Mac OS X", "macOS"),
    ("Linux", "Linux"),
)
UNKNOWN_LIMIT = 40


def browser(agent: Optional[str]) -> str:
    """A User-Agent as short text: 'Firefox 128 on Linux'. Unknown ones are shown as they are, cut."""
    text = (agent or "").strip()
    if not text:
        return "unknown browser"
    name = next((f"{brand} {found[1]}" for brand, looks in _BROWSERS if (found := looks.search(text))), "")
    system = next((brand for part, brand in _SYSTEMS if part in text), "")
    if not name:
        return shorten(text, UNKNOWN_LIMIT)
    return f"{name} on {system}" if system else name
