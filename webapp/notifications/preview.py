"""What a rule would have sent in the last days: the same policy, on what is still stored of that time.

All reads are bounded, and discarded jobs are unknown, so for a busy queue this is an estimate. No history is stored for
the events in UNKNOWN.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Optional

from sqlalchemy import text
from sqlalchemy.orm import Session

from webapp.core.notices import SYSTEM_QUEUE
from webapp.lib import clock
from webapp.lib.command_patterns import COMMAND_PREFIX, command_shape
from webapp.lib.text import one_line
from webapp.notifications import policy
from webapp.notifications.alerts import GROUP
from webapp.notifications.group_recovery import CALM
from webapp.notifications.policy import Alert, Step
from webapp.notifications.rules import OF_JOBS, RuleSpec

UNKNOWN = ("queue-old", "queue-unserved", "disk-low")
MOST = 5_000  # failures that are read, the newest ones
MOST_COMPLETED = 20_000
LOOK = 50_000  # rows that one read searches without an index
SHOWN = 80  # characters of a command

_OF_JOB = f"jobs.seq, jobs.queue, jobs.schedule, substr(jobs.command, 1, {COMMAND_PREFIX * 5})"
_DEAD = f"""
SELECT finished_at, error_key, {_OF_JOB} FROM jobs
WHERE state = 'dead' AND finished_at IS NOT NULL AND finished_at >= :since ORDER BY finished_at DESC LIMIT {MOST}
"""  # noqa: S608
# The last failure before each requeue was a death.
_REQUEUED = f"""
SELECT requeued.at, attempts.finished_at, attempts.error_key, {_OF_JOB}
FROM (SELECT job_seq, at, verb FROM events ORDER BY id DESC LIMIT {LOOK}) AS requeued
JOIN jobs ON jobs.seq = requeued.job_seq
JOIN attempts ON attempts.job_seq = requeued.job_seq AND attempts.error_key IS NOT NULL
             AND attempts.finished_at <= requeued.at AND attempts.finished_at >= :since
WHERE requeued.verb = 'requeue' AND requeued.at >= :since LIMIT {MOST}
"""  # noqa: S608
_FAILED = f"""
SELECT failed.finished_at, failed.error_key, {_OF_JOB}
FROM (SELECT job_seq, finished_at, error_key FROM attempts WHERE finished_at >= :since
      ORDER BY finished_at DESC LIMIT {LOOK}) AS failed
JOIN jobs ON jobs.seq = failed.job_seq WHERE failed.error_key IS NOT NULL LIMIT {MOST}
"""  # noqa: S608
_COMPLETED = f"""
SELECT finished_at, substr(command, 1, {COMMAND_PREFIX}) FROM jobs
WHERE state = 'completed' AND finished_at IS NOT NULL AND finished_at >= :since
ORDER BY finished_at DESC LIMIT {MOST_COMPLETED}
"""  # noqa: S608
_HOURS = f"""
SELECT at, shape FROM command_hours WHERE at >= :since AND at < :until AND runs > failures LIMIT {LOOK}
"""  # noqa: S608
_EVENTS = f"""
SELECT at, verb, subject, detail
FROM (SELECT id, at, verb, subject, detail FROM events ORDER BY id DESC LIMIT {LOOK}) AS recent
WHERE at >= :since AND verb IN ('schedule_late', 'schedule_long', 'schedule_failing', 'schedule_recovered', 'expire',
                                'canary_passed', 'canary_failed')
ORDER BY id LIMIT {MOST}
"""  # noqa: S608
_HOSTS = "SELECT 'worker:' || id, host FROM workers WHERE state = 'expired'"
_MISSED = f"""
SELECT recent.decided_at, recent.name
FROM (SELECT fires.decided_at, fires.outcome, schedules.name FROM schedules
      JOIN fires ON fires.schedule_id = schedules.id AND fires.due_at >= :since LIMIT {LOOK}) AS recent
WHERE recent.outcome = 'missed' LIMIT {MOST}
"""  # noqa: S608


@dataclass(frozen=True)
class Message:
    """A message that would have been sent. `at` in microseconds; `subject`: a command, or what it is about."""

    at: int
    kind: str
    subject: str
    event: str = ""
    count: int = 1


@dataclass
class _KeyHistory:
    """What happened to one key: times of its notices and of what may end it. `patterns`: of commands."""

    event: str
    subject: str
    notices: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    patterns: set[str] = field(default_factory=set)


def preview(session: Session, spec: RuleSpec, days: int = 7) -> list[Message]:
    """The messages that this rule would have sent in the last days, oldest first."""
    now = clock.now()
    since = now - days * clock.DAY
    stories: dict[str, _KeyHistory] = {}
    if {*OF_JOBS} & {*spec.on}:
        _read_failures(session, spec, since, stories)
        _read_completions(session, since, stories)
    _read_others(session, spec, since, stories)
    found = [message for key, story in stories.items() for message in _told(spec, key, story, now)]
    return sorted(found, key=lambda message: message.at)


def _read_failures(session: Session, spec: RuleSpec, since: int, stories: dict[str, _KeyHistory]) -> None:
    values = {"since": since}
    if "attempt-failed" in spec.on:
        event, rows = "attempt-failed", [tuple(row) for row in session.execute(text(_FAILED), values)]
    else:
        event, rows = spec.event_for("job-dead") or "", [tuple(row) for row in session.execute(text(_DEAD), values)]
        before: dict[tuple[int, int], tuple[Any, ...]] = {}  # by job and requeue
        for requeued_at, *row in session.execute(text(_REQUEUED), values):
            place = (row[2], requeued_at)
            before[place] = max(before.get(place, tuple(row)), tuple(row), key=lambda one: one[0])
        rows += before.values()
    seen = set()
    for at, key, seq, queue, schedule, command in rows:
        passes = queue != SYSTEM_QUEUE and spec.matches_job(queue, schedule, command)
        if key is not None and passes and (seq, at) not in seen:
            seen.add((seq, at))
            story = _story(stories, event, GROUP + key, one_line(command, SHOWN))
            story.notices.append(at)
            story.patterns.add(command_shape(command))


def _read_completions(session: Session, since: int, stories: dict[str, _KeyHistory]) -> None:
    """Of the newest completed jobs each, of older ones by hour."""
    groups: dict[str, list[_KeyHistory]] = {}
    for story in stories.values():
        for pattern in story.patterns:
            groups.setdefault(pattern, []).append(story)
    if not groups:
        return
    jobs = session.execute(text(_COMPLETED), {"since": since}).all()
    times = [(at, command_shape(command)) for at, command in jobs]
    if len(jobs) == MOST_COMPLETED:
        hours = session.execute(text(_HOURS), {"since": since, "until": times[-1][0] - clock.HOUR})
        times += [(at + clock.HOUR - 1, shape) for at, shape in hours]
    for at, shape in times:
        for story in groups.get(shape, ()):
            story.ends.append(at)


def _read_others(session: Session, spec: RuleSpec, since: int, stories: dict[str, _KeyHistory]) -> None:
    def add(at: int, event: str, subject: str, *, ends: bool = False) -> None:
        if event in spec.on and spec.matches_subject(event, subject):
            kind, _, name = subject.partition(":")
            story = _story(stories, event, f"{event} {subject}", f"{kind} {name}")
            (story.ends if ends else story.notices).append(at)

    if {"schedule-late", "schedule-long", "schedule-failing", "worker-lost", "canary-ended"} & {*spec.on}:
        hosts = dict(session.execute(text(_HOSTS)).tuples().all())
        for at, verb, subject, detail in session.execute(text(_EVENTS), {"since": since}):
            if verb == "schedule_recovered":
                add(at, f"schedule-{json.loads(detail)['what']}", subject, ends=True)
            elif verb == "expire":
                add(at, "worker-lost", f"host:{hosts.get(subject, '?')}")
            elif verb.startswith("canary"):
                add(at, "canary-ended", subject.replace("act:", "action:"))
            else:
                add(at, verb.replace("_", "-"), subject)
    if "schedule-missed" in spec.on:
        for at, name in session.execute(text(_MISSED), {"since": since}):
            add(at, "schedule-missed", f"schedule:{name}")


def _story(stories: dict[str, _KeyHistory], event: str, key: str, subject: str) -> _KeyHistory:
    return stories.setdefault(key, _KeyHistory(event, subject))


# --- the policy on one key -------------------------------------------------------------------------------------------


@dataclass
class _Replay:
    """The alerts about one key, one after another."""

    spec: RuleSpec
    story: _KeyHistory
    open: Optional[Alert] = None
    last_at: Optional[int] = None  # the last notice of a closed alert
    closings: list[int] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)

    def take(self, alert: Alert, step: Optional[Step], at: int) -> None:
        self.open = alert if step is None else alert.after_step(step)
        if step is None:
            return
        if step.kind is not None:
            sent_at = policy.not_before(at, self.spec.quiet_hours)
            self.messages.append(Message(sent_at, step.kind, self.story.subject, alert.event, alert.count))
        if step.closes:
            self.open, self.last_at = None, alert.last_at
            self.closings += [at] if alert.told else []

    def decide(self, alert: Alert, at: int) -> None:
        after = self.spec.after if alert.event in OF_JOBS else 1
        self.take(alert, policy.decide(alert, at, after=after, quiet=self.spec.quiet_hours), at)

    def notice(self, at: int) -> None:
        event = self.story.event
        if self.open is not None:
            self.decide(self.open.with_notices(1, at), at)
        elif event == "group-new" and self.last_at is not None and not policy.is_new(self.last_at, None, at):
            self.last_at = at
        else:
            lately = [closed for closed in self.closings if closed >= at - policy.CALM]
            self.decide(Alert(event, at, at, 1, flapping=len(lately) >= policy.FLAPS), at)

    def pass_until(self, at: int) -> None:
        """Messages that were due before a moment."""
        while self.open is not None and self.open.next_at is not None and self.open.next_at <= at:
            self.decide(self.open, self.open.next_at)

    def end(self, at: int) -> None:
        if self.open is not None:
            step = policy.recover(self.open, at)
            if step is not None:
                self.take(self.open, step, at)


def _told(spec: RuleSpec, key: str, story: _KeyHistory, now: int) -> Iterable[Message]:
    replay = _Replay(spec, story)
    for at, is_end in _in_order(story, is_group=key.startswith(GROUP)):
        replay.pass_until(at)
        if is_end:
            replay.end(at)
        else:
            replay.notice(at)
    replay.pass_until(now)
    return [message for message in replay.messages if message.at <= now]


def _in_order(story: _KeyHistory, *, is_group: bool) -> Iterator[tuple[int, bool]]:
    """Times of notices and ends. A group ends only after a calm time, and the first end after it counts."""
    moments: list[tuple[int, Any]] = sorted([(at, False) for at in story.notices] + [(at, True) for at in story.ends])
    last: Optional[int] = None  # the last notice that no end has followed
    completed: Optional[int] = None
    for at, is_end in moments:
        if completed is not None and last is not None and at >= max(completed, last + CALM):
            yield max(completed, last + CALM), True
            last = completed = None
        if not is_group:
            yield at, is_end
        elif is_end:
            completed = at if last is not None and completed is None else completed
        else:
            last, completed = at, None
            yield at, False
    if completed is not None and last is not None and max(completed, last + CALM) <= clock.now():
        yield max(completed, last + CALM), True
