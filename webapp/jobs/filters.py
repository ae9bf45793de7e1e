"""The job filter for lists, counts and bulk actions. `jobs/search.py` reads one from a search text."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Optional

from sqlalchemy import (
    JSON,
    BigInteger,
    ColumnElement,
    Select,
    and_,
    case,
    cast,
    func,
    literal,
    literal_column,
    or_,
    select,
    true,
)

from webapp.core.flow.limits import EXCLUSIVE
from webapp.core.notices import SYSTEM_QUEUE
from webapp.core.states import STATES, TERMINAL
from webapp.db.engines import is_sqlite
from webapp.db.models import Attempt, Channel, Delivery, Dependency, Job, OutputTail
from webapp.db.text_match import contains, starts_with
from webapp.jobs.lifecycle import in_state

SEARCH_CAP = 20_000  # rows that one statement searches without an index
SEARCH_SECONDS = 0.3  # how long one read searches, in several statements
MOST_MESSAGES = 5_000  # of a channel, whose jobs `notified` finds
MAX_WORDS = 8  # of a text, and excluded terms: each is searched in every row
ANY = "any"  # failed-attempt:any
# As text: no condition on a queue may look to the planner as if it had this value.
NOT_SYSTEM: ColumnElement[bool] = literal_column(f"jobs.queue <> '{SYSTEM_QUEUE}'")
_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


class FilterError(ValueError):
    """An invalid filter; the message says what was expected. `field` is the wrong parameter."""

    def __init__(self, message: str, field: str = "state") -> None:
        self.field = field
        super().__init__(message)


@dataclass(frozen=True)
class JobFilter:
    """Conditions that must all hold; None means any.

    Jobs that send messages (SYSTEM_QUEUE) match only if their queue, an id or a group is named.

    Attributes:
        text: words and quoted phrases; each must be in the id or the command, in any case (`db/text_match.py`).
        output: the words may also be in the error, or in a dead letter's last output. Each search says so; only stored
            actions from before do not.
        error: the last attempt's error has this text, in any case.
        failed_attempt: an attempt failed with this text in its error, even if a later one succeeded; ANY: it failed.
        group: the fingerprint of a dead-letter group.
        ended_by: ended at this time (microseconds) or earlier.
        exit: exit code of the latest ended attempt.
        worker: start of the id, in any case, of a worker that runs the job or ran an attempt.
        by: the actor who submitted the job.
        since: changed at this time (microseconds) or later.
        until: changed before this time (microseconds).
        requires: one required label.
        label_set: all required labels as in the job's row; for pending jobs.
        limit: a key of a limit that the job names, or with a final `*` the start of one.
        schedule: the name of the schedule that submitted the job.
        batch: the name of the job's batch.
        after: the id of a job that the job follows.
        notified: the name of a channel that was sent a message about the job, in its last MOST_MESSAGES.
        unique: the unique key that the job holds or held.
        lost: whether a worker died while it ran the job; for pending jobs.
        limited: whether the job names limits; for pending jobs.
        excluded: none of these may match.
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
    lost: Optional[bool] = None
    limited: Optional[bool] = None
    limit: Optional[str] = None
    schedule: Optional[str] = None
    batch: Optional[str] = None
    after: Optional[str] = None
    notified: Optional[str] = None
    error: Optional[str] = None
    until: Optional[int] = None
    failed_attempt: Optional[str] = None
    excluded: tuple[JobFilter, ...] = ()
    unique: Optional[str] = None

    def __post_init__(self) -> None:
        if self.state is not None and self.state not in STATES:
            raise FilterError(f"no such state: {self.state!r}. Expected one of {', '.join(STATES)}.")
        if max(len(words(self.text or "")), len(self.excluded)) > MAX_WORDS:
            raise FilterError(f"a search has at most {MAX_WORDS} words. Quote words that belong together.", "q")

    def where(self) -> ColumnElement[bool]:
        """The whole filter as one SQL condition, with the conditions that an index answers in front."""
        conditions = [condition for _, condition in sorted(self._conditions(), key=lambda pair: not pair[0])]
        return and_(true(), *conditions, *([NOT_SYSTEM] if self.leaves_system_out else []))

    @property
    def leaves_system_out(self) -> bool:
        return self.queue is None and self.id is None and self.group is None

    def found(self) -> ColumnElement[bool]:
        """The conditions that an index answers, in the order of the state's list."""
        return and_(true(), *(condition for indexed, condition in self._conditions() if indexed))

    @property
    def scans(self) -> bool:
        """Whether rows must be read one by one: then a read stops after SEARCH_CAP of them."""
        return self.id is None and not all(indexed for indexed, _ in self._conditions())

    def _conditions(self) -> Iterator[tuple[bool, ColumnElement[bool]]]:
        """Each condition, and whether an index answers it. Of the others the cheapest is first.

        The database checks them in this order.
        """
        yield from self._of_indexes()
        yield from self._of_rows()

    def _of_indexes(self) -> Iterator[tuple[bool, ColumnElement[bool]]]:
        """Those that an index answers, at least in one list."""
        if self.state is not None:
            yield True, in_state(self.state)
        if self.id is not None:
            yield True, Job.id == self.id
        if self.schedule is not None:
            there: ColumnElement[bool] = literal_column(
                "jobs.schedule IS NOT NULL"
            )  # the planner needs this text for the partial index
            yield self.state is None, and_(there, Job.schedule == self.schedule)
        if self.unique is not None:
            keyed: ColumnElement[bool] = literal_column("jobs.unique_key IS NOT NULL")
            yield self.state is None, and_(keyed, Job.unique_key == self.unique)
        if self.batch is not None:  # an index also sorts its ended jobs
            named: ColumnElement[bool] = literal_column("jobs.batch IS NOT NULL")
            yield self.state is None or self.state in TERMINAL, and_(named, Job.batch == self.batch)
        if self.after is not None:
            yield self.state is None, Job.seq.in_(_following(self.after))
        if self.queue is not None:
            yield self.state == "pending", Job.queue == self.queue
        if self.label_set is not None:
            yield True, Job.requires == self.label_set
        if self.lost is not None:  # in the words of the partial indexes
            yield True, literal_column("losses > 0" if self.lost else "losses = 0")
        if self.limited is not None:
            yield True, literal_column("limits <> ''" if self.limited else "limits = ''")
        if self.group is not None:
            yield self.state == "dead", Job.error_key == self.group
        if self.ended_by is not None:
            yield self.state in TERMINAL, Job.finished_at <= self.ended_by

    def _of_rows(self) -> Iterator[tuple[bool, ColumnElement[bool]]]:
        """Those for which each row must be read."""
        if self.requires is not None and self.label_set is None:
            asked = literal(",") + Job.requires + literal(",")
            # Not LIKE, which ignores case only on SQLite.
            yield False, func.replace(asked, f",{self.requires},", "") != asked
        if self.limit is not None:
            keys = literal(",") + Job.limits + literal(",")
            name = self.limit.rstrip("*")
            ends = ("",) if self.limit.endswith("*") else (",", f"{EXCLUSIVE},")
            yield False, or_(*(func.replace(keys, f",{name}{end}", "") != keys for end in ends))
        if self.since is not None:
            yield False, Job.changed_at >= self.since
        if self.until is not None:
            yield False, Job.changed_at < self.until
        if self.exit is not None:
            yield False, Job.exit_code == literal(self.exit, BigInteger())  # Windows has codes past 2^31
        if self.by is not None:
            yield False, Job.created_by == self.by
        if self.notified is not None:
            yield False, Job.seq.in_(_told(self.notified))
        if self.error is not None:
            yield False, contains(Job.last_error, self.error)
        for word in words(self.text or ""):
            yield False, or_(*self._says(word))
        if self.worker is not None:
            runs = starts_with(Job.worker_id, self.worker)
            # A scalar subquery: for an EXISTS, PostgreSQL may read all attempts first.
            by = starts_with(Attempt.worker_id, self.worker)
            last = select(func.max(Attempt.number)).where(Attempt.job_seq == Job.seq, by).correlate(Job)
            yield False, or_(runs, last.scalar_subquery().is_not(None))
        if self.failed_attempt is not None:
            yield False, _failed(self.failed_attempt)
        for other in self.excluded:
            # Not NOT: what compares with NULL does not match, so it is not excluded.
            yield False, case((and_(true(), *(condition for _, condition in other._conditions())), 1), else_=0) == 0

    def _says(self, word: str) -> list[ColumnElement[bool]]:
        """The conditions for one word, one for each place."""
        places: list[ColumnElement[bool]] = [
            contains(Job.id, word),
            contains(Job.command, word),
        ]
        if self.output:
            # A scalar subquery: for an EXISTS, PostgreSQL would read the tails of all jobs first.
            text = select(OutputTail.text).where(OutputTail.job_seq == Job.seq).correlate(Job).scalar_subquery()
            # What a requeued job did before is not its last output.
            places += [contains(Job.last_error, word), and_(in_state("dead"), contains(text, word))]
        return places

    def to_json(self) -> str:
        return json.dumps(_given(asdict(self)))

    @classmethod
    def from_json(cls, text: str) -> JobFilter:
        values = json.loads(text)
        return cls(**{**values, "excluded": tuple(cls(**other) for other in values.get("excluded", ()))})


def _given(values: dict[str, Any]) -> dict[str, Any]:
    given = {key: value for key, value in values.items() if value is not None and value != ()}
    return {**given, **({"excluded": [_given(other) for other in values["excluded"]]} if values["excluded"] else {})}


def _failed(word: str) -> ColumnElement[bool]:
    """An attempt failed, with this word in its error unless it is ANY."""
    conditions = [Attempt.job_seq == Job.seq, Attempt.state == "failed"]
    if word.lower() != ANY:
        conditions.append(contains(Attempt.error, word))
    # A scalar subquery: for an EXISTS, PostgreSQL may read all attempts first.
    last = select(func.max(Attempt.number)).where(*conditions).correlate(Job).scalar_subquery()
    at_once = in_state("completed") & (Job.attempts <= 1)  # most jobs: their attempts need not be read
    return case((at_once, 0), (last.is_not(None), 1), else_=0) == 1


def _following(job_id: str) -> Select[tuple[int]]:
    """The jobs that follow a job."""
    parent = select(Job.seq).where(Job.id == job_id).correlate(None).scalar_subquery()
    return select(Dependency.job_seq).where(Dependency.parent_seq == parent)


def _told(channel: str) -> Select[tuple[int]]:
    """The jobs that the last messages to a channel name. The index on how messages ended answers it."""
    to = select(Channel.id).where(Channel.name == channel).scalar_subquery()
    newest = (
        select(Delivery.detail)
        .where(Delivery.channel_id == to, Delivery.state == "sent")
        .order_by(Delivery.ended_at.desc())
        .limit(MOST_MESSAGES)
        .subquery()
    )
    seq = (
        func.json_extract(newest.c.detail, "$.job_seq")
        if is_sqlite()
        else cast(cast(newest.c.detail, JSON)["job_seq"].as_string(), BigInteger)
    )
    return select(seq)


def words(text: str) -> list[str]:
    r"""The words and quoted phrases of a text; `\"` is a quote inside a phrase."""
    found = (unescaped(match[1]) if match[1] is not None else match[2] for match in _WORD.finditer(text))
    return [word for word in found if word]


def unescaped(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text, flags=re.DOTALL)
