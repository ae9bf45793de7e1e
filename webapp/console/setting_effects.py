"""What a new value of a setting would do, told before it is saved: two timetables, and what follows in words.

Counts stop where `queries.count` stops, so that none costs more on a large table.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Callable, Optional

from sqlalchemy import func, literal_column, select
from sqlalchemy.orm import Session

from webapp.console.retry_schedule import Timetable
from webapp.console.wording import number
from webapp.core import setting_values
from webapp.db.models import Audit, Job, Worker
from webapp.jobs import queries, settings
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.durations import duration
from webapp.lib.text import plural, size

BACKOFF = frozenset({"max_retries", "backoff_base", "backoff_max", "backoff_jitter"})
KEPT = {"keep_completed": "completed", "keep_cancelled": "cancelled", "keep_dead": "dead"}


@dataclass(frozen=True)
class Consequence:
    """`warning` is what cannot be taken back; it stands first."""

    texts: list[str]
    warning: str = ""
    before: Optional[Timetable] = None
    after: Optional[Timetable] = None


def foresee(session: Session, value: settings.Value, new: setting_values.Number) -> Consequence:
    """What `new` would do, compared with what stands; for the value that stands, what it does."""
    key = value.definition.key
    if key in BACKOFF:
        return _backoff(session, value, new)
    if key in KEPT:
        return _kept(session, KEPT[key], int(new), changed=new != value.value)
    if key == "keep_audit":
        return _audit_kept(session, int(new), changed=new != value.value)
    if key in _TOLD:
        return Consequence(_TOLD[key](session, float(value.value), float(new)))
    return Consequence(["A new value is obeyed at once, by every worker."])


# --- retries ---------------------------------------------------------------------------------------------------------


def _backoff(session: Session, value: settings.Value, new: setting_values.Number) -> Consequence:
    before = settings.load(session)
    after = copy.copy(before)
    setattr(after, value.definition.key, new)
    texts = ["For jobs that do not set their own number of retries." if after.max_retries else
             "No retries: what fails is a dead letter at once, unless the job sets its own number."]  # fmt: skip
    if after.backoff_jitter and after.max_retries:
        texts.append(f"Each wait grows by up to {number(round(after.backoff_jitter * 100, 1))} % of itself at random.")
    if new != value.value:
        texts += _waiting(session, value.definition.key)
    old = Timetable.of(before, before.max_retries) if new != value.value else None
    return Consequence(texts, "", old, Timetable.of(after, after.max_retries))


def _waiting(session: Session, key: str) -> list[str]:
    """The truth about jobs that wait for a retry: when it starts was written down as they failed."""
    waiting = queries.count(session, in_state("failed"))
    if waiting.number == 0:
        return ["No job waits for a retry now."]
    one = waiting.number == 1
    text = (
        "1 job waits for a retry now. It does not move: when it starts was fixed as it failed. "
        if one
        else f"{waiting} jobs wait for a retry now. None of them moves: when each starts was fixed as it failed. "
    )
    if key == "max_retries":
        return [text + "How many retries follow is decided by what holds at the next failure. Dead letters stay."]
    return [text + "The new value counts from the next failure on."]


# --- keeping ---------------------------------------------------------------------------------------------------------


def _kept(session: Session, state: str, days: int, changed: bool) -> Consequence:
    what = "dead letters" if state == "dead" else f"{state} jobs"
    if days == 0:
        return Consequence([f"All {what} are kept until somebody discards them."])
    older = queries.count(session, in_state(state), Job.finished_at < clock.now() - days * clock.DAY)
    if older.number == 0:
        none = f"No {'dead letter' if state == 'dead' else state + ' job'} is that old now: nothing is deleted at once."
        return Consequence([none, "Each goes with its attempts and output when it gets so old."])
    one = "dead letter" if state == "dead" else f"{state} job"
    prune = f"{older} {one if older.number == 1 else what} {'is' if older.number == 1 else 'are'} older than that"
    if not changed:
        return Consequence([f"{prune} and deleted within minutes."])
    return Consequence(
        ["Others go with their attempts and output when they get so old."],
        f"This would prune {older} {one if older.number == 1 else what}, with attempts and output, within minutes of "
        "saving. They cannot be brought back.",
    )


def _audit_kept(session: Session, days: int, changed: bool) -> Consequence:
    if days == 0:
        return Consequence(["All lines of the audit trail are kept."])
    # The first lines, for no index has the time.
    first = select(Audit.at).order_by(Audit.id).limit(queries.COUNT_CAP + 1).subquery()
    old = select(func.count()).select_from(first).where(first.c.at < clock.now() - days * clock.DAY)
    found = session.scalar(old) or 0
    older = queries.Count(min(found, queries.COUNT_CAP), found > queries.COUNT_CAP)
    told = "Lines go by whole days. Each time, a line in the trail says how many were deleted."
    if found == 0:
        return Consequence(["No line of the audit trail is that old now.", told])
    lines = f"{older} {'line' if found == 1 else 'lines'} of the audit trail"
    if not changed:
        return Consequence([f"{lines} {'is' if found == 1 else 'are'} older than that and deleted within a day.", told])
    return Consequence([told], f"This would delete {lines} within a day of saving. Export them first to keep them.")


# --- running and workers ---------------------------------------------------------------------------------------------


def _lease(session: Session, old: float, new: float) -> list[str]:
    texts = [
        f"Each worker gives a sign of life every {duration(min(10.0, new / 6))}. One that gives none for "
        f"{duration(new)} is taken for dead: what it runs is ended, and its jobs go back to their queue."
    ]
    if new < old:
        texts.append("Jobs of a machine that froze or was cut off go back sooner. One that only pauses for so long "
                     "loses its jobs, too, and they run again.")  # fmt: skip
    elif new > old:
        texts.append("Longer pauses do no harm. Jobs of a machine that froze or was cut off wait longer before they "
                     "go back.")  # fmt: skip
    running = Worker.state == literal_column("'running'")
    late = running & (Worker.seen_at < clock.now() - clock.seconds(new))
    silent = session.scalar(select(func.count()).select_from(Worker).where(late)) or 0
    if silent:
        texts.append(f"Not heard of for longer than that now: {plural(silent, 'worker')}.")
    texts.append("A worker that dies on its supervisor's machine is noticed at once, whatever stands here.")
    return texts


def _shutdown(_session: Session, _old: float, new: float) -> list[str]:
    first = (
        f"After Ctrl-C or TERM, commands may run for {duration(new)}. What still runs then is handed back to its queue "
        "and starts anew elsewhere, without counting as a failure."
        if new
        else "After Ctrl-C or TERM all that runs is handed back at once, and starts anew elsewhere."
    )
    return [
        first,
        "So it is where a newer version takes over. A worker that is stopped here, or scaled away, is not hurried.",
    ]


def _kill(_session: Session, _old: float, new: float) -> list[str]:
    return [
        "A command that is to end, by its time limit, a cancellation or a shutdown, is asked to (TERM) "
        + (f"and killed {duration(new)} later, if it still runs." if new else "and killed at once."),
        "For their time limit, attempts that run now keep the value that they began with.",
    ]


def _timeout(session: Session, _old: float, new: float) -> list[str]:
    texts = [
        f"An attempt that runs for longer than {duration(new)} is ended and counts as failed, if its job sets no limit."
        if new
        else "An attempt may run for ever, if its job sets no limit.",
        "Attempts that run now keep the limit that they began with.",
    ]
    if new:
        since = clock.now() - clock.seconds(new)
        longer = queries.count(session, in_state("processing"), Job.started_at < since, Job.timeout.is_(None))
        if longer.number:
            texts.append(f"Running for longer than that now, with no limit of their own: {longer} "
                         f"{'job' if longer.number == 1 else 'jobs'}.")  # fmt: skip
    return texts


def _output(_session: Session, _old: float, new: float) -> list[str]:
    return [
        f"Of each attempt at most {size(int(new))} of output are kept: the first and the last {size(int(new) // 2)}.",
        "It holds for attempts that begin from now on. What is stored already stays as it is.",
    ]


def _memory(_session: Session, _old: float, new: float) -> list[str]:
    limit = f"An attempt and all that it starts may use {size(int(new) * 1024**2)}; whatever wants more is killed."
    return [limit if new else "No limit: an attempt may use what the machine has.", _FROM_NOW]


def _processes(_session: Session, _old: float, new: float) -> list[str]:
    limit = f"An attempt may have {number(new)} processes and threads at once; to start another fails."
    return [limit if new else "No limit: an attempt may start as many as the machine bears.", _FROM_NOW]


_FROM_NOW = "It holds for attempts that begin from now on."
_TOLD: dict[str, Callable[[Session, float, float], list[str]]] = {
    "lease": _lease,
    "shutdown_grace": _shutdown,
    "kill_grace": _kill,
    "job_timeout": _timeout,
    "output_limit": _output,
    "job_memory_limit": _memory,
    "job_process_limit": _processes,
}
