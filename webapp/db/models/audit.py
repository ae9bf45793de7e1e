"""The audit trail."""

from __future__ import annotations

from typing import Optional

from sqlalchemy import CheckConstraint, Index
from sqlalchemy.orm import Mapped, mapped_column

from webapp.db.engines import Model
from webapp.db.models.base import Sequence, one_of


class Audit(Model):
    """A line of the audit trail. A trigger refuses changes, and deletions except of old lines by retention."""

    __tablename__ = "audit"

    id: Mapped[int] = mapped_column(Sequence, primary_key=True, autoincrement=True)
    at: Mapped[int]
    actor: Mapped[str]  # person:ana, token:deploy, anonymous
    verb: Mapped[str]
    subject: Mapped[str]  # as in events
    outcome: Mapped[str]
    face: Mapped[str]  # command, console, api; worker: retention
    address: Mapped[Optional[str]]
    detail: Mapped[Optional[str]]  # a JSON object; `before` and `after` have the changes

    __table_args__ = (
        CheckConstraint(one_of("outcome", ("done", "refused")), name="outcome"),
        Index("ix_audit_actor", "actor", "id"),
        Index("ix_audit_subject", "subject", "id"),
        {"sqlite_autoincrement": True},
    )
