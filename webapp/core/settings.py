"""The settings that people may change while the queue runs: type, bounds, default and help of each, and all values.

A queue may have its own value of the settings in PER_QUEUE. Its key is then `keep_completed@mail`.

The `settings` table has one row for each changed setting. Workers read it again when the control row's revision has
grown. `jobs/settings.py` changes settings.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Optional, Union

from webapp.lib import durations

Number = Union[int, float]
_NUMBER = {int: re.compile(r"-?[0-9]+"), float: re.compile(r"-?[0-9]*\.?[0-9]+")}


class SettingError(ValueError):
    """An unknown setting, or a value out of its bounds; the message says what is allowed."""


class UnknownSetting(SettingError):
    """There is no setting with this name."""


@dataclass(frozen=True)
class Definition:
    """One setting. Bounds are inclusive; `unit` is a word for people."""

    key: str
    kind: type
    default: Number
    lowest: Number
    highest: Number
    unit: str
    help: str

    @property
    def base(self) -> str:
        """The key without the queue."""
        return self.key.partition("@")[0]

    @property
    def queue(self) -> Optional[str]:
        """The queue whose own value this is; None: the value of all queues."""
        return self.key.partition("@")[2] or None

    @property
    def allowed(self) -> str:
        """Type and bounds in words: 'a whole number from 0 to 1000'."""
        kind = "a whole number" if self.kind is int else "a number"
        return f"{kind} from {self.tidy(self.lowest)} to {self.tidy(self.highest)}"

    def tidy(self, value: Number) -> Number:
        """3 instead of 3.0, as a person types it."""
        return int(value) if value == int(value) else value

    def parse(self, text: object) -> Number:
        """Read a value from a person or a program; of seconds also a duration such as 10m. Raises SettingError."""
        typed = str(text).strip()
        if self.unit == "seconds" and typed[-1:].isalpha():
            with suppress(ValueError):
                typed = f"{durations.parse(typed):f}"
        plain = _NUMBER[self.kind].fullmatch(typed)  # int() alone also takes 1_0 and digits of any script
        try:
            value: Number = self.kind(plain.group()) if plain else math.nan
        except ValueError:  # more digits than Python converts
            value = math.nan
        if not self.lowest <= value <= self.highest:  # also false for nan
            raise SettingError(f"{self.key}: {text!r} is not allowed; expected {self.allowed}.")
        return self.tidy(value)


_YEAR = 365  # days

DEFINITIONS: Mapping[str, Definition] = {
    definition.key: definition
    for definition in (
        Definition("max_retries", int, 3, 0, 1000, "retries", "Retries after the first attempt, for jobs without their own number."),
        Definition("backoff_base", float, 2.0, 1.0, 100.0, "seconds", "The wait before a retry: backoff_base to the power of the failures so far. With 2: 2, 4, 8 … seconds."),
        Definition("backoff_max", float, 3600.0, 1.0, 30.0 * 86400, "seconds", "The longest wait before a retry, without jitter."),
        Definition("backoff_jitter", float, 0.1, 0.0, 1.0, "fraction", "The largest random addition to a wait, as a fraction of it. It spreads retries of jobs that failed together."),
        Definition("job_timeout", float, 0.0, 0.0, 30.0 * 86400, "seconds", "An attempt that runs longer is stopped and fails. For jobs without their own timeout. 0: no limit."),
        Definition("kill_grace", float, 5.0, 0.0, 3600.0, "seconds", "How long a command may take to stop after TERM, before it is killed."),
        Definition("shutdown_grace", float, 30.0, 0.0, 86400.0, "seconds", "How long a worker waits for running commands at shutdown (Ctrl-C or TERM). After that, their jobs return to the queue."),
        Definition("output_limit", int, 256 * 1024, 1024, 16 * 1024 * 1024, "bytes", "Output kept per attempt: the first and the last half of this. The rest is dropped."),
        Definition("job_memory_limit", int, 0, 0, 2**24, "MiB", "Memory for an attempt with all its processes. Processes that need more are killed. 0: no limit. Run doctor to see what a machine supports."),
        Definition("job_process_limit", int, 0, 0, 1_000_000, "processes", "Processes and threads of an attempt at one time, including its shell. 0: no limit. Run doctor to see what a machine supports."),
        Definition("lease", float, 30.0, 5.0, 3600.0, "seconds", "A worker without a heartbeat for this long is presumed dead. Its jobs return to the queue."),
        Definition("keep_completed", int, 30, 0, 100 * _YEAR, "days", "Completed jobs are deleted after this many days. 0: never."),
        Definition("keep_cancelled", int, 30, 0, 100 * _YEAR, "days", "Cancelled jobs are deleted after this many days. 0: never."),
        Definition("keep_dead", int, 0, 0, 100 * _YEAR, "days", "Dead letters are deleted after this many days. 0: never."),
        Definition("keep_output", int, 0, 0, 100 * _YEAR, "days", "The output of completed and cancelled jobs is deleted after this many days; the jobs stay. 0: as long as the job."),
        Definition("keep_fires", int, 90, 0, 100 * _YEAR, "days", "Fires are deleted from the ledger of their schedule after this many days. 0: never."),
        Definition("keep_deliveries", int, 90, 0, 100 * _YEAR, "days", "Notification messages are deleted from the history after this many days. 0: never."),
        Definition("keep_audit", int, 365, 0, 100 * _YEAR, "days", "Audit entries are deleted after this many days. 0: never."),
        Definition("max_database_size", int, 0, 0, 2**30, "MiB", "When the database is larger, the oldest output of completed and cancelled jobs is deleted, then the oldest of these jobs. Dead letters and unfinished jobs stay. 0: no limit."),
    )
}  # fmt: skip
PER_QUEUE = ("keep_completed", "keep_cancelled", "keep_dead", "keep_output")


class Settings:
    """All values at one moment: `settings.max_retries`, `settings.backoff_base` …"""

    max_retries: int
    backoff_base: float
    backoff_max: float
    backoff_jitter: float
    job_timeout: float
    kill_grace: float
    shutdown_grace: float
    output_limit: int
    job_memory_limit: int
    job_process_limit: int
    lease: float
    keep_completed: int
    keep_cancelled: int
    keep_dead: int
    keep_output: int
    keep_audit: int
    max_database_size: int
    keep_fires: int
    keep_deliveries: int

    def __init__(self, changed: Optional[Mapping[str, str]] = None) -> None:
        """`changed` maps names to JSON texts, as the table has them. Unknown names are ignored."""
        for key, definition in DEFINITIONS.items():
            value = json.loads(changed[key]) if changed and key in changed else definition.default
            setattr(self, key, definition.tidy(value))
        self.own: dict[str, dict[str, int]] = {key: {} for key in PER_QUEUE}
        for name, text in (changed or {}).items():
            key, _, queue = name.partition("@")
            if queue and key in self.own:
                self.own[key][queue] = json.loads(text)

    def keep(self, key: str, queue: str) -> int:
        """The days of a setting in PER_QUEUE for one queue; 0: for ever."""
        days: int = getattr(self, key)
        return self.own[key].get(queue, days)


def define(key: str) -> Definition:
    """Raises SettingError, which suggests the nearest known setting. The default of a queue's own value is not here."""
    if key in DEFINITIONS:
        return DEFINITIONS[key]
    base, at, queue = key.partition("@")
    if at and queue and base in DEFINITIONS:
        if base not in PER_QUEUE:
            raise SettingError(f"{base} has one value for all queues. Per queue: {', '.join(PER_QUEUE)}.")
        found = DEFINITIONS[base]
        return replace(found, key=key, help=f"Only for jobs of queue {queue}. {found.help}")
    import difflib  # only for this message: a start should not load it

    near = difflib.get_close_matches(key, DEFINITIONS, n=1)
    hint = f"Did you mean {near[0]}?" if near else f"Known settings: {', '.join(DEFINITIONS)}."
    raise UnknownSetting(f"unknown setting {key!r}. {hint}")
