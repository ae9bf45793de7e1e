"""The effect of a new setting value, shown before it is saved: two retry schedules, and texts.

Counts are capped by `queries.count`, so large tables cost no more.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Optional

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.console.display.wording import number
from webapp.core import backoff
from webapp.core.settings import Number, Settings
from webapp.db.models import Audit, Job, Worker
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.lib.text import plural, size

BACKOFF = frozenset({"max_retries", "backoff_base", "backoff_max", "backoff_jitter"})
SHOWN_RETRIES = 8  # listed in a schedule
COUNTED_RETRIES = 1000  # listed, or summed up
KEPT = {"keep_completed": "completed", "keep_cancelled": "cancelled", "keep_dead": "dead"}


@dataclass(frozen=True)
class Timetable:
    """Without jitter: (number, wait, time since the first failure) of each retry, and the number not listed."""

    rows: list[tuple[int, str, str]]
    more: int
    total: str
    jitter: float

    @classmethod
    def of(cls, values: Settings, retries: int) -> Timetable:
        waits = backoff.timetable(values, min(retries, COUNTED_RETRIES))
        rows, passed = [], 0.0
        for retry, wait in enumerate(waits, 1):
            passed += wait
            if retry <= SHOWN_RETRIES:
                rows.append((retry, duration(wait), duration(passed)))
        return cls(rows, max(len(waits) - SHOWN_RETRIES, 0), duration(passed), values.backoff_jitter)


@dataclass(frozen=True)
class Consequence:
    """`warning` is about what cannot be undone; it comes first."""

    texts: list[str]
    warning: str = ""
    before: Optional[Timetable] = None
    after: Optional[Timetable] = None


def foresee(session: Session, value: settings.Value, new: Number) -> Consequence:
    """The effect of `new` compared with the current value. If both are equal, the effect of the current value."""
    key = value.definition.key
    if key in BACKOFF:
        return _backoff(session, value, new)
    if key in KEPT:
        return _kept(session, KEPT[key], int(new), changed=new != value.value)
    if key == "keep_audit":
        return _audit_kept(session, int(new), changed=new != value.value)
    if key == "lease":
        return Consequence(_lease(session, float(value.value), float(new)))
    if key == "job_timeout":
        return Consequence(_timeout(session, float(new)))
    if key in EFFECTS:
        return _effect(key, new)
    return Consequence(["Takes effect at once on every worker."])


def _backoff(session: Session, value: settings.Value, new: Number) -> Consequence:
    before = settings.load(session)
    after = copy.copy(before)
    setattr(after, value.definition.key, new)
    texts = ["No retries: failed jobs become dead letters at once, unless a job sets its own number."]
    if after.max_retries:
        texts = ["For jobs without their own number of retries."]
    if after.backoff_jitter and after.max_retries:
        texts.append(f"Up to {number(round(after.backoff_jitter * 100, 1))} % is added to each wait at random.")
    if new != value.value:
        texts += _waiting(session, value.definition.key)
    old = Timetable.of(before, before.max_retries) if new != value.value else None
    return Consequence(texts, "", old, Timetable.of(after, after.max_retries))


def _waiting(session: Session, key: str) -> list[str]:
    """What happens to waiting retries: their start times are fixed when the jobs fail."""
    waiting = queries.count(session, in_state("failed"))
    if waiting.number == 0:
        return ["No job is waiting for a retry."]
    text = f"{waiting} jobs are waiting for a retry. Their start times do not change."
    if waiting.number == 1:
        text = "1 job is waiting for a retry. Its start time does not change."
    if key == "max_retries":
        return [f"{text} The next failure uses the new number of retries. Dead letters stay dead."]
    return [f"{text} The new value applies from the next failure."]


def _kept(session: Session, state: str, days: int, changed: bool) -> Consequence:
    one = "dead letter" if state == "dead" else f"{state} job"
    what = f"{one}s"
    if days == 0:
        return Consequence([f"All {what} are kept until you discard them."])
    older = queries.count(session, in_state(state), Job.finished_at < clock.now() - days * clock.DAY)
    if older.number == 0:
        none = f"No {one} is that old. Nothing is deleted now."
        return Consequence([none, "Each is deleted at that age, with attempts and output."])
    number_of = f"{older} {one if older.number == 1 else what}"
    if not changed:
        are = "is" if older.number == 1 else "are"
        return Consequence([f"{number_of} {are} older and will be deleted within minutes."])
    warning = f"Saving deletes {number_of} within minutes, with attempts and output. This cannot be undone."
    return Consequence(["Others are deleted at that age, with attempts and output."], warning)


def _audit_kept(session: Session, days: int, changed: bool) -> Consequence:
    if days == 0:
        return Consequence(["All audit entries are kept."])
    # Only the first entries: no index has the time.
    first = select(Audit.at).order_by(Audit.id).limit(queries.COUNT_CAP + 1).subquery()
    old = select(func.count()).select_from(first).where(first.c.at < clock.now() - days * clock.DAY)
    found = session.scalar(old) or 0
    older = queries.Count(min(found, queries.COUNT_CAP), found > queries.COUNT_CAP)
    by_day = "Entries are deleted by whole days. Each time, a new entry says how many."
    if found == 0:
        return Consequence(["No audit entry is that old.", by_day])
    entries = f"{older} audit {'entry' if found == 1 else 'entries'}"
    if not changed:
        are = "is" if found == 1 else "are"
        return Consequence([f"{entries} {are} older than that and will be deleted within a day.", by_day])
    return Consequence([by_day], f"Saving deletes {entries} within a day. Export them first to keep them.")


def _lease(session: Session, old: float, new: float) -> list[str]:
    texts = [
        f"Each worker sends a heartbeat every {duration(min(10.0, new / 6))}. A worker without a heartbeat for "
        f"{duration(new)} is presumed dead: its commands are stopped, and its jobs return to their queue."
    ]
    if new < old:
        texts.append("Jobs of a frozen or unreachable machine return sooner. A machine that only pauses this long "
                     "also loses its jobs, and they run again.")  # fmt: skip
    elif new > old:
        texts.append("Longer pauses do no harm. Jobs of a frozen or unreachable machine return later.")
    running = Worker.state == literal_column("'running'")
    late = running & (Worker.seen_at < clock.now() - clock.seconds(new))
    silent = session.scalar(select(func.count()).select_from(Worker).where(late)) or 0
    if silent:
        texts.append(f"{plural(silent, 'worker has', 'workers have')} been silent for longer than that.")
    texts.append("A worker that crashes while its supervisor runs is noticed at once, whatever the value.")
    return texts


def _timeout(session: Session, new: float) -> list[str]:
    texts = [
        f"An attempt that runs longer than {duration(new)} is stopped and fails, unless its job sets its own timeout."
        if new
        else "Attempts have no time limit, unless their job sets a timeout.",
        "Running attempts keep the timeout they started with.",
    ]
    if new:
        since = clock.now() - clock.seconds(new)
        longer = queries.count(session, in_state("processing"), Job.started_at < since, Job.timeout.is_(None))
        if longer.number:
            texts.append(f"{longer} running {'job has' if longer.number == 1 else 'jobs have'} already run longer.")
    return texts


FROM_NOW = "Applies to new attempts."
# Of each setting: its effect for a value, its effect for 0, and what else to know.
EFFECTS = {
    "shutdown_grace": (
        "After Ctrl-C or TERM, running commands have {duration} to finish. After that they are stopped, and their jobs "
        "return to the queue. This does not count as a failure.",
        "After Ctrl-C or TERM, running commands are stopped at once, and their jobs return to the queue.",
        "The same applies when a newer version takes over. Workers that you stop or scale down have no time limit.",
    ),
    "kill_grace": (
        "On a timeout, a cancel or a shutdown, a command gets TERM and is killed if it still runs {duration} later.",
        "On a timeout, a cancel or a shutdown, a command gets TERM and is killed at once.",
        "For their timeout, running attempts keep the value they started with.",
    ),
    "output_limit": (
        "Keeps up to {size} of output per attempt: the first and the last {half}.",
        "",
        f"{FROM_NOW} Stored output does not change.",
    ),
    "job_memory_limit": (
        "An attempt with all its processes may use {memory}. Processes that need more are killed.",
        "No limit: an attempt may use all memory of the machine.",
        FROM_NOW,
    ),
    "job_process_limit": (
        "An attempt may have {number} processes and threads at once. Starting more fails.",
        "No limit: an attempt may start as many as the machine allows.",
        FROM_NOW,
    ),
}


def _effect(key: str, new: float) -> Consequence:
    effect, none, more = EFFECTS[key]
    whole = int(new)
    shown = {"duration": duration(new), "size": size(whole), "half": size(whole // 2), "memory": size(whole * 1024**2)}
    return Consequence([(effect if new else none).format(**shown, number=number(new)), more])
