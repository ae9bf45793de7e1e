"""Which jobs a person means: one filter for lists, counts and bulk acts, in a URL, a command or the database.

How a person writes one in a search box is in `jobs/search.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Optional

from sqlalchemy import BigInteger, ColumnElement, and_, func, literal, or_, select, true

from webapp.core.states import STATES, TERMINAL
from webapp.db.models import Attempt, Job, OutputTail
from webapp.jobs.lifecycle import in_state

SEARCH_CAP = 20_000  # rows that one read looks through for what no index finds
MOST_WORDS = 8  # of a text: each is looked for in every one of these rows
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


class FilterError(ValueError):
    """A filter that cannot be; the message says what was expected. `field` is the parameter that is wrong."""

    def __init__(self, message: str, field: str = "state") -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class JobFilter:
    """Conditions that must all hold; None leaves one open.

    `text` is words, or phrases in quotes, each of which is looked for in ids and commands, case ignored. `exit` is the
    code of the latest ended attempt; `worker` the beginning of a worker's id that runs the job or ran an attempt of it;
    `by` the actor who submitted it; `since` when it changed last, at the earliest (microseconds).
    `output`: the words may stand in a dead letter's error or its last output as well. `requires` is a label; `lane` all
    that the job requires, as its row has it, of pending jobs.
    `group` is the error key of a group of dead letters; `ended_by` (microseconds) leaves out what ended later.
    """

    state: Optional[str] = None
    queue: Optional[str] = None
    text: Optional[str] = None
    group: Optional[str] = None
    ended_by: Optional[int] = None
    id: Optional[str] = None
    exit: Optional[int] = None
    worker: Optional[str] = None
    by: Optional[str] = None
    since: Optional[int] = None
    output: Optional[bool] = None
    requires: Optional[str] = None
    label_set: Optional[str] = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise FilterError(f"no such state: {self.state!r}. Expected one of {', '.join(STATES)}.")
        if self.text and len(words(self.text)) > MOST_WORDS:
            raise FilterError(f"a search has at most {MOST_WORDS} words. Quote words that belong together.", "q")

    def where(self) -> ColumnElement[bool]:
        """All of it."""
        return and_(true(), *self._found(), *self._scanned())

    def found(self) -> ColumnElement[bool]:
        """What an index finds, in the order of the state's list."""
        return and_(true(), *self._found())

    @property
    def scans(self) -> bool:
        """Whether rows must be looked at one by one: then a read stops after SEARCH_CAP of them."""
        return self.id is None and bool(self._scanned())

    def _found(self) -> list[ColumnElement[bool]]:
        conditions: list[ColumnElement[bool]] = []
        if self.state is not None:
            conditions.append(in_state(self.state))
        if self.id is not None:
            conditions.append(Job.id == self.id)
        if self.queue is not None and self.state == "pending":
            conditions.append(Job.queue == self.queue)
        if self.label_set is not None:
            conditions.append(Job.requires == self.label_set)
        if self.group is not None and self.state == "dead":
            conditions.append(Job.error_key == self.group)
        if self.ended_by is not None and self.state in TERMINAL:
            conditions.append(Job.finished_at <= self.ended_by)
        return conditions

    def _scanned(self) -> list[ColumnElement[bool]]:
        """The cheapest first: the database looks at them in this order."""
        conditions: list[ColumnElement[bool]] = []
        if self.queue is not None and self.state != "pending":
            conditions.append(Job.queue == self.queue)
        if self.group is not None and self.state != "dead":
            conditions.append(Job.error_key == self.group)
        if self.ended_by is not None and self.state not in TERMINAL:
            conditions.append(Job.finished_at <= self.ended_by)
        if self.requires is not None and self.label_set is None:
            asked = literal(",") + Job.requires + literal(",")
            # No LIKE, which ignores case on SQLite alone.
            conditions.append(func.replace(asked, f",{self.requires},", "") != asked)
        if self.since is not None:
            conditions.append(Job.changed_at >= self.since)
        if self.exit is not None:
            conditions.append(Job.exit_code == literal(self.exit, BigInteger()))  # Windows has codes past 2^31
        if self.by is not None:
            conditions.append(Job.created_by == self.by)
        conditions += [or_(*self._says(word)) for word in words(self.text or "")]
        if self.worker is not None:
            runs = Job.worker_id.startswith(self.worker, autoescape=True)
            # A value, not an EXISTS: PostgreSQL might answer that by reading all attempts first.
            by = Attempt.worker_id.startswith(self.worker, autoescape=True)
            last = select(func.max(Attempt.number)).where(Attempt.job_seq == Job.seq, by).correlate(Job)
            ran = last.scalar_subquery().is_not(None)
            conditions.append(or_(runs, ran))
        return conditions

    def _says(self, word: str) -> list[ColumnElement[bool]]:
        """Where a word is looked for."""
        places: list[ColumnElement[bool]] = [
            Job.id.icontains(word, autoescape=True),
            Job.command.icontains(word, autoescape=True),
        ]
        if self.output:
            # A value, not an EXISTS: PostgreSQL would answer that by reading the tails of all jobs first.
            text = select(OutputTail.text).where(OutputTail.job_seq == Job.seq).correlate(Job).scalar_subquery()
            tail = text.icontains(word, autoescape=True)
            places += [Job.last_error.icontains(word, autoescape=True), tail]
        return places

    def in_output(self) -> JobFilter:
        """The same, whose words may stand in errors and output, too."""
        return replace(self, output=True) if self.text else self

    def to_json(self) -> str:
        return json.dumps({key: value for key, value in asdict(self).items() if value is not None})

    @classmethod
    def from_json(cls, text: str) -> JobFilter:
        return cls(**json.loads(text))


def words(text: str) -> list[str]:
    r"""A text as what is looked for: words, and phrases in quotes, in which `\"` is a quote."""
    found = (unescaped(match[1]) if match[1] is not None else match[2] for match in _WORD.finditer(text))
    return [word for word in found if word]


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
