"""Reads and validates the description of a rule: which events send messages to a channel, and when.

The fields, in JSON, in a form and on the command line:

- `name`, and `channel`: the name of a channel.
- `on`: events of `core/notices.py`, as a list or as a text with commas between them.
- `queue`, `schedule`: only events of this queue or schedule. `command`: only jobs with a matching command; a glob where
  `*` also matches spaces and line ends, such as `*backup.sh*`.
- `after`: for jobs, send a message only after this many failures without a recovery in between; from 1 to 1000.
- `older_than`: for queue-old, seconds or a duration such as 10min; from 1 min to 30 d.
- `quiet_hours`: such as '22:00-07:00 Europe/Berlin'; without a zone, UTC. In these hours messages wait.

A condition applies only to some events: a disk has no queue. A rule with a condition that applies to none of its events
is refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Any, Callable, Optional

from webapp.core import field_readers
from webapp.core.field_readers import read_fields, whole_number, whole_seconds
from webapp.core.job_spec import FieldError, SpecError
from webapp.core.names import show
from webapp.core.notices import COUNTS_FOR, EVENTS
from webapp.lib import clock
from webapp.lib.text import can_be_stored
from webapp.lib.time_zones import zone_of

OF_JOBS = ("job-dead", "attempt-failed", "group-new")
OF_SCHEDULES = ("schedule-missed", "schedule-late", "schedule-long", "schedule-failing")
OF_QUEUES = ("queue-old", "queue-unserved")
# The events to which a condition applies.
APPLIES_TO: Mapping[str, tuple[str, ...]] = {
    "queue": (*OF_JOBS, *OF_QUEUES),
    "schedule": (*OF_JOBS, *OF_SCHEDULES),
    "command": OF_JOBS,
    "after": OF_JOBS,
    "older_than": ("queue-old",),
}
MAX_AFTER = 1000
OLDER_THAN, MIN_OLDER_THAN, MAX_OLDER_THAN = 3600, 60, 30 * 86400  # seconds
MAX_COMMAND = 2000  # characters of a pattern
_QUIET = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)\s*-\s*([01]?\d|2[0-3]):([0-5]\d)(?:\s+(\S+))?\Z", re.ASCII)
_QUIET_RULE = "expected hours and a time zone such as '22:00-07:00 Europe/Berlin'"


@dataclass(frozen=True)
class QuietHours:
    """A time of each day, in minutes since midnight in `zone`. If `end` is not after `start`, it is on the next day."""

    start: int
    end: int
    zone: str = "UTC"

    def __str__(self) -> str:
        start, end = (f"{minutes // 60:02d}:{minutes % 60:02d}" for minutes in (self.start, self.end))
        return f"{start}-{end} {self.zone}"

    def covers(self, moment: int) -> bool:
        wall = clock.to_datetime(moment).astimezone(zone_of(self.zone))
        return (wall.hour * 60 + wall.minute - self.start) % 1440 < (self.end - self.start) % 1440

    def end_after(self, moment: int) -> int:
        """The first moment, from this one on, that is not quiet; in microseconds since 1970 UTC."""
        if not self.covers(moment):
            return moment
        zone, minute = zone_of(self.zone), moment // clock.MINUTE * clock.MINUTE
        wall = clock.to_datetime(minute).astimezone(zone)
        end = minute + (self.end - wall.hour * 60 - wall.minute) % 1440 * clock.MINUTE
        if clock.to_datetime(end).astimezone(zone).utcoffset() == wall.utcoffset():
            return end
        end = minute  # the clock changes meanwhile
        while self.covers(end):
            end += clock.MINUTE
        return end


@dataclass(frozen=True)
class RuleSpec:
    """A valid rule.

    Attributes:
        on: events, in the order of EVENTS.
        queue, schedule, command: conditions; None: any.
        after: failures of one group, without a recovery in between, that the first message needs.
        older_than: seconds that a queue's oldest pending job has waited.
    """

    name: str
    on: tuple[str, ...]
    channel: str
    queue: Optional[str] = None
    schedule: Optional[str] = None
    command: Optional[str] = None
    after: int = 1
    older_than: int = OLDER_THAN
    quiet_hours: Optional[QuietHours] = None

    def event_for(self, noticed: str) -> Optional[str]:
        """The event of this rule for which a notice counts, if any: a death is a failed attempt too, and maybe new."""
        return next((event for event in (noticed, *COUNTS_FOR.get(noticed, ())) if event in self.on), None)

    def matches_job(self, queue: str, schedule: Optional[str], command: str) -> bool:
        """Whether the conditions let a job pass."""
        return (
            self.queue in (None, queue)
            and self.schedule in (None, schedule)
            and (self.command is None or fnmatchcase(command, self.command))
        )

    def matches_subject(self, event: str, subject: str) -> bool:
        """Whether the conditions let another event pass. `subject`: such as `queue:mail`."""
        kind, _, name = subject.partition(":")
        wanted = {"queue": self.queue, "schedule": self.schedule}.get(kind)
        return wanted in (None, name) or event not in APPLIES_TO[kind]

    @property
    def has_job_conditions(self) -> bool:
        return (self.queue, self.schedule, self.command) != (None, None, None)


def parse(data: object) -> RuleSpec:
    """Read a rule from a mapping. Raises SpecError with all errors. A null or empty value counts as not given."""
    if not isinstance(data, Mapping):
        raise SpecError([FieldError("", "expected an object with name, on and channel.")])
    values, errors = read_fields(data, _READERS)
    wrong = {error.field for error in errors}
    missing = {"name": "", "on": f" Expected events: {', '.join(EVENTS)}.", "channel": " Expected a channel's name."}
    errors += [FieldError(key, f"is missing.{hint}") for key, hint in missing.items() if key not in {*values, *wrong}]
    errors += _useless(values)
    if errors:
        raise SpecError(errors)
    return RuleSpec(**values)


def to_json(spec: RuleSpec) -> dict[str, Any]:
    """The description that `parse` reads, with all fields."""
    quiet_hours = str(spec.quiet_hours) if spec.quiet_hours is not None else None
    return {**{field: getattr(spec, field) for field in _READERS}, "on": list(spec.on), "quiet_hours": quiet_hours}


def stored_text(spec: RuleSpec) -> str:
    """The column `spec`: all that has no column of its own."""
    return json.dumps({key: value for key, value in to_json(spec).items() if key not in ("name", "channel")})


@lru_cache(maxsize=512)
def of_row(name: str, channel: str, text: str) -> RuleSpec:
    """The rule of a row. Raises SpecError if this machine does not know its time zone."""
    return parse({**json.loads(text), "name": name, "channel": channel})


def events_text(spec: RuleSpec) -> str:
    """The column `events`: ',job-dead,disk-low,'."""
    return f",{','.join(spec.on)},"


def _useless(values: Mapping[str, Any]) -> list[FieldError]:
    """Conditions that apply to none of the rule's events."""
    on = values.get("on")
    usual = {"after": 1, "older_than": OLDER_THAN}
    return [
        FieldError(key, f"does not apply to these events. It applies to {', '.join(events)}.")
        for key, events in APPLIES_TO.items()
        if on and values.get(key) not in (None, usual.get(key)) and not {*events} & {*on}
    ]


# --- the fields ------------------------------------------------------------------------------------------------------


def _events(value: object) -> tuple[str, ...]:
    words = [word for word in re.split(r"[,\s]+", value) if word] if isinstance(value, str) else value
    if not isinstance(words, (list, tuple)) or not words:
        raise ValueError(f"{show(value)} is not allowed; expected events: {', '.join(EVENTS)}.")
    for word in words:
        if not isinstance(word, str) or word not in EVENTS:
            raise ValueError(f"{show(word)} is not an event; expected some of {', '.join(EVENTS)}.")
    return tuple(event for event in EVENTS if event in words)


def _pattern(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_COMMAND or not can_be_stored(value) or not value.strip():
        raise ValueError(f"expected a pattern such as *backup.sh*, of at most {MAX_COMMAND:,} characters.")
    try:
        fnmatchcase("", value)
    except re.error:  # on older Pythons
        raise ValueError("has a range such as [z-a] that ends before it begins.") from None
    return value


def _quiet_hours(value: object) -> QuietHours:
    found = _QUIET.match(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{show(value)} is not allowed; {_QUIET_RULE}.")
    start, end = int(found[1]) * 60 + int(found[2]), int(found[3]) * 60 + int(found[4])
    if start == end:
        raise ValueError(f"{show(value)} begins and ends at the same time; {_QUIET_RULE}.")
    zone = found[5] or "UTC"
    zone_of(zone)
    return QuietHours(start, end, zone)


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": field_readers.name,
    "on": _events,
    "channel": field_readers.name,
    "queue": field_readers.name,
    "schedule": field_readers.name,
    "command": _pattern,
    "after": whole_number(1, MAX_AFTER),
    "older_than": whole_seconds(MIN_OLDER_THAN, MAX_OLDER_THAN),
    "quiet_hours": _quiet_hours,
}
