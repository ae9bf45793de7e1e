"""Reads the form of a schedule. `display/forms.py` reads the fields of its job; `schedules/spec.py` has the rules."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from webapp.console.display import env_values, times
from webapp.console.display.forms import Form, SubmitForm, as_lines, unique_values
from webapp.core.job_spec import JobSpec, SpecError
from webapp.lib import clock
from webapp.lib.durations import short
from webapp.schedules.spec import ScheduleSpec, job_to_json, parse, time_of_day

JOB_FIELDS = (
    "command", "queue", "priority", "requires", "max_retries", "timeout", "cwd", "env", "notify", "limits", "unique",
    "unique_while", "on_conflict", "retry",
)  # fmt: skip
SCHEDULE_FIELDS = (
    "name", "repeat", "cron", "every", "tz", "spread", "starts_at", "ends_at", "overlap", "catch_up",
    "catch_up_window", "catch_up_max", "not_later_than", "late_after", "failing_after", "note", "owner",
)  # fmt: skip
FIELDS = (*SCHEDULE_FIELDS, *JOB_FIELDS)
TIMES = ("starts_at", "ends_at")


@dataclass
class ScheduleForm(Form):
    """With errors, `spec` is None."""

    FIELDS = FIELDS
    spec: Optional[ScheduleSpec] = None

    @classmethod
    def empty(cls, job: Optional[SubmitForm] = None) -> ScheduleForm:
        """An empty form, or one with the fields of a job."""
        values = {**dict.fromkeys(FIELDS, ""), "repeat": "cron", "overlap": "skip", "catch_up": "last", "env_of": ""}
        values["tz"] = times.zone_name()
        if job is not None:
            values.update({name: job.values[name] for name in (*JOB_FIELDS, "env_of")})
        return cls(values)

    @classmethod
    def of_spec(cls, spec: ScheduleSpec) -> ScheduleForm:
        """Filled in from a schedule. Values that look like secrets are masked."""
        job, timing, form = spec.job, spec.timing, cls.empty()
        form.values.update(
            name=timing.name,
            repeat="cron" if timing.cron is not None else "every",
            cron=timing.cron or "",
            every="" if timing.every is None else short(timing.every),
            tz=timing.tz,
            spread=short(timing.spread),
            starts_at=_local(timing.starts_at),
            ends_at=_local(timing.ends_at),
            overlap=spec.overlap,
            catch_up=spec.catch_up,
            catch_up_window="0s" if spec.catch_up_window == 0 else short(spec.catch_up_window or 0),
            catch_up_max=str(spec.catch_up_max) if spec.catch_up == "all" else "",
            not_later_than=time_of_day(spec.not_later_than) or "",
            late_after=short(spec.late_after),
            failing_after=str(spec.failing_after),
            note=spec.note,
            owner=spec.owner,
            command=job.command,
            queue="" if job.queue == "default" else job.queue,
            priority=str(job.priority) if job.priority else "",
            requires=", ".join(job.requires),
            max_retries="" if job.max_retries is None else str(job.max_retries),
            timeout="" if job.timeout is None else f"{job.timeout:g}",
            cwd=job.cwd or "",
            env=env_values.as_lines(job.env),
            env_of=f"schedule:{timing.name}",
            notify=", ".join(job.notify),
            limits=", ".join(job.limits),
            retry=as_lines(job.retry),
            **unique_values(job.unique),
        )
        return form

    @classmethod
    def read(
        cls, sent: Mapping[str, str], stored: Mapping[str, str], *, anchor: Optional[int] = None, enabled: bool = True
    ) -> ScheduleForm:
        """Read and check the submitted values. `stored`: the variables that masked lines stand for; `anchor`: of the
        schedule that the form edits."""
        form = cls({name: sent.get(name, "") for name in (*FIELDS, "env_of")})
        values = form.values
        values["repeat"] = "every" if values["repeat"] == "every" else "cron"
        job = SubmitForm.read({name: values[name] for name in JOB_FIELDS}, stored)
        form.errors.update({name: text for name, text in job.errors.items() if name in JOB_FIELDS})
        described = form._described(job.specs[0] if job.specs else JobSpec(command="true"))
        described.update(
            enabled=enabled, anchor=clock.to_iso(anchor) if anchor and values["repeat"] == "every" else None
        )
        try:
            spec = parse(described)
        except SpecError as error:
            form.take(error)
        else:
            form.spec = spec if not form.errors else None
        if values["repeat"] == "every":
            form.errors.pop("cron", None)  # this field is hidden
        form.sort_errors()
        return form

    def _described(self, job: JobSpec) -> dict[str, Any]:
        other = "every" if self.values["repeat"] == "cron" else "cron"
        found: dict[str, Any] = {
            name: self.values[name].strip()
            for name in SCHEDULE_FIELDS
            if name not in {"repeat", other, *TIMES} and self.values[name].strip()
        }
        for name in TIMES:
            if self.values[name].strip():
                self._read_time(name, found)
        if self.values["repeat"] == "every" and "every" not in found:
            self.errors["every"] = "Is missing. Enter an interval such as 15m."
        return {**found, "job": job_to_json(job)}

    def _read_time(self, name: str, found: dict[str, Any]) -> None:
        try:
            found[name] = times.parse_form(self.values[name].strip())
        except ValueError as error:
            self.errors[name] = str(error)


def _local(micros: Optional[int]) -> str:
    """The value of a datetime-local field."""
    return "" if micros is None else f"{times.local(micros):%Y-%m-%dT%H:%M}"
