"""Reads and validates the description of a schedule, as `core/job_spec.py` does for its job."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from webapp.core import field_readers, job_spec
from webapp.core.field_readers import choice, read_fields, whole_number, whole_seconds
from webapp.core.flow import retry_rules
from webapp.core.job_spec import FieldError, JobSpec, SpecError
from webapp.core.names import show
from webapp.lib import clock
from webapp.lib.text import can_be_stored
from webapp.schedules.timing import Timing, plain_cron, zone_of

OVERLAPS = ("skip", "queue_one", "queue_all", "replace", "allow")
CATCH_UPS = ("none", "last", "all")
JOB_FIELDS = (
    "command",
    "queue",
    "requires",
    "priority",
    "max_retries",
    "timeout",
    "cwd",
    "env",
    "notify",
    "limits",
    "unique",
    "retry",
)
MIN_EVERY, MAX_EVERY = 1, 366 * 86400  # seconds
MAX_SPREAD = 86400  # seconds
MAX_CATCH_UP = 1000  # fires
MAX_NOTE = 2000  # characters
_TIME_OF_DAY = re.compile(r"([01][0-9]|2[0-3]):([0-5][0-9])\Z")


@dataclass(frozen=True)
class ScheduleSpec:
    """A valid schedule.

    Attributes:
        job: what each fire enqueues, without id, delay and run_at.
        overlap: what a fire does while a job of this schedule waits or runs.
        catch_up: which late fires run, for example those from when the machine was off.
        catch_up_window: seconds; fires that are later than this do not run.
        catch_up_max: with catch_up=all, the number of fires that run, the newest ones.
        not_later_than: minutes since midnight in the schedule's zone. A late fire does not run after the first such
            time that follows it.
        late_after: seconds after which a fire whose job has not started counts as late.
        failing_after: the schedule counts as failing when this many of its last jobs are dead.
    """

    timing: Timing
    job: JobSpec
    overlap: str = "skip"
    catch_up: str = "last"
    catch_up_window: Optional[int] = None
    catch_up_max: int = 10
    not_later_than: Optional[int] = None
    late_after: int = 300
    failing_after: int = 1
    enabled: bool = True
    note: str = ""
    owner: str = ""

    @property
    def name(self) -> str:
        return self.timing.name


def parse(data: object) -> ScheduleSpec:
    """Read a schedule from a mapping. Raises SpecError with all errors. A null value counts as not given."""
    if not isinstance(data, Mapping):
        raise SpecError([FieldError("", "expected an object with name, cron or every, and job.")])
    values, errors = read_fields(data, _READERS)
    wrong = {error.field.partition(".")[0] for error in errors}
    errors += [FieldError(key, "is missing.") for key in ("name", "job") if key not in values and key not in wrong]
    if not {"cron", "every"} & ({*values} | wrong):
        errors.append(FieldError("cron", "is missing. Give cron, such as '0 2 * * *', or every, such as 15min."))
    if {"cron", "every"} <= {*values}:
        errors.append(FieldError("every", "cannot be combined with cron. Give one of the two."))
    if "cron" in values and "name" in values:
        try:
            plain_cron(values["cron"], values["name"])
        except SpecError as error:
            errors += error.errors
    if "starts_at" in values and "ends_at" in values and values["ends_at"] <= values["starts_at"]:
        errors.append(FieldError("ends_at", "must be later than starts_at."))
    if errors:
        raise SpecError(errors)
    timing = Timing(**{key: values.pop(key) for key in list(values) if key in Timing.__dataclass_fields__})
    return ScheduleSpec(timing, values.pop("job"), **values)


def with_anchor(spec: ScheduleSpec, now: int) -> ScheduleSpec:
    """Count the intervals of a new schedule from now, unless it names an anchor."""
    if spec.timing.every is None or spec.timing.anchor:
        return spec
    return replace(spec, timing=replace(spec.timing, anchor=now // clock.SECOND * clock.SECOND))


def to_json(spec: ScheduleSpec) -> dict[str, Any]:
    """The description that `parse` reads, with all fields."""
    timing = spec.timing
    return {
        "name": timing.name,
        "cron": timing.cron,
        "every": timing.every,
        "anchor": clock.to_iso(timing.anchor) if timing.every is not None and timing.anchor else None,
        "tz": timing.tz,
        "spread": timing.spread,
        "starts_at": clock.to_iso(timing.starts_at),
        "ends_at": clock.to_iso(timing.ends_at),
        "overlap": spec.overlap,
        "catch_up": spec.catch_up,
        "catch_up_window": spec.catch_up_window,
        "catch_up_max": spec.catch_up_max,
        "not_later_than": time_of_day(spec.not_later_than),
        "late_after": spec.late_after,
        "failing_after": spec.failing_after,
        "enabled": spec.enabled,
        "note": spec.note,
        "owner": spec.owner,
        "job": job_to_json(spec.job),
    }


def job_to_json(job: JobSpec) -> dict[str, Any]:
    """The job's fields that differ from their defaults."""
    usual = JobSpec(command="")
    values = {key: getattr(job, key) for key in JOB_FIELDS if getattr(job, key) != getattr(usual, key)}
    for key in {"requires", "notify", "limits"} & values.keys():
        values[key] = list(values[key])
    if job.unique is not None:
        values["unique"] = job.unique.as_json
    if job.retry is not None:
        values["retry"] = retry_rules.stored(job.retry).as_json
    return {**values, "env": dict(job.env)} if job.env else values


def time_of_day(minutes: Optional[int]) -> Optional[str]:
    """'06:00' from minutes since midnight."""
    return None if minutes is None else f"{minutes // 60:02d}:{minutes % 60:02d}"


def _job(value: object) -> JobSpec:
    spec = job_spec.parse(value)
    for key in ("id", "delay", "run_at"):
        if getattr(spec, key) is not None:
            raise SpecError([FieldError(key, "is not allowed here: each fire submits a new job when it is due.")])
    return spec


def _words(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_NOTE or not can_be_stored(value):
        raise ValueError(f"expected a text of at most {MAX_NOTE:,} characters.")
    return value.strip()


def _cron(value: object) -> str:
    text = _words(value)
    plain_cron(text, "")
    return " ".join(text.split())


def _zone(value: object) -> str:
    text = _words(value)
    zone_of(text)
    return text


def _moment(value: object) -> int:
    try:
        return clock.parse_iso(_words(value))
    except (ValueError, OverflowError):
        rule = "expected ISO 8601 with a zone, such as 2026-12-01T08:00:00Z"
        raise ValueError(f"{show(value)} is not allowed; {rule}.") from None


def _time_of_day(value: object) -> int:
    match = _TIME_OF_DAY.match(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f"{show(value)} is not allowed; expected a time of day such as 06:00.")
    return int(match[1]) * 60 + int(match[2])


def _flag(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{show(value)} is not allowed; expected true or false.")
    return value


_READERS: Mapping[str, Callable[[Any], Any]] = {
    "name": field_readers.name,
    "cron": _cron,
    "every": whole_seconds(MIN_EVERY, MAX_EVERY),
    "anchor": lambda value: _moment(value) // clock.SECOND * clock.SECOND,
    "tz": _zone,
    "spread": whole_seconds(0, MAX_SPREAD),
    "starts_at": _moment,
    "ends_at": _moment,
    "overlap": choice(*OVERLAPS),
    "catch_up": choice(*CATCH_UPS),
    "catch_up_window": whole_seconds(0, MAX_EVERY),
    "catch_up_max": whole_number(1, MAX_CATCH_UP),
    "not_later_than": _time_of_day,
    "late_after": whole_seconds(1, MAX_EVERY),
    "failing_after": whole_number(0, 1000),
    "enabled": _flag,
    "note": _words,
    "owner": _words,
    "job": _job,
}
