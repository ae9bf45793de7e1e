"""Reads the submit form into a job spec. Most error messages come from `core/job_spec.py`.

The form accepts more than JSON: the environment as lines, times in the user's time zone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, ClassVar, Optional

from webapp.console.display import env_values, times
from webapp.core import labels, trace_context
from webapp.core.flow import limits, retry_rules
from webapp.core.flow.unique_keys import Unique
from webapp.core.job_spec import NAME, NAME_RULE, JobSpec, SpecError, parse, read_env
from webapp.core.labels import LabelSet
from webapp.db.models import Job
from webapp.jobs.editing import FIELDS as EDITABLE
from webapp.lib import clock
from webapp.lib.durations import short
from webapp.lib.text import capitalize, unix_lines

MOST_LINES = 5000  # jobs per form
SHOWN_LINES = 5  # invalid lines named in the message
FIELDS = (
    "command", "id", "queue", "priority", "requires", "start", "delay", "run_at", "max_retries", "timeout", "cwd",
    "env", "notify", "limits", "unique", "unique_while", "on_conflict", "retry", "after", "batch",
)  # fmt: skip
STARTS = ("now", "delay", "run_at")


@dataclass
class Form:
    """The typed values of a form, and its errors by field. FIELDS: their names, in page order."""

    FIELDS: ClassVar[Sequence[str]] = ()
    values: dict[str, str]
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def problems(self) -> dict[str, str]:
        """The error of each field, or ''."""
        return {name: self.errors.get(name, "") for name in self.FIELDS}

    def take(self, error: SpecError) -> None:
        """Note the errors of what the form describes, the first of each field."""
        for one in error.errors:
            self.errors.setdefault(one.field.removeprefix("job."), capitalize(one.message))
        self.sort_errors()

    def sort_errors(self) -> None:
        self.errors = {name: self.errors[name] for name in self.FIELDS if name in self.errors}

    def saves(self, act: Callable[..., object], *arguments: object) -> bool:
        """Call an operation. False: it raised SpecError, whose errors are noted."""
        try:
            act(*arguments)
        except SpecError as error:
            self.take(error)
            return False
        return True


@dataclass
class SubmitForm(Form):
    """With the value `many`, each line is a job.

    `stored`: the variables that masked lines of the environment stand for. The value `env_of` says whose they are.
    """

    FIELDS = FIELDS
    specs: list[JobSpec] = field(default_factory=list)
    stored: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_options(self) -> bool:
        """Whether a field other than command and queue has a value or an error."""
        values = {**self.values, "start": self.values["start"] != "now"}
        return any(values[name] or name in self.errors for name in FIELDS if name not in ("command", "queue"))

    @classmethod
    def empty(cls) -> SubmitForm:
        return cls({**dict.fromkeys(FIELDS, ""), "start": "now", "many": "", "env_of": ""})

    @classmethod
    def of_job(cls, job: Job, *, keep_trace: bool = False) -> SubmitForm:
        """Filled in from a job, without its id and start time. Values that look like secrets are masked.

        Not `keep_trace`: a new job is no part of its trace.
        """
        form = cls.empty()
        env = env_values.of_job(job)
        if not keep_trace:
            env.pop(trace_context.VARIABLE, None)
        form.values.update(
            command=job.command,
            queue="" if job.queue == "default" else job.queue,
            priority=str(job.priority) if job.priority else "",
            requires=", ".join(labels.split(job.requires)),
            limits=", ".join(map(str, limits.split(job.limits))),
            max_retries="" if job.max_retries is None else str(job.max_retries),
            timeout="" if job.timeout is None else f"{job.timeout:g}",
            cwd=job.cwd or "",
            env=env_values.as_lines(env),
            env_of=f"job:{job.id}",
            unique=job.unique_key or "",
            unique_while=_scope_of(job),
            retry=as_lines(job.retry),
        )
        return form

    @classmethod
    def read(cls, sent: Mapping[str, str], stored: Mapping[str, str]) -> SubmitForm:
        """Read and check the submitted values. With errors, `specs` is empty."""
        values = {name: sent.get(name, "") for name in FIELDS}
        values["many"] = "on" if sent.get("many") else ""
        values["start"] = values["start"] if values["start"] in STARTS else "now"
        values["env_of"] = sent.get("env_of", "")
        form = cls(values, stored=stored)
        commands = form.lines if values["many"] else []
        specs = form._parse(commands[0] if commands else form.command)
        if values["many"]:
            specs = form._of_lines(specs)
        if form.batch and not NAME.match(form.batch):
            form.errors["batch"] = f"Is not a name; expected {NAME_RULE}."
        form.sort_errors()
        form.specs = [] if form.errors else specs
        return form

    @property
    def command(self) -> str:
        return unix_lines(self.values["command"])  # browsers send CRLF

    @property
    def changes(self) -> dict[str, Any]:
        """The values as changes of a job: an empty field restores the default."""
        return {**dict.fromkeys(EDITABLE), **self._description(), "command": self.command}

    @property
    def batch(self) -> str:
        """The name of a batch for the jobs, or ''."""
        return self.values["batch"].strip()

    @property
    def lines(self) -> list[str]:
        """The command's lines without blank ones."""
        return [line.strip() for line in self.command.split("\n") if line.strip()]

    @property
    def backoff(self) -> Optional[retry_rules.Backoff]:
        """That of the retry rules, if these are valid."""
        try:
            return retry_rules.parse(self.values["retry"]).backoff
        except ValueError:
            return None

    @property
    def label_set(self) -> Optional[LabelSet]:
        """The queue and required labels of the job, or None if they are invalid."""
        asked = {name: self.values[name].strip() or None for name in ("queue", "requires")}
        try:
            spec = parse({"command": "true", **asked})
        except SpecError:
            return None
        return LabelSet(spec.queue, labels.text_of(spec.requires))

    def _parse(self, command: str) -> list[JobSpec]:
        """The job with this command. On errors, fill `errors` and return []."""
        try:
            return [parse({**self._description(), "command": command})]
        except SpecError as error:
            self.take(error)
            return []

    def _of_lines(self, specs: list[JobSpec]) -> list[JobSpec]:
        """One job per line, with the same other fields."""
        commands = self.lines
        self.errors.pop("command", None)  # reported by line below
        if len(commands) > 1 and self.values["id"].strip():
            self.errors["id"] = f"An id applies to one job, but there are {len(commands):,} jobs. Leave it empty."
        faults = [] if len(commands) > MOST_LINES else list(self._faults())
        if not commands:
            self.errors["command"] = "Is empty. Expected one command per line."
        elif len(commands) > MOST_LINES:
            self.errors["command"] = f"Has {len(commands):,} lines. At most {MOST_LINES:,} are allowed."
        elif faults:
            more = f" And {len(faults) - SHOWN_LINES:,} more." if len(faults) > SHOWN_LINES else ""
            self.errors["command"] = " ".join(faults[:SHOWN_LINES]) + more
        return [spec._replace(command=command) for spec in specs for command in commands]

    def _faults(self) -> Iterator[str]:
        for number, line in enumerate(self.command.split("\n"), 1):
            if line.rstrip().endswith("\\"):
                yield f"Line {number} ends with a backslash. Each line must be a complete command."
            elif line.strip():
                try:
                    parse({"command": line.strip()})
                except SpecError as error:
                    yield f"Line {number}: {error.errors[0].message}"

    def _description(self) -> dict[str, Any]:
        """The mapping for `job_spec.parse`, without the command and without empty fields."""
        values = self.values
        plain = ("id", "queue", "requires", "cwd", "timeout", "notify", "limits", "after")
        found: dict[str, Any] = {name: values[name].strip() or None for name in plain}
        for name in ("priority", "max_retries"):
            found[name] = self._read(name, _whole)
        if values["start"] == "delay":
            found["delay"] = self._read("delay", str, "Is missing. Enter a delay.")
        if values["start"] == "run_at":
            found["run_at"] = self._read("run_at", times.parse_form, "Is missing. Enter a time.")
        found["env"] = self._environment(values["env"])
        found["retry"] = unix_lines(values["retry"]).strip() or None
        if values["unique"].strip():
            scope = values["unique_while"].strip() or None
            rule = values["on_conflict"] or None
            found["unique"] = {"key": values["unique"].strip(), "while": scope, "on_conflict": rule}
        elif values["unique_while"].strip():
            self.errors["unique"] = "Is missing. Enter a key, or clear 'Held while'."
        return {name: value for name, value in found.items() if value is not None and name not in self.errors}

    def _read(self, name: str, parser: Callable[[str], Any], missing: str = "") -> Any:
        """The parsed value, or None. `missing` is the error for an empty field."""
        text = self.values[name].strip()
        try:
            if text:
                return parser(text)
        except ValueError as error:
            self.errors[name] = str(error)
        if not text and missing:
            self.errors[name] = missing
        return None

    def _environment(self, text: str) -> Optional[dict[str, str]]:
        try:
            typed = read_env(line for line in unix_lines(text).split("\n") if line.strip())
            return env_values.with_stored(typed, self.stored) or None
        except ValueError as error:
            self.errors["env"] = str(error)
            return None


def as_lines(retry: Optional[str]) -> str:
    """Stored retry rules as a form shows them."""
    return "\n".join(retry_rules.stored(retry).lines)


def unique_values(unique: Optional[Unique]) -> dict[str, str]:
    """The fields of a form for a unique key."""
    if unique is None:
        return {}
    scope = short(int(unique.seconds)) if unique.seconds else unique.while_
    usual = scope == "unfinished"
    return {"unique": unique.key, "unique_while": "" if usual else scope, "on_conflict": unique.on_conflict}


def _scope_of(job: Job) -> str:
    """How long a job holds its key, as a form shows it."""
    if job.unique_until is not None:
        return short((job.unique_until - job.created_at) // clock.SECOND)
    return "waiting" if job.unique_while in ("waiting", "started") else ""


def _whole(text: str) -> Any:
    """An int; other text is returned as it is, for the error message."""
    try:
        return int(text)
    except ValueError:
        return text
