"""The audit trail: every write of a person or a program, every sign-in, every refusal; who, from where, before, after.

A row is written in the transaction that does what it tells, and nothing can change it (a trigger refuses). What workers
and the clock do is no part of it: that is on the jobs themselves. The lines themselves are in `core/audit_lines.py`.

Retention alone deletes lines. The trigger allows only lines older than the setting `keep_audit`, and only behind a
fresh line that says so, see `worker/maintenance/retention.py`. Lines from before schema 0006 have the whole command
until they are old enough to be deleted: the trail is append-only for upgrades, too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional

from sqlalchemy import Select, select, text
from sqlalchemy.orm import Session

from webapp.core.audit_lines import LINE, Origin, lines
from webapp.db.engines import reading
from webapp.db.models import Audit
from webapp.lib import clock

PAGE = 1000  # rows that one read of an export takes


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
    """Add a line for each subject. `details` has as many: `{"before": …, "after": …}` where something changed.

    `origin` is that of the request or command, unless it is given.
    """
    if subjects:
        session.execute(text(LINE), lines(verb, subjects, actor, outcome=outcome, details=details, origin=origin))


@dataclass(frozen=True)
class Wanted:
    """Which rows somebody looks for; what is empty narrows nothing. Subject and actor match from their beginning."""

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


def page(session: Session, wanted: Wanted, *, before: Optional[int] = None, limit: int) -> list[Audit]:
    """The newest rows, or those before an id; newest first."""
    statement = wanted.rows().order_by(Audit.id.desc()).limit(limit)
    if before is not None:
        statement = statement.where(Audit.id < before)
    return list(session.scalars(statement))


def newer_than(session: Session, wanted: Wanted, before: int, *, limit: int) -> Optional[int]:
    """The `before` of the page above the one that stands before an id; None where that is the first page."""
    ids = wanted.rows().with_only_columns(Audit.id).where(Audit.id >= before)
    above = session.scalars(ids.order_by(Audit.id).limit(limit + 1)).all()
    return above[limit] if len(above) > limit else None


def actor_named(text: str) -> str:
    """What somebody typed to look for an actor: a bare name is a person's."""
    text = text.strip()
    return text if not text or ":" in text or text == "anonymous" else f"person:{text}"


def export(session: Session, wanted: Wanted, after: int = 0) -> Iterator[Audit]:
    """One read of an export, oldest first: PAGE rows at the most, those after an id. Ask again until none comes."""
    yield from session.scalars(wanted.rows().where(Audit.id > after).order_by(Audit.id).limit(PAGE))


def whole(wanted: Wanted) -> Iterator[list[Audit]]:
    """All that match, oldest first, read by read: none of them lasts, however slowly somebody takes it."""
    after = 0
    while True:
        with reading() as session:
            rows = list(export(session, wanted, after))
        if not rows:
            return
        yield rows
        after = rows[-1].id


def as_json(row: Audit) -> dict[str, Any]:
    """A row as an export and the API have it."""
    return {
        "id": row.id,
        "at": clock.to_iso(row.at),
        "actor": row.actor,
        "verb": row.verb,
        "subject": row.subject,
        "outcome": row.outcome,
        "face": row.face,
        "address": row.address,
        "detail": json.loads(row.detail) if row.detail else None,
    }
