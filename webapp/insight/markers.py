"""What users and programs changed in a window: settings, queues, schedules, workers. Charts mark these moments."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import ColumnElement, literal_column, or_, select
from sqlalchemy.orm import Session

from webapp.db.models import Event

NOUNS = ("setting", "queue", "schedule", "supervisor", "worker")
MAX_MARKERS = 20  # the newest
MAX_READ = 2_000  # events that are not about jobs
# As the index says. Most events are about a job.
_NOT_OF_JOBS: ColumnElement[bool] = literal_column("job_seq IS NULL")


@dataclass(frozen=True)
class Marker:
    """One change. `noun`: one of NOUNS. `name`: of the setting, the queue … `detail`: as in events."""

    at: int
    actor: str
    verb: str
    noun: str
    name: str
    detail: dict[str, Any]


def markers(session: Session, start: int, end: int) -> list[Marker]:
    """The newest changes from `start` until before `end`, oldest first."""
    newest = (
        select(Event.id)
        .where(_NOT_OF_JOBS, Event.at >= start, Event.at < end)
        .order_by(Event.at.desc())
        .limit(MAX_READ)
    )
    people = or_(Event.actor.like("person:%"), Event.actor.like("token:%"))
    nouns = or_(*(Event.subject.like(f"{noun}:%") for noun in NOUNS))
    found = session.scalars(
        select(Event).where(Event.id.in_(newest), people, nouns).order_by(Event.id.desc()).limit(MAX_MARKERS)
    )
    return sorted((_marker(event) for event in found), key=lambda one: one.at)


def _marker(event: Event) -> Marker:
    noun, _, name = event.subject.partition(":")
    return Marker(event.at, event.actor, event.verb, noun, name, json.loads(event.detail) if event.detail else {})
