"""Which jobs a person means: one filter for lists, counts and bulk acts, in a URL, a command or the database."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Optional

from sqlalchemy import ColumnElement, and_, or_, true

from webapp.lifecycle import in_state
from webapp.models import STATES, Job

SEARCH_CAP = 20_000  # a text search looks through so many of the newest jobs that the other conditions leave


class FilterError(ValueError):
    """A filter that names no known state; the message lists them."""


@dataclass(frozen=True)
class JobFilter:
    """Conditions that must all hold; None leaves one open. `text` is looked for in ids and commands, case ignored.

    `group` is the error key of a group of dead letters; `ended_by` (microseconds) leaves out what ended later.
    """

    state: Optional[str] = None
    queue: Optional[str] = None
    text: Optional[str] = None
    group: Optional[str] = None
    ended_by: Optional[int] = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise FilterError(f"no such state: {self.state!r}. Expected one of {', '.join(STATES)}.")

    def where(self, *, without_text: bool = False) -> ColumnElement[bool]:
        conditions: list[ColumnElement[bool]] = []
        if self.state is not None:
            conditions.append(in_state(self.state))
        if self.queue is not None:
            conditions.append(Job.queue == self.queue)
        if self.group is not None:
            conditions.append(Job.error_key == self.group)
        if self.ended_by is not None:
            conditions.append(Job.finished_at <= self.ended_by)
        if self.text and not without_text:
            conditions.append(
                or_(Job.id.icontains(self.text, autoescape=True), Job.command.icontains(self.text, autoescape=True))
            )
        return and_(true(), *conditions)

    def to_json(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> JobFilter:
        return cls(**json.loads(text))
