"""Reads the audit trail, and adds lines to it in a session's transaction. `core/audit_lines.py` has the line itself.

The trail has every write of a person or a program, every sign-in and every refusal: who, from where, before and after.
A line is written in the transaction of the change that it records. A trigger refuses to change lines. What workers do
is on the jobs, not here.

Only retention deletes lines, see `worker/maintenance/retention.py`: the trigger requires them to be older than the
setting `keep_audit`, and a new line that records the deletion. Lines from before schema 0006 have whole commands.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import Select, func, select, text
from sqlalchemy.orm import Session

from webapp.core.audit_lines import LINE, Origin, lines
from webapp.db.engines import reading
from webapp.db.models import Audit
from webapp.lib import clock

EXPORT_BATCH = 1000  # rows of one transaction of an export
COUNT_CAP = 10_000


def note(
    session: Session,
    verb: str,
    subjects: Sequence[str],
    actor: str,
    *,
    outcome: str = "done",
    details: Optional[Sequence[Optional[Mapping[str, Any]]]] = None,
    origin: Optional[Origin] = None,
) -> None:
    """Add a line for each subject, see `core/audit_lines.lines`."""
    if subjects:
        session.execute(text(LINE), lines(verb, subjects, actor, outcome=outcome, details=details, origin=origin))


@dataclass(frozen=True)
class AuditFilter:
    """Conditions on lines; empty ones do not count. `actor` and `subject` are prefixes. `since` is in microseconds."""

    actor: str = ""
    verb: str = ""
    subject: str = ""
    outcome: str = ""
    since: Optional[int] = None

    def rows(self) -> Select[tuple[Audit]]:
        statement = select(Audit)
        if self.actor:
            statement = statement.where(Audit.actor >= self.actor, Audit.actor < self.actor + "\U0010ffff")
        if self.subject:
            statement = statement.where(Audit.subject >= self.subject, Audit.subject < self.subject + "\U0010ffff")
        if self.verb:
            statement = statement.where(Audit.verb == self.verb)
        if self.outcome:
            statement = statement.where(Audit.outcome == self.outcome)
        if self.since is not None:
            statement = statement.where(Audit.at >= self.since)
        return statement


def page(session: Session, wanted: AuditFilter, *, before: Optional[int] = None, limit: int) -> list[Audit]:
    """The newest lines, or those before an id; newest first."""
    statement = wanted.rows().order_by(Audit.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Audit.id < before)
    return list(session.scalars(statement))


def count(session: Session, wanted: AuditFilter) -> str:
    """How many lines match, in words: '1,234', or '10,000+'."""
    rows = wanted.rows().with_only_columns(Audit.id).limit(COUNT_CAP + 1).subquery()
    number = session.scalar(select(func.count()).select_from(rows)) or 0
    return f"{number:,}" if number <= COUNT_CAP else f"{COUNT_CAP:,}+"


def newer_than(session: Session, wanted: AuditFilter, before: int, *, limit: int) -> Optional[int]:
    """The `before` of the page above the page before an id; None if that is the first page."""
    ids = wanted.rows().with_only_columns(Audit.id).where(Audit.id >= before)
    above = session.scalars(ids.order_by(Audit.id).limit(limit + 1)).all()
    return above[limit] if len(above) > limit else None


def actor_named(text: str) -> str:
    """The actor of a search text: a name without a prefix is a person."""
    text = text.strip()
    return text if not text or ":" in text or text == "anonymous" else f"person:{text}"


def export(wanted: AuditFilter, *, newest_first: bool = False) -> Iterator[list[Audit]]:
    """All matching lines in batches. Each batch has its own short transaction."""
    beyond, order = Audit.id > 0, Audit.id.desc() if newest_first else Audit.id.asc()
    while True:
        with reading() as session:
            rows = list(session.scalars(wanted.rows().where(beyond).order_by(order).limit(EXPORT_BATCH)))
        if not rows:
            return
        yield rows
        beyond = Audit.id < rows[-1].id if newest_first else Audit.id > rows[-1].id


def as_json(row: Audit) -> dict[str, Any]:
    """A line for exports and the API."""
    shown = clock.columns(row, "id", "at", "actor", "verb", "subject", "outcome", "face", "address")
    return {**shown, "detail": json.loads(row.detail) if row.detail else None}
