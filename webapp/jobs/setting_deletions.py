"""What a new value of a setting deletes at once. People and programs confirm it before it is saved.

The counts are exact: what cannot be undone is not rounded. They are for one request; pages that show the effect while a
person types use the capped counts of `console/display/setting_effects.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import ColumnElement, func, select, text
from sqlalchemy.orm import Session

from webapp.core.settings import PER_QUEUE, Definition, Number, Settings
from webapp.core.storage.size import FREED, MIB, used_bytes
from webapp.db import engines, models
from webapp.db.models import Job
from webapp.jobs.lifecycle import in_state
from webapp.lib import clock
from webapp.lib.text import plural, size

STATES: Mapping[str, tuple[str, ...]] = {  # of the jobs that a setting of PER_QUEUE deletes, or whose output it deletes
    "keep_completed": ("completed",),
    "keep_cancelled": ("cancelled",),
    "keep_dead": ("dead",),
    "keep_output": FREED,
}
SIZE = "max_database_size"
_NOUNS = {
    "keep_completed": ("completed job",),
    "keep_cancelled": ("cancelled job",),
    "keep_dead": ("dead letter",),
    "keep_output": ("ended job",),
    "keep_fires": ("fire",),
    "keep_deliveries": ("message",),
    "keep_audit": ("audit entry", "audit entries"),
}
_BUTTONS = {"keep_completed": ("job",), "keep_cancelled": ("job",), "keep_output": ("job",)}  # shorter nouns


@dataclass(frozen=True)
class Deletion:
    """What a new value deletes. `number`: of rows, or of bytes for the size limit; never 0."""

    definition: Definition
    new: Number
    number: int

    @property
    def what(self) -> str:
        """'1,200 completed jobs of queue mail', 'the output of 3 ended jobs', 'about 2.0 MiB'"""
        queue = f" of queue {self.definition.queue}" if self.definition.queue else ""
        return self._name(_NOUNS) + queue

    @property
    def button(self) -> str:
        return f"Save and delete {self._name({**_NOUNS, **_BUTTONS})}"

    def _name(self, nouns: Mapping[str, tuple[str, ...]]) -> str:
        base = self.definition.base
        if base == SIZE:
            return f"about {size(self.number)}"
        return ("the output of " if base == "keep_output" else "") + plural(self.number, *nouns[base])

    def __str__(self) -> str:
        """'deletes 1,200 completed jobs within minutes, with attempts and output. This cannot be undone.'"""
        base = self.definition.base
        when = "within a day" if base == "keep_audit" else "within minutes"
        rest = ", with attempts and output" if base in STATES and base != "keep_output" else ""
        if base == SIZE:
            rest = ", but only output and completed and cancelled jobs"
        return f"deletes {self.what} {when}{rest}. This cannot be undone."


class NeedsConfirmation(Exception):
    """The change deletes something, and the caller has not confirmed that. Nothing was saved."""

    def __init__(self, deletion: Deletion) -> None:
        self.deletion = deletion
        super().__init__(f"{deletion.definition.key} = {deletion.new} {deletion}")


def keeps_less(old: Number, new: Number) -> bool:
    """Whether a new value of a setting of retention keeps less than the old one. 0 is no limit."""
    return bool(new) and (not old or new < old)


def of_change(
    session: Session, definition: Definition, values: Settings, old: Number, new: Number
) -> Optional[Deletion]:
    """None: the change deletes nothing that the old value keeps."""
    if not keeps_less(old, new):
        return None
    base = definition.base
    if base == SIZE:
        used = used_bytes(lambda statement: session.scalar(text(statement)), is_sqlite=engines.is_sqlite())
        number = used - int(new) * MIB
    elif base in PER_QUEUE:
        number = _old_jobs(session, definition, values, int(new))
    elif base in _NOUNS:
        number = session.scalar(select(func.count()).where(_old_rows(base, int(new)))) or 0
    else:
        return None
    return Deletion(definition, new, number) if number > 0 else None


def _old_rows(base: str, days: int) -> ColumnElement[bool]:
    """The condition of `worker/maintenance/retention.py` for records that are no jobs."""
    before = clock.now() - days * clock.DAY
    if base == "keep_audit":
        return models.Audit.at < before // clock.DAY * clock.DAY  # it deletes whole days
    return models.Fire.decided_at < before if base == "keep_fires" else models.Delivery.ended_at < before


def _old_jobs(session: Session, definition: Definition, values: Settings, days: int) -> int:
    """Jobs that ended so many days ago, of the setting's queue, or of all queues without a value of their own."""
    own = values.own[definition.base]
    conditions: list[Any] = [Job.finished_at < clock.now() - days * clock.DAY]
    if definition.queue is not None:
        conditions.append(Job.queue == definition.queue)
    elif own:
        conditions.append(Job.queue.not_in(list(own)))
    counted = select(func.count()).select_from(Job)
    return sum(session.scalar(counted.where(in_state(state), *conditions)) or 0 for state in STATES[definition.base])
